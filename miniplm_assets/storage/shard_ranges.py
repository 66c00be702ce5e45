"""The ranges of sequence ids that the corpus files occupy.

All sequences of one corpus file have ids that stand together (`core.identity`), so that every table with
a `sequence_id` can be cut at the same places: what belongs together meets, in memory of one file's size.
The tables are cut by the ids that they hold, never by the names of their files.
"""

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
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
        self._spans = {table: _Spans.of(inputs[table]) for table in tables}

    def files(self, table: str, ids: ShardRange) -> list[Path]:
        """Return the files of a table that may hold ids of a range."""
        return self._spans[table].overlapping(ids.first_id, ids.last_id)


@dataclass(frozen=True)
class _Spans:
    """Files by their smallest id, so that those of a range are found without a look at all the others."""

    paths: list[Path]
    lows: list[int]
    highs: list[int]
    highest_so_far: list[int]

    @classmethod
    def of(cls, paths: Iterable[Path]) -> "_Spans":
        spans = sorted((*_id_span(path), path) for path in paths)
        highs = [high for _, high, _ in spans]
        return cls([path for *_, path in spans], [low for low, *_ in spans], highs, list(accumulate(highs, max)))

    def overlapping(self, first_id: int, last_id: int) -> list[Path]:
        start, stop = bisect_left(self.highest_so_far, first_id), bisect_right(self.lows, last_id)
        return [self.paths[place] for place in range(start, stop) if self.highs[place] >= first_id]


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
