"""What a pilot on a share of the candidates says of the whole: worth its cost, or not, and why."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import polars as pl

from miniplm_assets.core.ranking import kept_sequences

QUANTILES: Final = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def judge_pilot(
    candidates: pl.DataFrame,
    *,
    teacher_scores: pl.DataFrame,
    reference_scores: pl.DataFrame,
    keep_fraction: float | None,
    token_budget: int | None,
    share: float,
    **ranking: Any,
) -> dict[str, Any]:
    """Measure a pilot.

    Args:
        candidates: sequence_id, domain, num_tokens of the pilot's sequences.
        teacher_scores: sequence_id, logprob_nats, num_scored_tokens of the same.
        reference_scores: the same under the reference.
        keep_fraction: as the selection's.
        token_budget: as the selection's; a share of it is what the pilot keeps.
        share: of the candidates that the pilot holds.
        ranking: as the selection's; see `best_first`.

    Returns:
        num_sequences, num_tokens; mean_, spread_ (standard deviation) and quantiles_nats_per_token (one row) of the
        difference; share_below_zero; rank_correlation_with_teacher and _with_reference: Spearman of the differences
        with each model's own NLL a token; domains: one row for each domain, its share of the tokens before and after.
    """
    per_token = pl.col("logprob_nats") / pl.when(pl.col("num_scored_tokens") > 0).then(pl.col("num_scored_tokens"))
    losses = (
        candidates.join(teacher_scores.select("sequence_id", teacher=-per_token), on="sequence_id", validate="1:1")
        .join(reference_scores.select("sequence_id", reference=-per_token), on="sequence_id", validate="1:1")
        .drop_nulls()
        .with_columns(difference=pl.col("reference") - pl.col("teacher"))
    )
    difference = losses["difference"]
    kept = kept_sequences(
        candidates,
        teacher_scores=teacher_scores,
        reference_scores=reference_scores,
        keep_fraction=keep_fraction,
        token_budget=None if token_budget is None else max(1, round(token_budget * share)),
        **ranking,
    )
    return {
        "num_sequences": len(candidates),
        "num_tokens": int(candidates["num_tokens"].sum()),
        "mean_difference_nats_per_token": difference.mean(),
        "spread_nats_per_token": difference.std(),
        "quantiles_nats_per_token": [{f"{100 * one:g} %": difference.quantile(one) for one in QUANTILES}],
        "share_below_zero": (difference < 0).mean(),
        **{
            f"rank_correlation_with_{who}": losses.select(pl.corr("difference", who, method="spearman")).item()
            for who in ("teacher", "reference")
        },
        "domains": _domains(candidates, kept),
    }


def _domains(candidates: pl.DataFrame, kept: set[int]) -> list[dict[str, Any]]:
    marked = candidates.with_columns(
        is_kept=pl.col("sequence_id").is_in(pl.Series(list(kept), dtype=pl.Int64).implode())
    )
    tokens = pl.col("num_tokens").cast(pl.Int64)
    by_domain = marked.group_by("domain").agg(before=tokens.sum(), after=tokens.filter(pl.col("is_kept")).sum())
    return (
        by_domain.select(
            "domain",
            share_of_candidate_tokens=pl.col("before") / pl.col("before").sum(),
            share_of_kept_tokens=pl.col("after") / pl.col("after").sum(),
        )
        .with_columns(token_share_change=pl.col("share_of_kept_tokens") - pl.col("share_of_candidate_tokens"))
        .sort("token_share_change", "domain")
        .to_dicts()
    )


def reasons_against(measures: Mapping[str, Any], limits: Mapping[str, float]) -> Iterator[str]:
    """Say what speaks against scoring the whole corpus.

    Args:
        measures: what `judge_pilot` returns.
        limits: max_share_below_zero, min_spread_nats_per_token, max_rank_correlation_with_one_model.
    """
    below, spread = measures["share_below_zero"], measures["spread_nats_per_token"]
    if below > limits["max_share_below_zero"]:
        yield (
            f"the teacher finds {below:.1%} of the sequences harder than the reference does (at most "
            f"{limits['max_share_below_zero']:.1%} may): it is the weaker model, or scores other tokens"
        )
    if spread < limits["min_spread_nats_per_token"]:
        yield (
            f"the differences spread by {spread:.4f} nats a token (at least {limits['min_spread_nats_per_token']} are "
            "asked): the two models are too alike for the ranking to be more than noise"
        )
    for who in ("teacher", "reference"):
        found = measures[f"rank_correlation_with_{who}"]
        if abs(found) > limits["max_rank_correlation_with_one_model"]:
            yield (
                f"the ranking follows the {who}'s losses alone (Spearman {found:+.3f}, beyond "
                f"{limits['max_rank_correlation_with_one_model']}): take models nearer in size"
            )
