"""Difference Sampling in its plainest form (arXiv 2410.17215, section 2.2): score, sort, keep the top.

The pipeline selects in SQL (dbt_like_sql), over any number of files and rows. This is the same rule over
frames in memory, written from the definition, for those who want to hold the one against the other.
"""

from collections.abc import Mapping
from fractions import Fraction

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


def kept_sequences(
    candidates: pl.DataFrame,
    *,
    teacher_scores: pl.DataFrame,
    reference_scores: pl.DataFrame,
    rank_by: str,
    keep_fraction: float | None = None,
    token_budget: int | None = None,
) -> set[int]:
    """Return the ids of the sequences that a selection keeps.

    difference = log p_teacher - log p_reference, positive where the teacher finds the text easier; the highest
    are kept, and of equal ones those with the smaller id.

    Args:
        candidates: `sequence_id`, `num_tokens`.
        teacher_scores: `sequence_id`, `logprob_nats`, `num_scored_tokens`.
        reference_scores: the same under the reference.
        rank_by: `nats_per_token` divides the difference by the scored tokens, `nats_per_sequence` does not.
        keep_fraction: share of the candidates, rounded down to whole sequences, at least one.
        token_budget: instead, keep the best until they hold this many tokens.
    """
    difference = pl.col("logprob_nats") - pl.col("logprob_nats_reference")
    if rank_by == "nats_per_token":
        difference = difference / pl.col("num_scored_tokens")
    ranked = (
        candidates.select("sequence_id", "num_tokens")
        .join(teacher_scores, on="sequence_id", validate="1:1")
        .join(reference_scores, on="sequence_id", validate="1:1", suffix="_reference")
        .select("sequence_id", "num_tokens", difference.alias("difference"))
        .sort("difference", "sequence_id", descending=[True, False])
    )
    if keep_fraction is not None:
        num_kept = max(1, int(Fraction(str(keep_fraction)) * len(ranked)))
    else:
        tokens_before = ranked["num_tokens"].cum_sum() - ranked["num_tokens"]
        num_kept = int((tokens_before < token_budget).sum())
    return set(ranked["sequence_id"].head(num_kept))
