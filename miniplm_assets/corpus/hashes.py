"""What is kept of a document's text to know its twins by: some bytes for each, never the text."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

# Of BLAKE2b. With 96 bits, two of 10^10 texts that differ share a hash once in 10^9 corpora.
_TEXT_HASH: Final = np.dtype([("bucket", "<u4"), ("rest", "<u8")])
SCHEMA: Final = pa.schema([("text_bucket", pa.uint32()), ("text_rest", pa.uint64())])


@dataclass(frozen=True, kw_only=True)
class Hashes:
    """Hashes of some documents, in their order.

    Attributes:
        bucket: the first 32 bits of the hash of each text.
        rest: its other 64 bits.
    """

    bucket: NDArray[np.uint32]
    rest: NDArray[np.uint64]

    @classmethod
    def of(cls, texts: Sequence[str]) -> Self:
        """Return the hashes of texts: equal for texts that are the same to the byte, and for no others."""
        digests = (hashlib.blake2b(text.encode(), digest_size=_TEXT_HASH.itemsize).digest() for text in texts)
        hashes = np.frombuffer(b"".join(digests), dtype=_TEXT_HASH)
        return cls(bucket=hashes["bucket"].copy(), rest=hashes["rest"].copy())

    @classmethod
    def read(cls, file: Path) -> Self:
        """Return the hashes that a result keeps of its documents: its hashes.parquet."""
        table = pq.read_table(file, schema=SCHEMA)
        return cls(bucket=table["text_bucket"].to_numpy(), rest=table["text_rest"].to_numpy())

    def __len__(self) -> int:
        return len(self.bucket)

    def columns(self) -> dict[str, Any]:
        """Return the columns of the file that keeps them."""
        return {"text_bucket": self.bucket, "text_rest": self.rest}

    def taking(self, places: NDArray[np.int64]) -> Self:
        """Return those at some places."""
        return type(self)(bucket=self.bucket[places], rest=self.rest[places])
