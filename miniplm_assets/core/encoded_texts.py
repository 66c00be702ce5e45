"""Tokens of texts, and where each of them ends in its text: what packing is given."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class EncodedTexts:
    """Tokens of consecutive texts.

    Attributes:
        num_tokens: int64 of shape (texts,), each at least 1.
        token_ids: int32 of shape (tokens,), text after text.
        char_ends: int32 or int64 of shape (tokens,): where a token ends, in characters of its text; never falling
            within a text, and the length of the text at its last token.
        ends_character: bool of shape (tokens,): whether the token ends where a character ends.
    """

    num_tokens: NDArray[np.int64]
    token_ids: NDArray[np.int32]
    char_ends: NDArray[np.int32] | NDArray[np.int64]
    ends_character: NDArray[np.bool_]

    @cached_property
    def text_starts(self) -> NDArray[np.int64]:
        """Where each text begins among the tokens, and where the last one ends: int64 of shape (texts + 1,)."""
        return np.concatenate([[0], np.cumsum(self.num_tokens, dtype=np.int64)])

    def texts(self, first: int, stop: int) -> "EncodedTexts":
        """Return the texts number `first` to `stop` - 1."""
        tokens = slice(int(self.text_starts[first]), int(self.text_starts[stop]))
        return EncodedTexts(
            num_tokens=self.num_tokens[first:stop],
            token_ids=self.token_ids[tokens],
            char_ends=self.char_ends[tokens],
            ends_character=self.ends_character[tokens],
        )

    def keeping(self, kept: NDArray[np.bool_]) -> "EncodedTexts":
        """Return those texts that are kept, of a mask of shape (texts,)."""
        tokens = np.repeat(kept, self.num_tokens)
        return EncodedTexts(
            num_tokens=self.num_tokens[kept],
            token_ids=self.token_ids[tokens],
            char_ends=self.char_ends[tokens],
            ends_character=self.ends_character[tokens],
        )
