"""Which of many numbers have a hash in common with a given one, in 8 bytes a number."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

# An entry is the hash, then the number: 32 bits each.
_NUMBER_BITS: Final = np.uint64(32)
_NUMBER_MASK: Final = np.uint64(2**32 - 1)
MAX_NUMBERS: Final = 2**32
# What is handed out at once: whoever compares two signatures of 128 bytes for each holds 16 MB.
_MAX_PAIRS: Final = 1 << 16


class Buckets:
    """Numbers by a hash of 32 bits, in sorted runs: each at least twice as long as the one behind it.

    So an entry is merged into a longer run some log2(n) times, and a hash is looked for in as many.
    """

    def __init__(self) -> None:
        self._runs: list[NDArray[np.uint64]] = []

    def add(self, hashes: NDArray[np.uint32], numbers: NDArray[np.int64]) -> None:
        """Add numbers, each under `MAX_NUMBERS`, with the hash of each."""
        if not len(hashes):
            return
        run = np.sort((hashes.astype(np.uint64) << _NUMBER_BITS) | numbers.astype(np.uint64))
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            run = np.concatenate([self._runs.pop(), run])
            run.sort(kind="stable")  # which merges what is sorted
        self._runs.append(run)

    def same(self, hashes: NDArray[np.uint32]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Go through all pairs of a given hash and a number with the same one, some thousand pairs at a time.

        Yields:
            The place of the hash among those given, and the number; int64, as many of both.
        """
        order = np.argsort(hashes)  # so that neighbours are looked for where the last one was found
        least = hashes[order].astype(np.uint64) << _NUMBER_BITS
        for run in self._runs:
            starts = np.searchsorted(run, least)
            ends = np.cumsum(np.searchsorted(run, least | _NUMBER_MASK, side="right") - starts)  # of each one's pairs
            for first in range(0, int(ends[-1]) if len(ends) else 0, _MAX_PAIRS):
                pairs = np.arange(first, min(first + _MAX_PAIRS, int(ends[-1])))
                owners = np.searchsorted(ends, pairs, side="right")
                before = np.where(owners > 0, ends[owners - 1], 0)
                entries = run[starts[owners] + pairs - before]
                yield order[owners], (entries & _NUMBER_MASK).astype(np.int64)
