"""Fixed-width integer ids for documents and sequences.

An id is the start of the fingerprint of the shard's result, followed by the row's place in it: unique
over the corpus (checked where shards are joined), stable as long as the shard and the settings behind
it are unchanged, and never equal between two tokenizers or two corpora, so that scores of one cannot
be joined to sequences of the other.
"""

import numpy as np
from numpy.typing import NDArray

from miniplm_assets.core.errors import CorpusError

# 36 + 27 = 63 bits, so that an id is a non-negative BIGINT everywhere. 2^27 rows hold the largest files
# of the Pile (7 million documents) with room to spare; two of 10,000 shards share a prefix once in 1,400 corpora.
SHARD_BITS = 36
ROW_BITS = 27
MAX_ROWS_PER_SHARD = 1 << ROW_BITS


def row_ids(shard_fingerprint: str, *, num_rows: int, shard: str) -> NDArray[np.int64]:
    """Return the ids of the rows of one shard, in order.

    Args:
        shard_fingerprint: fingerprint of the shard's result, hexadecimal.
        num_rows: how many rows the shard has.
        shard: name of the shard, for the message.

    Returns:
        int64 of shape (num_rows,), increasing.

    Raises:
        CorpusError: if the shard has more rows than an id can number.
    """
    if num_rows > MAX_ROWS_PER_SHARD:
        raise CorpusError(
            f"shard {shard}: {num_rows:,} rows, but an id numbers at most {MAX_ROWS_PER_SHARD:,} in one file. "
            "Split the file."
        )
    return first_id(shard_fingerprint) + np.arange(num_rows, dtype=np.int64)


def first_id(shard_fingerprint: str) -> int:
    """Return the id of the first row of one shard, by the fingerprint of its result."""
    return int(shard_fingerprint[: SHARD_BITS // 4], 16) << ROW_BITS
