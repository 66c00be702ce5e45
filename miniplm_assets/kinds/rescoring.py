"""`<selection>/rescored_teacher_scores`, ...: the band around another selection's cutoff, scored again."""

from collections.abc import Iterator

import polars as pl

from miniplm_assets.core.recipe import key_of
from miniplm_assets.kinds.agreement import CUTOFF, DIFFERENCES, cutoff_of
from miniplm_assets.kinds.models import Who
from miniplm_assets.kinds.scores import (
    EARLIER,
    Pass,
    ScoredRows,
    max_sequence_tokens,
    rows_of,
    score_node,
    scored_by,
    scores_key,
    scores_kinds,
)
from miniplm_assets.lineage.kind import Blueprint, Node
from miniplm_assets.lineage.work import Work
from miniplm_assets.lm.score_shard import Choose


class BandRows(ScoredRows):
    """The candidates around a cutoff.

    Attributes:
        within_nats: distance from the cutoff, in the unit of its selection's rank_by.
    """

    within_nats: float


def _nodes(blueprint: Blueprint, who: Who) -> Iterator[Node[BandRows]]:
    experiment = blueprint.experiment
    for name, selection in experiment.selections.items():
        rescoring = selection.rescoring
        if rescoring is None:
            continue
        model = scored_by(experiment, selection, who)
        settings = BandRows(
            scoring=model[1].scoring.by(rescoring.backend, rescoring.dtype),
            max_sequence_tokens=max_sequence_tokens(experiment),
            within_nats=rescoring.within_nats,
        )
        inputs = {
            EARLIER: scores_key(who, model[0]),
            **{role: key_of(role, rescoring.around) for role in (DIFFERENCES, CUTOFF)},
        }
        yield score_node(RESCORED[who], name, who, model, settings, inputs=inputs)


def _choose(work: Work[BandRows]) -> Choose:
    cutoff, within = cutoff_of(work)["cutoff_difference"], work.settings.within_nats
    band = (
        pl.scan_parquet(work.input_tables(DIFFERENCES), glob=False)
        .filter((pl.col("rank_difference") - cutoff).abs() <= within)
        .select("sequence_id")
        .collect()["sequence_id"]
    )
    work.report(f"{work.node.key}: {len(band):,} candidates within {within:g} nats of the cutoff {cutoff:.4f}")
    return rows_of(band)


RESCORED = scores_kinds(
    Pass(
        prefix="rescored_",
        code_version="4",
        description="""One row for each sequence: its log-probability under the {who}, scored again around a cutoff.

The other sequences keep the scores of the first pass.""",
        nodes=_nodes,
        choose=_choose,
        num_tokens=lambda _settings, _per_split: None,  # before the first pass nobody knows how many lie in the band
        section="selection",
        is_merged=True,
        is_view=True,
    )
)
