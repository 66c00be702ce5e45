"""Scores of some of the candidates: scored, or taken from the model's scores of everything, where those are there.

A selection that has a model score less than everything (`Selection.spares`) shares its scores with those that do not:
where one of them has the model score everything, nothing is scored twice.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import ClassVar, TypeVar

import polars as pl
import pyarrow.parquet as pq

from miniplm_assets.core.recipe import key_of
from miniplm_assets.experiment import Experiment
from miniplm_assets.kinds.models import Who
from miniplm_assets.kinds.scores import (
    PILOT,
    Pass,
    ScoredRows,
    add_means,
    is_spared,
    piloted,
    scores_key,
    scores_kinds,
)
from miniplm_assets.kinds.sequences import SEQUENCES
from miniplm_assets.lineage.kind import Kind
from miniplm_assets.lineage.work import Work
from miniplm_assets.lm.score_shard import encoding_of, sums_of
from miniplm_assets.storage.store import Draft, Result
from miniplm_assets.storage.tables import SCORES as SCORES_TABLE


class PartialRows(ScoredRows):
    """Some of the candidates, and the validation sequences.

    Attributes:
        whole: the key of the model's scores of everything, where the experiment has them: the same numbers.
    """

    runtime_only: ClassVar[frozenset[str]] = frozenset({"max_sequence_tokens", "whole"})

    whole: str | None


P = TypeVar("P", bound=PartialRows)


def whole_of(experiment: Experiment, who: Who, model: str) -> str | None:
    """Return the key of a model's scores of everything, None where no selection asks for them."""
    return None if is_spared(experiment, who, model) else scores_key(who, model)


def gates_of(experiment: Experiment, selection: str, whole: str | None) -> tuple[str, ...]:
    """Return what comes before the scores of some: the pilot's verdict, and the scores of everything to take from."""
    return (*([key_of(PILOT, selection)] if selection in piloted(experiment) else []), *([whole] if whole else []))


def partial_kinds(one: Pass[P]) -> dict[Who, Kind[P]]:
    """Return the kinds of a pass over some of the candidates, which are taken where they are there."""
    kinds = scores_kinds(one)
    return {who: replace(kind, make=partial(_make, one, kind.make)) for who, kind in kinds.items()}


def _make(one: Pass[P], score: Callable[[Work[P]], Result], work: Work[P]) -> Result:
    """Take the scores from those of everything, where they are there; else score."""
    key = work.settings.whole
    recipes = {} if key is None else work.fingerprints.pieces(key)
    found = {shard: result for shard, recipe in recipes.items() if (result := work.pipeline.store.find(recipe))}
    if work.is_stored or not found.keys() >= work.piece_recipes.keys():
        return score(work)
    assert one.choose is not None
    sequences, choose = work.input_pieces(SEQUENCES.name), one.choose(work)

    def write(shard: str, draft: Draft) -> None:
        whole = found[shard]
        scores = pl.read_parquet(whole.file(SCORES_TABLE), glob=False)
        rows = pl.scan_parquet(sequences[shard].file(SEQUENCES.table or ""), glob=False)
        split_and_domain = rows.select("sequence_id", "split", "domain").collect()
        with_split = scores.join(split_and_domain, on="sequence_id", validate="1:1", maintain_order="left")
        taken = choose(with_split)
        table = taken.select(scores.columns).to_arrow()
        pq.write_table(table, draft.path / SCORES_TABLE, **encoding_of(table.schema))
        # What it took when it was scored, so that what a plan says of another time does not follow from a copy.
        share = int(taken["num_scored_tokens"].sum()) / max(1, int(scores["num_scored_tokens"].sum()))
        draft.seconds = whole.manifest.seconds * share
        draft.facts = {
            "num_sequences": len(taken),
            "by_split_and_domain": sums_of(taken),
            "device_seconds": whole.facts["device_seconds"] * share,
        }

    return work.make_pieces(write, add_means)
