"""Which documents are there already: the first stays, in the order in which they are asked for.

A document is dropped where one that stays is its twin, so that each dropped one has a twin that is kept. What
it costs is memory of the documents that stay: 16 bytes for each.
"""

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from miniplm_assets.core.errors import CorpusError
from miniplm_assets.corpus.buckets import MAX_NUMBERS, Buckets
from miniplm_assets.corpus.hashes import Hashes

NO_TWIN = -1


@dataclass(frozen=True, kw_only=True)
class Twins:
    """The twins of some documents, in their order.

    Attributes:
        document_id: of the first document that stays and is its twin; `NO_TWIN` of a document that stays itself.
        similarity: of the two, in (0, 1]; 1 where the texts are the same.
        is_exact: whether the texts are the same.
    """

    document_id: NDArray[np.int64]
    similarity: NDArray[np.float32]
    is_exact: NDArray[np.bool_]


class KeptDocuments:
    """The documents that stay, numbered in their order, by hashes."""

    def __init__(self) -> None:
        self._texts = Buckets()
        self._rest = _Grown(np.empty(0, dtype=np.uint64))
        self._first_numbers: list[int] = []
        self._first_ids: list[int] = []

    def begin_shard(self, first_document_id: int) -> None:
        """Begin with the next corpus file; the ids of its documents that stay follow each other from a first one."""
        self._first_numbers.append(self._rest.num_rows)
        self._first_ids.append(first_document_id)

    def add(self, hashes: Hashes) -> None:
        """Add documents that stay.

        Raises:
            CorpusError: if there are more than can be numbered.
        """
        numbers = self._rest.num_rows + np.arange(len(hashes))
        if self._rest.num_rows + len(hashes) > MAX_NUMBERS:
            raise CorpusError(
                f"corpus.cleaning.duplicates: more than {MAX_NUMBERS:,} documents cannot be held against each other. "
                "Split the corpus into several experiments."
            )
        self._texts.add(hashes.bucket, numbers)
        self._rest.add(hashes.rest)

    def twins(self, hashes: Hashes) -> Twins:
        """Return the twins of the next documents, and add those that have none."""
        number, is_exact = np.full(len(hashes), NO_TWIN), np.zeros(len(hashes), dtype=np.bool_)
        for places, numbers in self._texts.same(hashes.bucket):
            are_same = self._rest.rows[numbers] == hashes.rest[places]
            number[places[are_same]] = numbers[are_same]
            is_exact[places[are_same]] = True
        first_places: dict[tuple[int, int], int] = {}
        next_number = self._rest.num_rows
        kept: list[int] = []
        for place in np.flatnonzero(~is_exact).tolist():
            text = int(hashes.bucket[place]), int(hashes.rest[place])
            if text in first_places:
                number[place], is_exact[place] = first_places[text], True
            else:
                first_places[text] = next_number + len(kept)
                kept.append(place)
        self.add(hashes.taking(np.array(kept, dtype=np.int64)))
        return Twins(
            document_id=np.array([self._id_of(one) for one in number.tolist()], dtype=np.int64),
            similarity=is_exact.astype(np.float32),
            is_exact=is_exact,
        )

    def _id_of(self, number: int) -> int:
        if number == NO_TWIN:
            return NO_TWIN
        shard = bisect_right(self._first_numbers, number) - 1
        return self._first_ids[shard] + number - self._first_numbers[shard]


class _Grown:
    """An array that rows are added to; its memory is doubled where it is full."""

    def __init__(self, empty: NDArray[np.generic]) -> None:
        self._memory = empty
        self.num_rows = 0

    @property
    def rows(self) -> NDArray[np.generic]:
        return self._memory[: self.num_rows]

    def add(self, rows: NDArray[np.generic]) -> None:
        num_rows = self.num_rows + len(rows)
        if num_rows > len(self._memory):
            memory = np.empty((max(num_rows, 2 * len(self._memory)), *self._memory.shape[1:]), self._memory.dtype)
            memory[: self.num_rows] = self.rows
            self._memory = memory
        self._memory[self.num_rows : num_rows] = rows
        self.num_rows = num_rows
