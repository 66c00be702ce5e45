"""`<selection>/surviving_teacher_scores`: the teacher on what another selection keeps, where that is a pre_filter.

Where the teacher scores everything all the same, for a selection without pre_filter, its scores are taken from there.
The reference scores every candidate: it is small, and its scores are shared. What survives, and the reference's scores
of that, are SQL. Which candidates survive follows from the whole corpus, so that a new corpus file has all files scored
anew here; a pre_filter is for a corpus that stays, or for a teacher so dear that it pays all the same.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import ClassVar, Final

import polars as pl
import pyarrow.parquet as pq

from miniplm_assets.core.recipe import key_of
from miniplm_assets.core.splits import CANDIDATE, VALIDATION
from miniplm_assets.experiment import Experiment
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.models import Who
from miniplm_assets.kinds.rankings import SURVIVING_REFERENCE_SCORES, SURVIVORS
from miniplm_assets.kinds.rescoring import RESCORED
from miniplm_assets.kinds.scores import (
    PILOT,
    Pass,
    ScoredRows,
    add_means,
    is_spared,
    max_sequence_tokens,
    piloted,
    rows_of,
    score_node,
    scored_by,
    scores_key,
    scores_kinds,
)
from miniplm_assets.kinds.sequences import SEQUENCES
from miniplm_assets.lineage.kind import Blueprint, Node
from miniplm_assets.lineage.work import Work
from miniplm_assets.lm.score_shard import Choose, encoding_of, sums_of
from miniplm_assets.storage.store import Draft, Result
from miniplm_assets.storage.tables import SCORES as SCORES_TABLE

TEACHER: Final = "teacher"


class Amount(Settings):
    """How much a selection keeps."""

    keep_fraction: float | None = None
    token_budget: int | None = None


class SurvivingRows(ScoredRows):
    """What survives a pre_filter, and the validation sequences.

    Attributes:
        amounts: that are kept of the candidates, one after the other; for the cost alone: what survives is an input.
        whole: the key of the teacher's scores of everything, where the experiment has them: the same numbers.
    """

    runtime_only: ClassVar[frozenset[str]] = frozenset({"max_sequence_tokens", "amounts", "whole"})

    amounts: tuple[Amount, ...]
    whole: str | None


def _nodes(blueprint: Blueprint, who: Who) -> Iterator[Node[SurvivingRows]]:
    experiment = blueprint.experiment
    for name, selection in experiment.selections.items():
        if who != TEACHER or selection.pre_filter is None:
            continue
        model = scored_by(experiment, selection, who)
        whole = None if is_spared(experiment, model[0]) else scores_key(who, model[0])
        settings = SurvivingRows(
            scoring=model[1].scoring,
            max_sequence_tokens=max_sequence_tokens(experiment),
            amounts=tuple(_amounts(experiment, name)),
            whole=whole,
        )
        gates = (*([key_of(PILOT, name)] if name in piloted(experiment) else []), *([whole] if whole else []))
        inputs = {SURVIVORS: key_of(SURVIVORS, name)}
        yield score_node(SURVIVING_SCORES, name, who, model, settings, inputs=inputs, gates=gates)


def _amounts(experiment: Experiment, name: str) -> Iterator[Amount]:
    """Go through what the selections before one keep, the first of them first."""
    before = experiment.selections[name].pre_filter
    if before is not None:
        yield from _amounts(experiment, before)
        chosen = experiment.selections[before]
        yield Amount(keep_fraction=chosen.keep_fraction, token_budget=chosen.token_budget)


def _choose(work: Work[SurvivingRows]) -> Choose:
    survivors = pl.scan_parquet(work.input_tables(SURVIVORS), glob=False).select("sequence_id").collect()
    work.report(f"{work.node.key}: {len(survivors):,} sequences survive the pre_filter or are for validation")
    return rows_of(survivors["sequence_id"])


def _make(score: Callable[[Work[SurvivingRows]], Result], work: Work[SurvivingRows]) -> Result:
    """Take the scores of what survives from those of everything, where they are there; else score."""
    key = work.settings.whole
    recipes = {} if key is None else work.fingerprints.pieces(key)
    found = {shard: result for shard, recipe in recipes.items() if (result := work.pipeline.store.find(recipe))}
    if work.is_stored or not found.keys() >= work.piece_recipes.keys():
        return score(work)
    sequences, choose = work.input_pieces(SEQUENCES.name), _choose(work)

    def write(shard: str, draft: Draft) -> None:
        whole = found[shard]
        scores = pl.read_parquet(whole.file(SCORES_TABLE), glob=False)
        taken = choose(scores)
        table = taken.to_arrow()
        pq.write_table(table, draft.path / SCORES_TABLE, **encoding_of(table.schema))
        rows = pl.scan_parquet(sequences[shard].file(SEQUENCES.table or ""), glob=False)
        split_and_domain = rows.select("sequence_id", "split", "domain").collect()
        # What it took when it was scored, so that what a plan says of another time does not follow from a copy.
        share = int(taken["num_scored_tokens"].sum()) / max(1, int(scores["num_scored_tokens"].sum()))
        draft.seconds = whole.manifest.seconds * share
        draft.facts = {
            "num_sequences": len(taken),
            "by_split_and_domain": sums_of(taken.join(split_and_domain, on="sequence_id", validate="1:1")),
            "device_seconds": whole.facts["device_seconds"] * share,
        }

    return work.make_pieces(write, add_means)


def _num_tokens(settings: SurvivingRows, per_split: Mapping[str, int]) -> float | None:
    return None if settings.whole is not None else _num_surviving(settings, per_split)


def _num_spared(settings: SurvivingRows, per_split: Mapping[str, int]) -> float:
    return per_split[CANDIDATE] + per_split[VALIDATION] - _num_surviving(settings, per_split)


def _num_surviving(settings: SurvivingRows, per_split: Mapping[str, int]) -> float:
    num_tokens = float(per_split[CANDIDATE])
    for amount in settings.amounts:
        kept = num_tokens * amount.keep_fraction if amount.keep_fraction is not None else amount.token_budget
        num_tokens = min(num_tokens, kept or 0)
    return num_tokens + per_split[VALIDATION]


_SCORED = scores_kinds(
    Pass(
        prefix="surviving_",
        code_version="1",
        description="""One row for each candidate that survives a pre_filter: its log-probability under the {who}.

In nats. Validation sequences are scored too, on which the {who} is judged.""",
        nodes=_nodes,
        choose=_choose,
        num_tokens=_num_tokens,
        num_spared=_num_spared,
        section="selection",
        is_view=True,
    )
)[TEACHER]
SURVIVING_SCORES = replace(_SCORED, make=partial(_make, _SCORED.make))


def scores_of(experiment: Experiment, name: str, who: Who) -> str:
    """Return the key of the teacher's or the reference's scores that a selection ranks by."""
    selection = experiment.selections[name]
    if selection.pre_filter is not None:
        return key_of(SURVIVING_SCORES.name if who == TEACHER else SURVIVING_REFERENCE_SCORES, name)
    if selection.rescoring is not None:
        return key_of(RESCORED[who].name, name)
    return scores_key(who, selection.models[who])
