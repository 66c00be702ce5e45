"""Samples that everybody draws alike: by a hash of the sequence id, so that no order and no generator counts."""

from collections.abc import Iterable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from miniplm_assets.core.selection import is_kept


def hash_fractions(sequence_ids: NDArray[np.int64], *, seed: int) -> NDArray[np.float64]:
    """Return a number in [0, 1) for each id, as if drawn at random.

    The mixing function is splitmix64's (Steele et al. 2014, doi 10.1145/2660193).

    Args:
        sequence_ids: of shape (num_sequences,).
        seed: another one draws other numbers.
    """
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
        mixed = sequence_ids.astype(np.uint64) + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53


def with_share(rows: pl.DataFrame, *, share: float, seed: int) -> pl.DataFrame:
    """Return the rows whose `sequence_id` falls into a share of all; a larger share holds a smaller one."""
    return rows.filter(pl.Series(hash_fractions(rows["sequence_id"].to_numpy(), seed=seed) < share))


def drawn_ids(sequence_ids: pl.Series, count: int, *, seed: int) -> pl.Series:
    """Return the ids with the smallest hash, so many, in their order: the same ones whatever else is there."""
    rows = pl.DataFrame({"_id": sequence_ids, "_hash": hash_fractions(sequence_ids.to_numpy(), seed=seed)})
    return rows.sort("_hash", "_id").head(count)["_id"].sort().alias(sequence_ids.name)


def agreement_sample(
    differences: Iterable[pl.DataFrame], cutoff: dict[str, float], *, num_random: int, num_around_cutoff: int, seed: int
) -> pl.DataFrame:
    """Choose the candidates that are scored a second time.

    Args:
        differences: sequence_id, rank_difference and more, in any number of frames; one is held at a time.
        cutoff: cutoff_difference, cutoff_sequence_id.
        num_random: those with the smallest hash.
        num_around_cutoff: those nearest to the cutoff.
        seed: of the hash.

    Returns:
        The rows chosen, ordered by sequence_id, with the columns is_random, is_around_cutoff, is_kept.
    """
    random = around = None
    for rows in differences:
        ranked = rows.with_columns(
            is_kept(pl.col("rank_difference"), pl.col("sequence_id"), cutoff),
            pl.Series("_hash", hash_fractions(rows["sequence_id"].to_numpy(), seed=seed)),
            _distance=(pl.col("rank_difference") - cutoff["cutoff_difference"]).abs(),
        )
        random = _smallest(random, ranked, "_hash", num_random)
        around = _smallest(around, ranked, "_distance", num_around_cutoff)
    assert random is not None and around is not None  # a selection has at least one candidate
    return (
        pl.concat([random, around])
        .unique("sequence_id")
        .with_columns(
            is_random=pl.col("sequence_id").is_in(random["sequence_id"].implode()),
            is_around_cutoff=pl.col("sequence_id").is_in(around["sequence_id"].implode()),
        )
        .drop("_hash", "_distance")
        .sort("sequence_id")
    )


def _smallest(so_far: pl.DataFrame | None, more: pl.DataFrame, by: str, count: int) -> pl.DataFrame:
    rows = more if so_far is None else pl.concat([so_far, more])
    return rows.sort(by, "sequence_id").head(count)
