"""MinHash signatures: how alike two texts are, from some bytes of each.

The similarity of two texts is that of their sets of shingles, runs of words: what both have, by what either has
(Jaccard; Broder 1997). For each of some random orders of all shingles a signature has the least one of a text, so that
two texts agree in an order with the probability of their similarity. Of the least one's hash a byte is kept (Li and
König 2010): it agrees by chance in 1 of 256. Texts are compared where all places of some band of their signatures
agree.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from miniplm_assets.experiment.cleaning import NearDuplicates

# Scripts that are written without spaces: Thai, Lao, Burmese, Khmer, Chinese, Japanese, Yi. A character is a word.
WITHOUT_SPACES: Final = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\ua4cf\uf900-\ufaff\U00020000-\U0003ffff"
# Else a run of anything but white space and the punctuation of ASCII.
_WORD: Final = re.compile(rf"[{WITHOUT_SPACES}]|[^\s!-/:-@\[-`{{-~{WITHOUT_SPACES}]+")
# Shingles of a long document that are held at once.
_MAX_SHINGLES: Final = 1 << 16
_SEED: Final = 1
# A byte agrees by chance.
_CHANCE: Final = 1 / 256
# Of the pairs that are just alike enough, so many are to meet in a band.
_RECALL: Final = 0.9


def signatures_of(texts: Sequence[str], near: NearDuplicates) -> NDArray[np.uint8]:
    """Return the signatures of texts, of shape (texts, permutations)."""
    from rensa import RMinHash

    signatures = np.empty((len(texts), near.num_permutations), dtype=np.uint8)
    for place, text in enumerate(texts):
        sketch = RMinHash(num_perm=near.num_permutations, seed=_SEED)
        for shingles in shingles_of(text, near.shingle_words):
            sketch.update(shingles)
        signatures[place] = np.array(sketch.digest(), dtype=np.uint32).astype(np.uint8)  # the lowest byte
    return signatures


def shingles_of(text: str, num_words: int) -> Iterator[list[str]]:
    """Go through the shingles of a text, in lists of some thousands. What is shorter than one is one.

    Words are compared without their case and the punctuation between them; a text without a word is its own shingle.
    """
    words = _WORD.findall(text.lower()) or [text]
    num_shingles = max(1, len(words) - num_words + 1)
    for first in range(0, num_shingles, _MAX_SHINGLES):
        last = min(first + _MAX_SHINGLES, num_shingles)
        yield [" ".join(words[place : place + num_words]) for place in range(first, last)]


def num_places_of_band(near: NearDuplicates) -> int:
    """Return how many places of a signature are a band: the most with which 9 of 10 pairs just alike enough meet."""
    return max(
        num_places
        for num_places in range(1, near.num_permutations + 1)
        if num_places == 1
        or (1 - near.min_similarity**num_places) ** (near.num_permutations // num_places) <= 1 - _RECALL
    )


def bands_of(signatures: NDArray[np.uint8], near: NearDuplicates) -> NDArray[np.uint32]:
    """Return a hash of each band of signatures, of shape (bands, texts)."""
    num_places = num_places_of_band(near)
    num_bands = near.num_permutations // num_places
    places = signatures[:, : num_bands * num_places].reshape(len(signatures), num_bands, num_places)
    hashes = np.zeros((len(signatures), num_bands), dtype=np.uint64)
    for place in range(num_places):  # FNV-1a, to 64 bits
        hashes = (hashes ^ places[:, :, place]) * np.uint64(0x100000001B3) + np.uint64(0xCBF29CE484222325)
    hashes ^= hashes >> np.uint64(29)
    return np.ascontiguousarray(((hashes * np.uint64(0xBF58476D1CE4E5B9)) >> np.uint64(32)).astype(np.uint32).T)


def similarity_of(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the estimated similarity of pairs of signatures, the last axis of both; below 0 where less than chance."""
    agreeing: NDArray[np.float64] = (one == other).mean(axis=-1)
    return (agreeing - _CHANCE) / (1 - _CHANCE)
