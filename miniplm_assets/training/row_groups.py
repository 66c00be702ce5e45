"""Sequences in the row groups of Parquet files: which are learned from, and their token ids when they are asked for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from miniplm_assets.core.errors import TrainingError

# A first token has no prediction, so that shorter sequences teach nothing.
MIN_TOKENS: Final = 2
ID_BYTES: Final = 4
NUM_PROMPT_TOKENS: Final = "num_prompt_tokens"


@dataclass(frozen=True)
class Wanted:
    """Which rows of sequence tables are learned from.

    Attributes:
        split: theirs; None for all.
        sequence_ids: in rising order, theirs; None for all.
        has_prompts: whether sequences that are nothing but their prompt are left out.
    """

    split: str | None
    sequence_ids: NDArray[np.int64] | None
    has_prompts: bool

    @property
    def columns(self) -> list[str]:
        """What is read of each row, whether it is wanted or not."""
        of_split = [] if self.split is None else ["split"]
        return ["sequence_id", "num_tokens", *of_split, *([NUM_PROMPT_TOKENS] if self.has_prompts else [])]

    def rows(self, table: Any) -> Any:
        """Return the wanted rows of a PyArrow table that has these columns."""
        is_wanted = pc.greater_equal(table["num_tokens"], MIN_TOKENS)
        if self.split is not None:
            is_wanted = pc.and_(is_wanted, pc.equal(table["split"], self.split))
        if self.sequence_ids is not None:
            is_wanted = pc.and_(is_wanted, _is_among(table["sequence_id"], self.sequence_ids))
        if self.has_prompts:
            is_wanted = pc.and_(is_wanted, pc.greater(table["num_tokens"], table[NUM_PROMPT_TOKENS]))
        return table.filter(is_wanted)


class RowGroups:
    """Reads the token ids of sequences from Parquet into a file, a row group when one of its rows is asked for.

    Args:
        target: the file, of the size that all of them take.
        files: the tables.
        wanted: which of their rows are in it.
        places: int64 of shape (row groups, 3): the file, its row group, the first sequence.
        offsets: int64 of shape (num_sequences + 1,): of the sequences in the file.
        vocab_size: ids must lie below it.
    """

    def __init__(
        self,
        target: Path,
        *,
        files: Sequence[Path],
        wanted: Wanted,
        places: NDArray[np.int64],
        offsets: NDArray[np.int64],
        vocab_size: int,
    ) -> None:
        self._target, self._files, self._wanted, self._vocab_size = target, files, wanted, vocab_size
        self._places, self._offsets = places, offsets
        self._is_read = np.zeros(len(places), dtype=np.bool_)

    def require(self, place: int) -> None:
        """Make sure that the token ids of a sequence are there.

        Raises:
            TrainingError: if they are not those that the table says, or of another tokenizer.
        """
        number = int(np.searchsorted(self._places[:, 2], place, side="right")) - 1
        if not self._is_read[number]:
            self._read(number)
            self._is_read[number] = True

    def _read(self, number: int) -> None:
        file, group, first = (int(one) for one in self._places[number])
        end = int(self._places[number + 1, 2]) if number + 1 < len(self._places) else len(self._offsets) - 1
        path = self._files[file]
        with pq.ParquetFile(path) as opened:
            table = opened.read_row_group(group, columns=[*self._wanted.columns, "token_ids"])
        lists = self._wanted.rows(table)["token_ids"].combine_chunks()
        token_ids = lists.flatten().to_numpy(zero_copy_only=False)
        expected = np.diff(self._offsets[first : end + 1])
        if not np.array_equal(pc.list_value_length(lists).to_numpy(zero_copy_only=False), expected):
            raise TrainingError(
                f"{path}: row group {group} has {len(token_ids):,} token ids where its column num_tokens says "
                f"{expected.sum():,}; materialise these sequences again"
            )
        if len(token_ids) and (token_ids.min() < 0 or token_ids.max() >= self._vocab_size):
            raise _of_another_tokenizer(path, int(token_ids.min()), int(token_ids.max()), self._vocab_size)
        with self._target.open("r+b") as written:
            written.seek(ID_BYTES * int(self._offsets[first]))
            written.write(token_ids.astype(np.uint32).tobytes())


def row_groups(path: Path, *, columns: Sequence[str], vocab_size: int | None = None) -> Iterator[tuple[int, Any]]:
    """Go through the row groups of a table of sequences.

    Yields:
        The number and a PyArrow table with the columns.

    Raises:
        TrainingError: if the statistics of its token ids are known, and not within the vocabulary, if there is one.
    """
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            if vocab_size is not None:
                least, largest = _bounds_of_ids(file.metadata.row_group(group))
                if least < 0 or largest >= vocab_size:
                    raise _of_another_tokenizer(path, least, largest, vocab_size)
            yield group, file.read_row_group(group, columns=list(columns))


def _bounds_of_ids(group: Any) -> tuple[int, int]:
    """Return the least and the largest token id of a row group, by what its footer says; 0 where it says nothing."""
    for number in range(group.num_columns):
        column = group.column(number)
        if column.path_in_schema.split(".")[0] == "token_ids" and column.statistics and column.statistics.has_min_max:
            return column.statistics.min, column.statistics.max
    return 0, 0


def _of_another_tokenizer(path: Path, least: int, largest: int, vocab_size: int) -> TrainingError:
    return TrainingError(
        f"{path}: token ids from {least} to {largest}, but the tokenizer has {vocab_size:,}; these sequences were made "
        "with another tokenizer"
    )


def _is_among(sequence_ids: Any, wanted: NDArray[np.int64]) -> Any:
    """Return which ids are among those that are wanted, which are in rising order: a PyArrow array of booleans."""
    ids = sequence_ids.to_numpy(zero_copy_only=False)
    places = np.minimum(np.searchsorted(wanted, ids), max(0, len(wanted) - 1))
    return pa.array(wanted[places] == ids if len(wanted) else np.zeros(len(ids), dtype=np.bool_))
