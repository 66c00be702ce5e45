"""The Parquet files of the corpus: their columns, and a writer that holds one row group at a time."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from miniplm_assets.core.identity import MAX_ROWS_PER_SHARD, first_id, row_ids
from miniplm_assets.storage.tables import CONTEXT_PLACES, CUT_ENDS

DOCUMENTS: Final = pa.schema(
    [
        ("document_id", pa.int64()),
        ("shard", pa.string()),
        ("line", pa.int64()),
        ("domain", pa.string()),
        ("split", pa.string()),
        ("text", pa.string()),
        ("num_bytes", pa.int64()),
    ]
)
REJECTED: Final = pa.schema(
    [
        ("shard", pa.string()),
        ("file", pa.string()),
        ("line", pa.int64()),
        ("reason", pa.string()),
        ("excerpt", pa.string()),
    ]
)
# Of documents whose language is looked for; of rejected rows, where duplicates are dropped.
LANGUAGE: Final = pa.schema([("language", pa.string())])
TWIN: Final = pa.schema([("twin_id", pa.int64()), ("similarity", pa.float32())])
# Documents that share words with what models are measured by.
CONTAMINATED: Final = pa.schema(
    [
        ("shard", pa.string()),
        ("line", pa.int64()),
        ("document_id", pa.int64()),
        ("domain", pa.string()),
        ("split", pa.string()),
        ("found_in", pa.string()),
        ("ngram", pa.string()),
        ("num_ngrams", pa.int64()),
    ]
)
SPAN: Final = pa.struct([("document_id", pa.int64()), ("char_start", pa.int64()), ("char_end", pa.int64())])
SEQUENCES: Final = pa.schema(
    [
        ("sequence_id", pa.int64()),
        ("shard", pa.string()),
        ("domain", pa.string()),
        ("split", pa.string()),
        ("num_tokens", pa.int32()),
        ("num_bytes", pa.int64()),
        ("token_ids", pa.list_(pa.int32())),
        ("spans", pa.list_(SPAN)),
        ("texts", pa.list_(pa.string())),
    ]
)
# Places in the sequence.
REFINED_SEQUENCES: Final = SEQUENCES.append(pa.field(CUT_ENDS, pa.list_(pa.int32())))
RETOKENISED_SEQUENCES: Final = pa.schema(
    [
        *(field for field in SEQUENCES if field.name not in ("spans", "texts")),
        (CONTEXT_PLACES, pa.list_(pa.int32())),
        ("num_scored_tokens", pa.int32()),
        ("num_scored_bytes", pa.int64()),
    ]
)
SCORED_BYTES: Final = pa.schema([("sequence_id", pa.int64()), ("num_scored_bytes", pa.int64())])
# Columns that repeat few values; a dictionary of texts or ids would only cost time.
_DICTIONARY_COLUMNS: Final = ("shard", "domain", "split", "reason", "file", "language")
# A reader holds a row group at once: small enough for many readers, large enough for fast scans.
ROW_GROUP_ROWS: Final = 16_384
ROW_GROUP_BYTES: Final = 32 << 20


class RowGroupWriter:
    """Writes a Parquet file row group by row group.

    Args:
        path: the file to write.
        schema: its columns.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        dictionary = [name for name in schema.names if name in _DICTIONARY_COLUMNS]
        self._writer = pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=dictionary)
        self._waiting: list[pa.Table] = []
        self._num_waiting_rows = self._num_waiting_bytes = 0

    def write(self, columns: Mapping[str, Any], *, num_rows_of_parts: Sequence[int] | None = None) -> None:
        """Add rows: a list or array for each column.

        Args:
            columns: by name.
            num_rows_of_parts: a row group ends with one of these parts of the rows; absent: with the last row.
        """
        table = pa.table(dict(columns), schema=self._schema)
        start = 0
        for num_rows in [table.num_rows] if num_rows_of_parts is None else num_rows_of_parts:
            if num_rows:
                self._add(table.slice(start, num_rows))
            start += num_rows

    def _add(self, table: pa.Table) -> None:
        self._waiting.append(table)
        self._num_waiting_rows += table.num_rows
        self._num_waiting_bytes += table.nbytes
        if self._num_waiting_rows >= ROW_GROUP_ROWS or self._num_waiting_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        table = pa.concat_tables(self._waiting)
        self._waiting = []
        self._num_waiting_rows = self._num_waiting_bytes = 0
        if table.num_rows:
            self._writer.write_table(table, row_group_size=table.num_rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None and self._waiting:
                self._flush()
        finally:
            self._writer.close()


class RowNumbers:
    """Hands out the ids of a shard's rows in order, for a shard whose number of rows is not known beforehand.

    Attributes:
        first: the first of them.
    """

    def __init__(self, shard_fingerprint: str, *, shard: str) -> None:
        self._shard_fingerprint = shard_fingerprint
        self._shard = shard
        self._num_rows = 0
        self.first = first_id(shard_fingerprint)

    def take(self, num_rows: int) -> NDArray[np.int64]:
        """Return the next ids, int64 of shape (num_rows,).

        Raises:
            CorpusError: if the shard has more rows than an id can number.
        """
        start = self._num_rows
        self._num_rows += num_rows
        if self._num_rows > MAX_ROWS_PER_SHARD:
            row_ids(self._shard_fingerprint, num_rows=self._num_rows, shard=self._shard)  # says what is wrong
        return self.first + np.arange(start, self._num_rows, dtype=np.int64)
