"""`<selection>/proxy_agreement`: a proxy held against the true differences of what it did not learn from: a gate."""

from collections.abc import Iterator
from typing import Literal

import polars as pl

from miniplm_assets.core.proxy import broken_limits, mark_held_out, summarise
from miniplm_assets.core.recipe import key_of
from miniplm_assets.core.splits import CANDIDATE
from miniplm_assets.experiment.selections import RankBy
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.proxy import HELD_OUT, PROXY_MODEL, proxies
from miniplm_assets.kinds.scores import scored_by
from miniplm_assets.kinds.sequences import SEQUENCES, sequences_key
from miniplm_assets.lineage.kind import ALL_FILES, Blueprint, Check, Kind, Node
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.manifest import CheckOutcome
from miniplm_assets.storage.store import Draft, Result

NAME = "proxy_agreement"

PROXY_AGREES = Check(
    "proxy_agrees",
    "A failure means that the proxy does not order the held-out candidates as teacher and reference do, by the limit "
    "of `proxy`: it has learnt too little, from too few, or there is no order to learn. Nothing else is predicted.",
)


class Judging(Settings):
    """What a proxy is judged by.

    Attributes:
        min_rank_correlation: the limit.
        rank_by: of the selection.
        order: which end of the ranking it keeps.
        keep_fraction: how much.
        token_budget: how much instead.
    """

    min_rank_correlation: float
    rank_by: RankBy
    order: Literal["highest", "lowest"]
    keep_fraction: float | None
    token_budget: int | None


def _nodes(blueprint: Blueprint) -> Iterator[Node[Judging]]:
    experiment = blueprint.experiment
    for name, proxy in proxies(experiment):
        selection = experiment.selections[name]
        _, reference = scored_by(experiment, selection, "reference")
        yield Node(
            kind=PROXY_AGREEMENT,
            names=(name,),
            inputs={PROXY_MODEL.name: proxy_key(name), SEQUENCES.name: sequences_key(reference.tokenizer)},
            settings=Judging(
                min_rank_correlation=proxy.min_rank_correlation,
                rank_by=selection.rank_by,
                order=selection.order,
                keep_fraction=selection.keep_fraction,
                token_budget=selection.token_budget,
            ),
        )


def proxy_key(selection: str) -> str:
    """Return the key of the proxy of a selection."""
    return key_of(PROXY_MODEL.name, selection)


def _make(work: Work[Judging]) -> Result:
    """Hold what the proxy predicts of the held-out sequences against what they have."""

    def write(draft: Draft) -> None:
        settings = work.settings
        held_out = pl.read_parquet(work.input(PROXY_MODEL.name).file(HELD_OUT), glob=False).rename(
            {"value": "difference_nats_per_token", "predicted_value": "predicted_difference_nats_per_token"}
        )
        num_tokens = work.input(SEQUENCES.name).facts["tokens_per_split"][CANDIDATE]
        share = settings.keep_fraction or min(1.0, (settings.token_budget or 0) / num_tokens)
        marked = mark_held_out(held_out, kept_share=share, rank_by=settings.rank_by, order=settings.order)
        marked.write_parquet(draft.path / "proxy_agreement.parquet")
        measures = summarise(marked)
        draft.facts = measures
        broken = list(broken_limits(measures, min_rank_correlation=settings.min_rank_correlation))
        draft.checks.append(
            CheckOutcome(
                name=PROXY_AGREES.name,
                passed=not broken,
                description="; ".join(broken) or "the proxy orders the held-out candidates alike",
                facts=measures,
            )
        )

    return work.make(write)


PROXY_AGREEMENT = Kind(
    name=NAME,
    code_version="1",
    section="selection",
    technologies=frozenset({"polars", "parquet"}),
    description="""What a proxy predicts of the scored candidates that it did not learn from, beside what they have.

The prediction of all others waits for its check, and so does the refined corpus.""",
    nodes=_nodes,
    make=_make,
    table=ALL_FILES,
    checks=(PROXY_AGREES,),
    columns={
        "sequence_id": "of the candidate",
        "num_scored_tokens": "tokens with a log-probability",
        "difference_nats_per_token": "by the teacher and the reference",
        "predicted_difference_nats_per_token": "by the proxy",
        "rank_difference": "the first in the unit that ranks",
        "predicted_rank_difference": "the second in the same",
        "would_be_kept": "whether the selection would keep it, if these were all candidates",
        "predicted_to_be_kept": "the same by what is predicted",
    },
)
