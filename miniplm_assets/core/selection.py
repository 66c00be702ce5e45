"""The cutoff of a selection: the last candidate that is kept, and what is kept down to it."""

from collections.abc import Mapping

import polars as pl


def is_kept(difference: pl.Expr, sequence_id: pl.Expr, cutoff: Mapping[str, float]) -> pl.Expr:
    """Return whether a candidate is at or above a cutoff, as `is_kept`.

    Args:
        difference: in the unit that ranks.
        sequence_id: decides between equal differences: the smaller one is kept.
        cutoff: cutoff_difference and cutoff_sequence_id, of the last one kept.
    """
    last, last_id = cutoff["cutoff_difference"], cutoff["cutoff_sequence_id"]
    return ((difference > last) | ((difference == last) & (sequence_id <= last_id))).alias("is_kept")
