"""How alike two selections over the same candidates are: their decisions, and what they rank by.

The paper holds the ranking by a reference against that by a student so (arXiv 2410.17215, ablation of the reference):
Pearson, Spearman and the share of equal decisions.
"""

from typing import Any

import polars as pl


def paired(first: pl.DataFrame, second: pl.DataFrame) -> pl.DataFrame:
    """Return one row for each candidate, with what both say of it.

    Args:
        first: sequence_id, value (that ranks, the higher the better), is_kept.
        second: the same, of the same candidates.

    Returns:
        sequence_id; of each, as first_ and second_: value, place (the mean of those of equal values, as a share of all:
        towards 1 the best), is_kept.
    """

    def of(rows: pl.DataFrame, which: str) -> pl.DataFrame:
        return rows.select(
            "sequence_id",
            pl.col("value").alias(f"{which}_value"),
            (pl.col("value").rank("average") / pl.len()).alias(f"{which}_place"),
            pl.col("is_kept").alias(f"{which}_is_kept"),
        )

    return of(first, "first").join(of(second, "second"), on="sequence_id", validate="1:1")


def overlap(pairs: pl.DataFrame) -> dict[str, Any]:
    """Return how alike two selections are.

    Args:
        pairs: as `paired` gives them.
    """
    first, second = pl.col("first_is_kept"), pl.col("second_is_kept")
    counted = pairs.select(
        num_candidates=pl.len(),
        num_kept_by_first=first.sum(),
        num_kept_by_second=second.sum(),
        num_kept_by_both=(first & second).sum(),
        share_of_equal_decisions=(first == second).mean(),
        share_equal_by_chance=first.mean() * second.mean() + (1 - first.mean()) * (1 - second.mean()),
        jaccard=(first & second).sum() / (first | second).sum(),
        pearson=_correlation("value"),
        spearman=_correlation("place"),  # the correlation of the ranks
    )
    return counted.row(0, named=True)


def _correlation(of: str) -> pl.Expr:
    return pl.corr(f"first_{of}", f"second_{of}").fill_nan(None)  # of what does not vary there is none


def most_different(pairs: pl.DataFrame, count: int) -> pl.DataFrame:
    """Return those that only one keeps and that stand furthest apart in the two rankings, so many each way.

    Args:
        pairs: as `paired` gives them.
        count: at most, of those that the first alone keeps, and of those that the second alone keeps.

    Returns:
        The rows, with the columns `kept_by` (first, second) and `rank` (1: the furthest apart of its kind).
    """
    # In whole and half places, so that no rounding decides between equal ones.
    apart = ((pl.col("first_place") - pl.col("second_place")) * pl.len()).round(1)
    found = []
    for which, other, further in (("first", "second", apart), ("second", "first", -apart)):
        alone = pairs.filter(pl.col(f"{which}_is_kept") & ~pl.col(f"{other}_is_kept")).with_columns(_apart=further)
        best = alone.sort("_apart", "sequence_id", descending=[True, False]).head(count).drop("_apart")
        found.append(best.with_columns(kept_by=pl.lit(which), rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32)))
    return pl.concat(found)
