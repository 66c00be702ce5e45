"""What a figure would have been on other text of the kind: the bootstrap over sequences (Efron 1979, Ann. Statist. 7).

Sequences are drawn with replacement, as many as there are, and the figure is taken anew. Two models that were measured
on the same sequences are drawn together, so that what makes a text hard for both cancels.
"""

from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from miniplm_assets.core.sampling import hash_fractions

# More sequences than these are put together at random into so many groups, which are then what is drawn: sums over
# groups vary as sums over their sequences do.
NUM_GROUPS: Final = 4_096
NUM_RESAMPLES: Final = 2_000
_AT_ONCE: Final = 100

Floats = NDArray[np.float64]
_GROUP_SEED: Final = 0


def in_groups(sequences: pl.DataFrame) -> pl.DataFrame:
    """Add up what was measured of sequences by group.

    Args:
        sequences: sequence_id, and columns of numbers.

    Returns:
        group (by the hash of the id, the same whoever asks), num_sequences, and the sums; in the order of the groups.
    """
    fractions = hash_fractions(sequences["sequence_id"].to_numpy(), seed=_GROUP_SEED)
    return (
        sequences.drop("sequence_id")
        .with_columns(pl.Series("group", (fractions * NUM_GROUPS).astype(np.int64)))
        .group_by("group")
        .agg(pl.len().cast(pl.Int64).alias("num_sequences"), pl.all().sum())
        .sort("group")
    )


def resampled_ratios(numerators: Floats, denominators: Floats, *, seed: int = 0) -> Floats:
    """Return the ratios of sums over groups, on groups drawn anew: the same draw for each column.

    Args:
        numerators: of shape (num_groups, num_figures), nats for example; at least one group.
        denominators: likewise, tokens for example; no group's are all 0.
        seed: another one draws other groups.

    Returns:
        Of shape (NUM_RESAMPLES, num_figures); the same each time.
    """
    random = np.random.default_rng(seed)
    num_groups = len(numerators)
    shares = np.full(num_groups, 1 / num_groups)
    ratios = []
    for _ in range(0, NUM_RESAMPLES, _AT_ONCE):
        drawn = random.multinomial(num_groups, shares, size=_AT_ONCE).astype(np.float64)
        ratios.append((drawn @ numerators) / (drawn @ denominators))
    return np.concatenate(ratios)
