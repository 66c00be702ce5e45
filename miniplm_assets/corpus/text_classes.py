"""What the tokens of a sequence are of: words, numbers, punctuation, white space, or a URL; by their bytes alone."""

import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

WORD, NUMBER, PUNCTUATION, WHITE_SPACE, URL, SPECIAL = range(6)
CLASSES: Final = ("word", "number", "punctuation", "white_space", "url", "special")
# Down to what no URL holds unescaped: white space, quotes, angle brackets.
URLS: Final = re.compile(rb"(?:https?://|ftp://|www\.)[^\s\"'<>]+")


class TextClasses:
    """Tells the tokens of sequences apart.

    Args:
        token_bytes: that each token of the vocabulary stands for; none for special ones.
    """

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        self._own: NDArray[np.int8] = np.array([_class_of(spelt) for spelt in token_bytes], dtype=np.int8)
        # No URL goes on behind the end of a document.
        self._spelt = [spelt or b"\n" for spelt in token_bytes]
        self._num_bytes = np.array([len(spelt) for spelt in self._spelt], dtype=np.int64)

    def of(self, token_ids: NDArray[Any]) -> NDArray[np.int8]:
        """Return the class of each token of a sequence, as a place in `CLASSES`.

        A token is of a URL where a byte of it is. Else it is a word where it holds a letter, or a part of a character
        beyond ASCII; a number where it holds a digit; white space where it holds nothing else; else punctuation.
        """
        classes: NDArray[np.int8] = self._own[token_ids]
        text = b"".join([self._spelt[token] for token in token_ids])
        ends = np.cumsum(self._num_bytes[token_ids])
        for found in URLS.finditer(text):
            first, stop = np.searchsorted(ends, [found.start() + 1, found.end()])
            classes[first : stop + 1] = URL
        return classes


def _class_of(spelt: bytes) -> int:
    if not spelt:
        return SPECIAL
    text = spelt.decode(errors="replace").strip()
    if not text:
        return WHITE_SPACE
    if any(character.isalpha() or character == "\ufffd" for character in text):
        return WORD
    return NUMBER if any(character.isnumeric() for character in text) else PUNCTUATION
