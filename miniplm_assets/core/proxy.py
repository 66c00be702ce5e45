"""Whether a proxy orders sequences as the differences do that it stands for, on some that it did not learn from."""

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl


def mark_held_out(held_out: pl.DataFrame, *, kept_share: float, rank_by: str, order: str) -> pl.DataFrame:
    """Say which of the held-out sequences would be kept by their true and by their predicted differences.

    Args:
        held_out: sequence_id, num_scored_tokens, difference_nats_per_token, predicted_difference_nats_per_token.
        kept_share: of them, rounded to whole sequences, at least one.
        rank_by: `nats_per_token` or `nats_per_sequence`.
        order: `highest` or `lowest`: which end is kept.

    Returns:
        The same with rank_difference and predicted_rank_difference, in the unit of rank_by, and would_be_kept and
        predicted_to_be_kept.
    """
    factor = pl.col("num_scored_tokens") if rank_by == "nats_per_sequence" else pl.lit(1)
    ranked = held_out.with_columns(
        rank_difference=pl.col("difference_nats_per_token") * factor,
        predicted_rank_difference=pl.col("predicted_difference_nats_per_token") * factor,
    )
    num_kept = max(1, round(kept_share * len(held_out)))
    for value, mark in (("rank_difference", "would_be_kept"), ("predicted_rank_difference", "predicted_to_be_kept")):
        best = ranked.sort(value, "sequence_id", descending=[order == "highest", False])["sequence_id"].head(num_kept)
        ranked = ranked.with_columns(pl.col("sequence_id").is_in(best.implode()).alias(mark))
    return ranked


def summarise(marked: pl.DataFrame) -> dict[str, Any]:
    """Return the measures of the held-out sequences.

    Args:
        marked: rows of `mark_held_out`.

    Returns:
        num_sequences; rank_correlation (Spearman) and linear_correlation (Pearson) of true and predicted differences,
        None where either are all alike; equal_selection_share: of the sequences that both keep or neither; by_chance:
        what that share would be of a proxy that knows nothing.
    """
    pair = ("rank_difference", "predicted_rank_difference")
    rank, linear = (marked.select(pl.corr(*pair, method=method)).item() for method in ("spearman", "pearson"))
    is_equal = pl.col("would_be_kept") == pl.col("predicted_to_be_kept")
    kept = float(marked["would_be_kept"].mean())  # type: ignore[arg-type]
    return {
        "num_sequences": len(marked),
        "rank_correlation": _number(rank),
        "linear_correlation": _number(linear),
        "equal_selection_share": marked.select(is_equal.mean()).item(),
        "by_chance": kept**2 + (1 - kept) ** 2,
    }


def _number(correlation: float | None) -> float | None:
    return correlation if correlation is not None and correlation == correlation else None


def broken_limits(measures: Mapping[str, Any], *, min_rank_correlation: float) -> Iterator[str]:
    """Say whether the proxy breaks its limit.

    Args:
        measures: what `summarise` returns.
        min_rank_correlation: the limit.
    """
    correlation = measures["rank_correlation"]
    if correlation is None:
        yield "the held-out sequences have no order: their true or their predicted differences are all alike"
    elif correlation < min_rank_correlation:
        yield f"rank correlation {correlation:.4f}, min_rank_correlation is {min_rank_correlation:g}"
