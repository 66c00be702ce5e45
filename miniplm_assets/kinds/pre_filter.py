"""`<selection>/surviving_teacher_scores`: the teacher on what another selection keeps, where that is a pre_filter.

Where the teacher scores everything all the same, for a selection without pre_filter, its scores are taken from there.
The reference scores every candidate: it is small, and its scores are shared. What survives, and the reference's scores
of that, are SQL. Which candidates survive follows from the whole corpus, so that a new corpus file has all files scored
anew here; a pre_filter is for a corpus that stays, or for a teacher so dear that it pays all the same.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar, Final

import polars as pl

from miniplm_assets.core.recipe import key_of
from miniplm_assets.core.splits import CANDIDATE, VALIDATION
from miniplm_assets.experiment import Experiment
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.models import Who
from miniplm_assets.kinds.partial_scores import PartialRows, gates_of, partial_kinds, whole_of
from miniplm_assets.kinds.proxy import SAMPLED
from miniplm_assets.kinds.rankings import SURVIVING_REFERENCE_SCORES, SURVIVORS
from miniplm_assets.kinds.rescoring import RESCORED
from miniplm_assets.kinds.retokenised_scores import scores_of_everything
from miniplm_assets.kinds.scores import (
    Pass,
    max_sequence_tokens,
    rows_of,
    score_node,
    scored_by,
)
from miniplm_assets.lineage.kind import Blueprint, Node
from miniplm_assets.lineage.work import Work
from miniplm_assets.lm.score_shard import Choose

TEACHER: Final = "teacher"


class Amount(Settings):
    """How much a selection keeps."""

    keep_fraction: float | None = None
    token_budget: int | None = None


class SurvivingRows(PartialRows):
    """What survives a pre_filter, and the validation sequences.

    Attributes:
        amounts: that are kept of the candidates, one after the other; for the cost alone: what survives is an input.
    """

    runtime_only: ClassVar[frozenset[str]] = PartialRows.runtime_only | {"amounts"}

    amounts: tuple[Amount, ...]


def _nodes(blueprint: Blueprint, who: Who) -> Iterator[Node[SurvivingRows]]:
    experiment = blueprint.experiment
    for name, selection in experiment.selections.items():
        if who != TEACHER or selection.pre_filter is None:
            continue
        model = scored_by(experiment, selection, who)
        whole = whole_of(experiment, who, model[0])
        settings = SurvivingRows(
            scoring=model[1].scoring,
            max_sequence_tokens=max_sequence_tokens(experiment),
            amounts=tuple(amounts_of(experiment, selection.pre_filter)),
            whole=whole,
        )
        inputs = {SURVIVORS: key_of(SURVIVORS, name)}
        gates = gates_of(experiment, name, whole)
        yield score_node(SURVIVING_SCORES, name, who, model, settings, inputs=inputs, gates=gates)


def amounts_of(experiment: Experiment, name: str) -> Iterator[Amount]:
    """Go through what the selections before one keep, the first of them first, and what it keeps itself."""
    chosen = experiment.selections[name]
    if chosen.pre_filter is not None:
        yield from amounts_of(experiment, chosen.pre_filter)
    yield Amount(keep_fraction=chosen.keep_fraction, token_budget=chosen.token_budget)


def num_kept_tokens(num_tokens: float, amounts: Iterable[Amount]) -> float:
    """Return how many of so many tokens of candidates are left after selections, one after the other."""
    for amount in amounts:
        kept = num_tokens * amount.keep_fraction if amount.keep_fraction is not None else amount.token_budget
        num_tokens = min(num_tokens, kept or 0)
    return num_tokens


def _choose(work: Work[SurvivingRows]) -> Choose:
    survivors = pl.scan_parquet(work.input_tables(SURVIVORS), glob=False).select("sequence_id").collect()
    work.report(f"{work.node.key}: {len(survivors):,} sequences survive the pre_filter or are for validation")
    return rows_of(survivors["sequence_id"])


def _num_tokens(settings: SurvivingRows, per_split: Mapping[str, int]) -> float | None:
    return None if settings.whole is not None else _num_surviving(settings, per_split)


def _num_spared(settings: SurvivingRows, per_split: Mapping[str, int]) -> float:
    return per_split[CANDIDATE] + per_split[VALIDATION] - _num_surviving(settings, per_split)


def _num_surviving(settings: SurvivingRows, per_split: Mapping[str, int]) -> float:
    return num_kept_tokens(per_split[CANDIDATE], settings.amounts) + per_split[VALIDATION]


SURVIVING_SCORES = partial_kinds(
    Pass(
        prefix="surviving_",
        code_version="1",
        description="""One row for each candidate that survives a pre_filter: its log-probability under the {who}.

In nats. Validation sequences are scored too, on which the {who} is judged.""",
        nodes=_nodes,
        choose=_choose,
        num_tokens=_num_tokens,
        num_spared=_num_spared,
        spared_by="pre_filter",
        section="selection",
        is_view=True,
    )
)[TEACHER]


def scores_of(experiment: Experiment, name: str, who: Who) -> str:
    """Return the key of the teacher's or the reference's scores that a selection ranks by."""
    selection = experiment.selections[name]
    if selection.pre_filter is not None:
        return key_of(SURVIVING_SCORES.name if who == TEACHER else SURVIVING_REFERENCE_SCORES, name)
    if selection.proxy is not None:
        return key_of(SAMPLED[who].name, name)
    if selection.rescoring is not None:
        return key_of(RESCORED[who].name, name)
    return scores_of_everything(experiment, name, who)
