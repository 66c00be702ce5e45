"""Which split a document belongs to: decided by its text alone.

Equal texts never stand on both sides of a split, whatever file they come from, and adding a file moves
no document from one split to another.
"""

import hashlib
from collections.abc import Mapping
from typing import Final

CANDIDATE: Final = "candidate"
REFERENCE: Final = "reference"
TEACHER: Final = "teacher"
VALIDATION: Final = "validation"

# Widest first in need of stability: a share that changes moves only the splits behind it.
HELD_APART: Final = (VALIDATION, REFERENCE, TEACHER)
SPLITS: Final = (CANDIDATE, *HELD_APART)


def split_of(text: str, *, shares: Mapping[str, float], seed: int) -> str:
    """Return the split of a document.

    Args:
        text: the whole document.
        shares: share of the documents, in [0, 1), for each of `HELD_APART`; the rest are candidates.
        seed: another seed gives another, independent split.
    """
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=seed.to_bytes(8, "little")).digest()
    position = int.from_bytes(digest, "little") / 2**64
    for split in HELD_APART:
        position -= shares[split]
        if position < 0:
            return split
    return CANDIDATE
