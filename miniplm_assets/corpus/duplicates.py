"""Which documents are there already: the first stays, in the order in which they are asked for.

A document is dropped where one that stays is its twin, so that each dropped one has a twin that is kept. What
it costs is memory of the documents that stay: 16 bytes for each; where those that are much alike are twins too, also a
byte for each permutation, and 8 for each band (272 in all, as the defaults are).
"""

from bisect import bisect_right
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from miniplm_assets.core.errors import CorpusError
from miniplm_assets.corpus.buckets import MAX_NUMBERS, Buckets
from miniplm_assets.corpus.hashes import Hashes
from miniplm_assets.corpus.signatures import bands_of, num_places_of_band, similarity_of
from miniplm_assets.experiment.cleaning import NearDuplicates

NO_TWIN: Final = -1
T = TypeVar("T", bound=np.generic)


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
    """The documents that stay, numbered in their order, by hashes.

    Args:
        near: when two texts are as good as the same; None where only the same text is.
    """

    def __init__(self, near: NearDuplicates | None) -> None:
        self.near = near
        self._texts = Buckets()
        self._rest = _Grown(np.empty(0, dtype=np.uint64))
        num_bands = 0 if near is None else near.num_permutations // num_places_of_band(near)
        self._bands = [Buckets() for _ in range(num_bands)]
        self._signatures = _Grown(np.empty((0, 0 if near is None else near.num_permutations), dtype=np.uint8))
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
        if self.near is not None:
            self._signatures.add(hashes.signatures)
            for band, keys in zip(self._bands, bands_of(hashes.signatures, self.near), strict=True):
                band.add(keys, numbers)

    def twins(self, hashes: Hashes) -> Twins:
        """Return the twins of the next documents, and add those that have none."""
        number = np.full(len(hashes), NO_TWIN)
        similarity = np.zeros(len(hashes), dtype=np.float32)
        for places, numbers in self._texts.same(hashes.bucket):
            are_same = self._rest.rows[numbers] == hashes.rest[places]
            number[places[are_same]] = numbers[are_same]
        is_exact = number != NO_TWIN
        similarity[is_exact] = 1
        if self.near is not None:
            self._find_alike(hashes, number, similarity, self.near)
        self._find_among_themselves(hashes, number, similarity, is_exact)
        return Twins(
            document_id=np.array([self._id_of(one) for one in number.tolist()], dtype=np.int64),
            similarity=similarity,
            is_exact=is_exact,
        )

    def _find_alike(
        self, hashes: Hashes, number: NDArray[np.int64], similarity: NDArray[np.float32], near: NearDuplicates
    ) -> None:
        """Find the first of those that stay already that is much alike, for those without a twin."""
        asked = np.flatnonzero(number == NO_TWIN)
        signatures = hashes.signatures[asked]
        first = np.full(len(asked), MAX_NUMBERS)
        for band, keys in zip(self._bands, bands_of(signatures, near), strict=True):
            for places, numbers in band.same(keys):
                are_alike = similarity_of(signatures[places], self._signatures.rows[numbers]) >= near.min_similarity
                np.minimum.at(first, places[are_alike], numbers[are_alike])
        found = np.flatnonzero(first < MAX_NUMBERS)
        number[asked[found]] = first[found]
        similarity[asked[found]] = similarity_of(signatures[found], self._signatures.rows[first[found]])

    def _find_among_themselves(
        self,
        hashes: Hashes,
        number: NDArray[np.int64],
        similarity: NDArray[np.float32],
        is_exact: NDArray[np.bool_],
    ) -> None:
        """Find the first twin among the documents themselves, for those without one; add the others, one by one."""
        next_number = self._rest.num_rows
        kept: list[int] = []
        number_of_text: dict[tuple[int, int], int] = {}
        of_band: dict[tuple[int, int], list[int]] = {}  # indices into `kept`, of those with a band's hash
        asked = np.flatnonzero(number == NO_TWIN)
        bands = [[]] * len(asked) if self.near is None else bands_of(hashes.signatures[asked], self.near).T.tolist()
        for place, keys in zip(asked.tolist(), bands, strict=True):
            text = int(hashes.bucket[place]), int(hashes.rest[place])
            if text in number_of_text:
                number[place], similarity[place], is_exact[place] = number_of_text[text], 1, True
                continue
            if self.near is not None:
                met = sorted({index for band in enumerate(keys) for index in of_band.get(band, ())})
                if met:
                    others = hashes.signatures[[kept[index] for index in met]]
                    found = similarity_of(hashes.signatures[place], others)
                    alike = np.flatnonzero(found >= self.near.min_similarity)
                    if len(alike):
                        number[place], similarity[place] = next_number + met[alike[0]], found[alike[0]]
                        continue
                for band in enumerate(keys):
                    of_band.setdefault(band, []).append(len(kept))
            number_of_text[text] = next_number + len(kept)
            kept.append(place)
        self.add(hashes.taking(np.array(kept, dtype=np.int64)))

    def _id_of(self, number: int) -> int:
        if number == NO_TWIN:
            return NO_TWIN
        shard = bisect_right(self._first_numbers, number) - 1
        return self._first_ids[shard] + number - self._first_numbers[shard]


class _Grown(Generic[T]):
    """An array that rows are added to; a quarter of its memory at most is free."""

    def __init__(self, empty: NDArray[T]) -> None:
        self._memory = empty
        self.num_rows = 0

    @property
    def rows(self) -> NDArray[T]:
        return self._memory[: self.num_rows]

    def add(self, rows: NDArray[T]) -> None:
        num_rows = self.num_rows + len(rows)
        if num_rows > len(self._memory):
            memory = np.empty((max(num_rows, len(self._memory) * 5 // 4), *self._memory.shape[1:]), self._memory.dtype)
            memory[: self.num_rows] = self.rows
            self._memory = memory
        self._memory[self.num_rows : num_rows] = rows
        self.num_rows = num_rows
