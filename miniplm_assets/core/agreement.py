"""Whether two ways of scoring agree: by how much, in what order, and for how many sequences it would matter."""

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from miniplm_assets.core.selection import is_kept


def compare_scores(
    sample: pl.DataFrame,
    *,
    teacher_scores: pl.DataFrame,
    reference_scores: pl.DataFrame,
    cutoff: Mapping[str, Any],
) -> pl.DataFrame:
    """Hold the second scores of a sample against the first.

    Args:
        sample: sequence_id, teacher_logprob_nats, reference_logprob_nats, num_scored_tokens, rank_difference, is_kept,
            is_random, is_around_cutoff.
        teacher_scores: the second ones: sequence_id, logprob_nats.
        reference_scores: the same under the reference.
        cutoff: cutoff_difference, cutoff_sequence_id, rank_by.

    Returns:
        The sample with second_teacher_logprob_nats, second_reference_logprob_nats, second_rank_difference,
        teacher_error_nats_per_token and reference_error_nats_per_token (second - first), and would_flip: whether the
        second scores lie on the other side of the cutoff.
    """
    joined = sample
    for who, scores in (("teacher", teacher_scores), ("reference", reference_scores)):
        second = scores.select("sequence_id", pl.col("logprob_nats").alias(f"second_{who}_logprob_nats"))
        joined = joined.join(second, on="sequence_id", validate="1:1", maintain_order="left")
    assert len(joined) == len(sample), "a sequence of the sample was not scored again"
    num_tokens = pl.when(pl.col("num_scored_tokens") > 0).then(pl.col("num_scored_tokens"))
    second_difference = pl.col("second_teacher_logprob_nats") - pl.col("second_reference_logprob_nats")
    if cutoff["rank_by"] == "nats_per_token":
        second_difference = (second_difference / num_tokens).fill_null(0.0)
    return joined.with_columns(
        second_rank_difference=second_difference,
        **{
            f"{who}_error_nats_per_token": (
                (pl.col(f"second_{who}_logprob_nats") - pl.col(f"{who}_logprob_nats")) / num_tokens
            ).fill_null(0.0)
            for who in ("teacher", "reference")
        },
    ).with_columns(
        would_flip=is_kept(pl.col("second_rank_difference"), pl.col("sequence_id"), cutoff) != pl.col("is_kept")
    )


def summarise(compared: pl.DataFrame) -> dict[str, Any]:
    """Return the measures of one sample: differences in nats a token, Spearman, and the share that would flip.

    Args:
        compared: rows of `compare_scores`.
    """
    errors = {who: compared[f"{who}_error_nats_per_token"].abs() for who in ("teacher", "reference")}
    correlation = compared.select(pl.corr("rank_difference", "second_rank_difference", method="spearman")).item()
    return {
        "num_sequences": len(compared),
        **{f"mean_{who}_difference_nats_per_token": error.mean() for who, error in errors.items()},
        **{f"largest_{who}_difference_nats_per_token": error.max() for who, error in errors.items()},
        # Of rows that are all alike there is no order to agree on.
        "rank_correlation": correlation if correlation is not None and correlation == correlation else None,
        "flip_share": compared["would_flip"].mean(),
    }


def broken_limits(measures: Mapping[str, Any], limits: Mapping[str, float]) -> Iterator[str]:
    """Say which limits a sample breaks, with both numbers.

    Args:
        measures: what `summarise` returns for the random sample.
        limits: max_mean_difference_nats_per_token, max_difference_nats_per_token, min_rank_correlation,
            max_flip_share.
    """
    for who in ("teacher", "reference"):
        for measure, limit in (
            ("mean", "max_mean_difference_nats_per_token"),
            ("largest", "max_difference_nats_per_token"),
        ):
            found = measures[f"{measure}_{who}_difference_nats_per_token"]
            if found > limits[limit]:
                yield f"{measure} difference of the {who}: {found:.4g} nats a token, {limit} is {limits[limit]}"
    correlation = measures["rank_correlation"]
    if correlation is not None and correlation < limits["min_rank_correlation"]:
        yield f"rank correlation {correlation:.4f}, min_rank_correlation is {limits['min_rank_correlation']}"
    if measures["flip_share"] > limits["max_flip_share"]:
        yield f"{measures['flip_share']:.2%} of the selections flip, max_flip_share is {limits['max_flip_share']:.2%}"
