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

from miniplm_assets.corpus.signatures import signatures_of
from miniplm_assets.experiment.cleaning import NearDuplicates

# Of BLAKE2b. With 96 bits, two of 10^10 texts that differ share a hash once in 10^9 corpora.
_TEXT_HASH: Final = np.dtype([("bucket", "<u4"), ("rest", "<u8")])


@dataclass(frozen=True, kw_only=True)
class Hashes:
    """Hashes of some documents, in their order.

    Attributes:
        bucket: the first 32 bits of the hash of each text.
        rest: its other 64 bits.
        signatures: bytes of shape (documents, permutations); of no permutation where nobody asks what is much alike.
    """

    bucket: NDArray[np.uint32]
    rest: NDArray[np.uint64]
    signatures: NDArray[np.uint8]

    @classmethod
    def of(cls, texts: Sequence[str], near: NearDuplicates | None) -> Self:
        """Return the hashes of texts: equal for texts that are the same to the byte, and for no others."""
        digests = (hashlib.blake2b(text.encode(), digest_size=_TEXT_HASH.itemsize).digest() for text in texts)
        hashes = np.frombuffer(b"".join(digests), dtype=_TEXT_HASH)
        nothing = np.empty((len(texts), 0), dtype=np.uint8)
        return cls(
            bucket=hashes["bucket"].copy(),
            rest=hashes["rest"].copy(),
            signatures=nothing if near is None else signatures_of(texts, near),
        )

    @classmethod
    def read(cls, file: Path, near: NearDuplicates | None) -> Self:
        """Return the hashes that a result keeps of its documents: its hashes.parquet."""
        return cls.of_columns(pq.read_table(file, schema=hashes_schema(near)), near)

    @classmethod
    def of_columns(cls, table: pa.Table | pa.RecordBatch, near: NearDuplicates | None) -> Self:
        """Return the hashes that stand in the columns of a table."""
        num_bytes = 0 if near is None else near.num_permutations
        signatures = [np.empty((0 if num_bytes else table.num_rows, num_bytes), dtype=np.uint8)]
        column = table["signature"] if num_bytes else pa.chunked_array([], pa.binary())
        for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
            memory = np.frombuffer(chunk.buffers()[1], dtype=np.uint8)
            signatures.append(memory.reshape(-1, num_bytes)[chunk.offset : chunk.offset + len(chunk)])
        return cls(
            bucket=table["text_bucket"].to_numpy(),
            rest=table["text_rest"].to_numpy(),
            signatures=np.concatenate(signatures),
        )

    def __len__(self) -> int:
        return len(self.bucket)

    def columns(self) -> dict[str, Any]:
        """Return the columns of the file that keeps them."""
        columns: dict[str, Any] = {"text_bucket": self.bucket, "text_rest": self.rest}
        num_bytes = self.signatures.shape[1]
        if num_bytes:
            buffers = [None, pa.py_buffer(np.ascontiguousarray(self.signatures))]
            columns["signature"] = pa.FixedSizeBinaryArray.from_buffers(pa.binary(num_bytes), len(self), buffers)
        return columns

    def taking(self, places: NDArray[np.int64]) -> Self:
        """Return those at some places."""
        return type(self)(bucket=self.bucket[places], rest=self.rest[places], signatures=self.signatures[places])


def hashes_schema(near: NearDuplicates | None) -> pa.Schema:
    """Return the columns of hashes.parquet."""
    signature = [] if near is None else [("signature", pa.binary(near.num_permutations))]
    return pa.schema([("text_bucket", pa.uint32()), ("text_rest", pa.uint64()), *signature])
