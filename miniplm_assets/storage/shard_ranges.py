"""The ranges of sequence ids that the corpus files occupy.

All sequences of one corpus file have ids that stand together (`core.identity`), so that every table with
a `sequence_id` can be cut at the same places: what belongs together meets, in memory of one file's size.
The tables are cut by the ids that they hold, never by the names of their files.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final
from urllib.parse import quote

import duckdb
import pyarrow.parquet as pq

from miniplm_assets.core.errors import SqlError

SEQUENCE_ID: Final = "sequence_id"
MIN_ID, MAX_ID = -(2**63), 2**63 - 1
# File systems allow 255 bytes; the rest is for the ending and for names that are made beside it.
MAX_NAME_LENGTH: Final = 200


@dataclass(frozen=True)
class ShardRange:
    """The ids from one corpus file's first to the next one's; together the ranges hold every id there can be."""

    shard: str
    first_id: int
    last_id: int

    @property
    def file_name(self) -> str:
        """A file name for the shard's rows; no two shards share one."""
        name = quote(self.shard, safe=" ")
        if len(name) > MAX_NAME_LENGTH:
            digest = hashlib.sha256(self.shard.encode()).hexdigest()[:16]
            name = f"{name[: MAX_NAME_LENGTH - 17]}-{digest}"
        return f"{name}.parquet"


def shard_ranges(sequences: duckdb.DuckDBPyRelation) -> list[ShardRange]:
    """Return the range of each corpus file, in the order of the ids.

    Args:
        sequences: the table of all sequences, with `shard` and `sequence_id`.

    Raises:
        SqlError: if the ids of two corpus files overlap.
    """
    found = sequences.aggregate(f"shard, min({SEQUENCE_ID}) as low, max({SEQUENCE_ID}) as high", "shard")
    spans = found.order("low, shard").fetchall()
    for (shard, _, high), (next_shard, low, _) in pairwise(spans):
        if low <= high:
            raise SqlError(
                f"sequences: the ids of shard {shard} reach to {high}, those of shard {next_shard} begin at {low}; "
                "each corpus file has ids of its own. Materialise the sequences again"
            )
    starts = [MIN_ID, *(low for _, low, _ in spans[1:])]
    ends = [*(start - 1 for start in starts[1:]), MAX_ID]
    return [ShardRange(span[0], start, end) for span, start, end in zip(spans, starts, ends, strict=False)]


class IdIndex:
    """Which Parquet files hold which ids, read from their footers once."""

    def __init__(self, inputs: Mapping[str, Sequence[Path]], tables: Iterable[str]) -> None:
        self._spans = {table: [(path, *_id_span(path)) for path in inputs[table]] for table in tables}

    def files(self, table: str, ids: ShardRange) -> list[Path]:
        """Return the files of a table that may hold ids of a range."""
        return [path for path, low, high in self._spans[table] if low <= ids.last_id and high >= ids.first_id]


def _id_span(path: Path) -> tuple[int, int]:
    """Return the smallest and the largest id of a file, or all ids there can be if its footer does not say."""
    metadata = pq.read_metadata(path)
    if metadata.num_rows == 0:
        return MAX_ID, MIN_ID
    leaves = metadata.row_group(0)
    column = next(place for place in range(leaves.num_columns) if leaves.column(place).path_in_schema == SEQUENCE_ID)
    lows, highs = [], []
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(column).statistics
        if statistics is None or not statistics.has_min_max:
            return MIN_ID, MAX_ID
        lows.append(statistics.min)
        highs.append(statistics.max)
    return min(lows), max(highs)
