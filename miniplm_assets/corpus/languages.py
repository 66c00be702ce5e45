"""Which language a text is in, by py3langid: a naive Bayes model over byte n-grams, which its package holds.

What the package does text by text and byte by byte, this does for many texts at once: each step takes the automaton
that finds the n-grams one byte further in all of them. Nearly all of a step is waiting for its table of 40 MB, and many
texts wait together. The n-grams, their order, and so the languages are those of the package, to the last bit.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

# As many decide it, at some 5,000 texts a second; more would cost more and change few.
CHARACTERS: Final = 2_000
# Numbers, symbols, noise: the code of ISO 639 for what is in no language.
NO_LANGUAGE: Final = "zxx"
# Texts whose bytes go through the automaton together: more are not faster.
_TEXTS_AT_ONCE: Final = 512
_NO_FEATURE: Final = -1


def languages_of(texts: Iterable[str]) -> list[str]:
    """Return the code of the language of each text, by its first `CHARACTERS` characters."""
    heads = [text[:CHARACTERS] for text in texts]
    # Of a text without a letter the model says something, too.
    has_letters = [any(map(str.isalpha, head)) for head in heads]
    found = _model().languages([head for head, has_some in zip(heads, has_letters, strict=True) if has_some])
    return [next(found) if has_some else NO_LANGUAGE for has_some in has_letters]


class _Counted(NamedTuple):
    """The features of a text, in the order in which they are found first, and how often each is."""

    features: NDArray[np.int32]
    counts: NDArray[np.int64]


class _Model:
    """The model of the package, of our own, since anybody may restrict the languages of the shared one.

    The automaton: from state `s`, byte `b` leads to `next_states[row_starts[s] + b]`; to be in state `s` is to have
    found the feature `features[s]`, if there is one.
    """

    def __init__(self) -> None:
        from py3langid.langid import MODEL_FILE, RAW_FLOOR, LanguageIdentifier

        class OfFeatures(LanguageIdentifier):  # type: ignore[misc, unused-ignore]
            """Decides by the features of a text, which have been counted, in place of its bytes."""

            __slots__ = ()

            def _encode(self, text: _Counted) -> _Counted:
                return text

            def _raw_score(self, text: _Counted) -> Any:
                if not len(text.features):
                    return np.full(len(self.nb_classes), RAW_FLOOR, dtype=np.float32)
                return np.log1p(text.counts.astype(np.float32)) @ self.nb_ptc[text.features] + self.nb_pc

        model = OfFeatures.from_model_file(MODEL_FILE)
        self._bytes_of = LanguageIdentifier._encode
        self._next_states = np.asarray(model.tk_nextmove)
        self._row_starts = np.asarray(model._rowbase, dtype=np.uint32)
        self._features = np.asarray(model.tk_output, dtype=np.int32)
        self._num_features = len(model.nb_ptc)
        model.nb_ptc = model.nb_ptc.astype(np.float32)  # of 16 bits, which each product would widen anew
        self._identifier = model

    def languages(self, texts: Sequence[str]) -> Iterator[str]:
        """Go through the languages of some texts."""
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            some = [self._bytes_of(text) for text in texts[start : start + _TEXTS_AT_ONCE]]
            for counted in self._counted(some):
                yield str(self._identifier.classify(counted)[0])

    def _counted(self, texts: Sequence[bytes]) -> Iterator[_Counted]:
        """Go through the features of some texts."""
        lengths = np.array([len(text) for text in texts])
        # The longest first: those that a step takes further stand together.
        texts_of_columns = np.argsort(-lengths, kind="stable")
        letters = np.zeros((lengths.max(), len(texts)), dtype=np.uint8)
        for column, text in enumerate(texts_of_columns):
            letters[: lengths[text], column] = np.frombuffer(texts[text], dtype=np.uint8)
        found = self._walk(letters, lengths[texts_of_columns])
        first_places = np.empty(self._num_features, dtype=np.int64)
        for column, length in zip(np.argsort(texts_of_columns), lengths, strict=True):
            visited = found[column, :length]
            features = visited[visited != _NO_FEATURE]
            # Of places that are written several times the last one stays: backwards, the first.
            first_places[features[::-1]] = np.arange(len(features))[::-1]
            counts = np.bincount(first_places[features], minlength=len(features))
            is_first = counts > 0
            yield _Counted(features[is_first], counts[is_first])

    def _walk(self, letters: NDArray[np.uint8], lengths: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the feature that each byte of each text completes.

        Args:
            letters: shape (bytes of the longest, texts).
            lengths: of the texts, the longest first.

        Returns:
            Shape (texts, bytes of the longest).
        """
        found = np.full(letters.shape, _NO_FEATURE, dtype=np.int32)
        num_left = np.searchsorted(-lengths, -np.arange(len(letters)))
        states = np.zeros(len(lengths), dtype=np.uint32)
        for place, num_texts in enumerate(num_left):
            states = self._next_states.take(self._row_starts.take(states[:num_texts]) + letters[place, :num_texts])
            found[place, :num_texts] = self._features.take(states)
        return np.ascontiguousarray(found.T)


@cache
def _model() -> _Model:
    """Load the model: half a second."""
    return _Model()
