"""Packing documents into token sequences.

The documents of each stream (one domain and split of a shard) are laid end to end, each followed by the
end-of-document token. A stream is cut into sequences of at most `max_tokens` tokens. A cut is moved back
to the last sentence end that fits, and what is trimmed begins the next sequence: every token of every
document stands in exactly one sequence, and the last, partial sequence is kept.

    stream     a a a. a a ¶ b b b b. b ¶ c c c ¶        (¶ ends a document, . a sentence; max_tokens = 8)
    sequences  [a a a. a a ¶] [b b b b. b ¶] [c c c ¶]

Rules that the picture does not show:

- An end-of-document token never *begins* a sequence: there the boundary separates already, and it is left out.
- No cut falls inside a character (byte-level tokens can be a part of one).
- Nothing is moved back below half of `max_tokens`; then the sequence is cut at its full length.

A sequence has at least two tokens. The cost is a few NumPy passes over the tokens of all streams at once and one step
of Python a sequence and a stream, however many streams there are; the state between two calls is less than one
sequence a stream.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

# What tells streams apart.
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class EncodedTexts:
    """Tokens of consecutive texts.

    Attributes:
        num_tokens: int64 of shape (texts,), each at least 1.
        token_ids: int32 of shape (tokens,), text after text.
        char_ends: int64 of shape (tokens,): where a token ends, in characters of its text; never falling within
            a text, and the length of the text at its last token.
        ends_character: bool of shape (tokens,): whether the token ends where a character ends.
    """

    num_tokens: NDArray[np.int64]
    token_ids: NDArray[np.int32]
    char_ends: NDArray[np.int64]
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


@dataclass(frozen=True, kw_only=True)
class PackedSequences:
    """Finished sequences, stream after stream, in the order of each.

    Attributes:
        num_sequences: int64 of shape (streams,).
        num_tokens: int64 of shape (sequences,), between 2 and `max_tokens`.
        token_ids: int32 of shape (tokens,), sequence after sequence.
        num_spans: int64 of shape (sequences,): pieces of documents in each sequence, at least 1.
        document_ids: int64 of shape (spans,).
        char_starts: int64 of shape (spans,), in characters of the document.
        char_ends: int64 of shape (spans,). The spans of one document partition its text.
        finished_document_ids: int64 of shape (documents,): those of which nothing comes any more.
    """

    num_sequences: NDArray[np.int64]
    num_tokens: NDArray[np.int64]
    token_ids: NDArray[np.int32]
    num_spans: NDArray[np.int64]
    document_ids: NDArray[np.int64]
    char_starts: NDArray[np.int64]
    char_ends: NDArray[np.int64]
    finished_document_ids: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class _Tokens:
    """Tokens in their place in a stream, or in several, the end-of-document tokens among them: shape (tokens,)."""

    token_ids: NDArray[np.int32]
    document_ids: NDArray[np.int64]
    char_starts: NDArray[np.int64]
    char_ends: NDArray[np.int64]
    is_document_end: NDArray[np.bool_]
    ends_character: NDArray[np.bool_]
    ends_sentence: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.token_ids)

    def part(self, start: int, stop: int) -> "_Tokens":
        return _Tokens(**{field.name: getattr(self, field.name)[start:stop] for field in fields(self)})

    def copy(self) -> "_Tokens":
        return _Tokens(**{field.name: getattr(self, field.name).copy() for field in fields(self)})


def _joined(parts: Sequence[_Tokens]) -> _Tokens:
    names = [field.name for field in fields(_Tokens)]
    return _Tokens(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


class Packer(Generic[K]):
    """Packs streams, a batch of documents at a time. How the documents are batched changes no sequence.

    Args:
        max_tokens: length of a full sequence: sequence_length + 1, at least 8.
        end_of_document_id: the token that follows every document.
        ends_sentence: bool of shape (vocabulary,): tokens after which a sentence may end; None to cut at full
            length without looking for sentence ends.
    """

    def __init__(self, *, max_tokens: int, end_of_document_id: int, ends_sentence: NDArray[np.bool_] | None) -> None:
        # A character has at most 4 byte-level tokens, so from 8 on there is always a place to cut in the second half.
        assert max_tokens >= 8, max_tokens
        self._max_tokens = max_tokens
        self._end_of_document_id = end_of_document_id
        self._ends_sentence = ends_sentence
        self._rests: dict[K, _Tokens] = {}

    @property
    def open_streams(self) -> list[K]:
        """The streams whose last tokens have not been given out yet."""
        return list(self._rests)

    def push(
        self,
        streams: Sequence[K],
        num_documents: Sequence[int],
        document_ids: NDArray[np.int64],
        texts: EncodedTexts,
    ) -> PackedSequences:
        """Add documents, and return the sequences that are now full.

        Args:
            streams: those that the documents belong to, each once.
            num_documents: how many each of them gets, at least one.
            document_ids: int64 of shape (documents,), stream after stream.
            texts: their tokens, in the same order.
        """
        added = self._tokens_of(document_ids, texts)
        # A document has its text's tokens and its end.
        document_stops = np.cumsum(texts.num_tokens + 1)
        added_stops = document_stops[np.cumsum(num_documents) - 1].tolist() if streams else []
        parts: list[_Tokens] = []
        lengths: list[int] = []
        added_start = 0
        for stream, added_stop in zip(streams, added_stops, strict=True):
            rest = self._rests.pop(stream, _NONE)
            parts += [rest, added.part(added_start, added_stop)]
            lengths.append(len(rest) + added_stop - added_start)
            added_start = added_stop
        tokens = _joined(parts or [_NONE])
        stops = np.cumsum(lengths, dtype=np.int64).tolist()
        cuts, rest_starts = self._cut(tokens, stops)
        for stream, start, stop in zip(streams, rest_starts, stops, strict=True):
            # Copied, so that a short rest does not keep the arrays of a whole batch alive.
            self._rests[stream] = tokens.part(start, stop).copy()
        is_rest = _within(len(tokens), np.array(rest_starts, np.int64), np.array(stops, np.int64))
        return _pack(tokens, cuts, is_rest)

    def finish(self, streams: Sequence[K]) -> PackedSequences:
        """Return the last, partial sequence of each of some streams, if it has one.

        Args:
            streams: what comes out first; each once, and open.
        """
        tokens = _joined([_NONE, *(self._rests[stream] for stream in streams)])
        stops = np.cumsum([len(self._rests.pop(stream)) for stream in streams], dtype=np.int64).tolist()
        cuts: list[list[tuple[int, int]]] = []
        start = 0
        for stop in stops:
            if start < stop and tokens.is_document_end[start]:
                start += 1
            cuts.append([(start, stop)] if start < stop else [])
            start = stop
        return _pack(tokens, cuts, np.zeros(len(tokens), np.bool_))

    def _tokens_of(self, document_ids: NDArray[np.int64], texts: EncodedTexts) -> _Tokens:
        lengths = texts.num_tokens + 1
        end_positions = np.cumsum(lengths) - 1
        is_document_end = np.zeros(int(lengths.sum()), dtype=bool)
        is_document_end[end_positions] = True
        is_text = ~is_document_end

        token_ids = np.full(len(is_text), self._end_of_document_id, dtype=np.int32)
        token_ids[is_text] = texts.token_ids
        char_ends = np.zeros(len(is_text), dtype=np.int64)
        char_ends[is_text] = texts.char_ends
        char_ends[end_positions] = char_ends[end_positions - 1]
        char_starts = np.roll(char_ends, 1)
        char_starts[end_positions + 1 - lengths] = 0
        ends_character = np.ones(len(is_text), dtype=bool)
        ends_character[is_text] = texts.ends_character
        ends_sentence = np.zeros(len(is_text), dtype=bool)
        if self._ends_sentence is not None:
            ends_sentence = self._ends_sentence[token_ids] & ends_character
            ends_sentence[end_positions] = True
            ends_sentence[end_positions - 1] = True  # a document's end is a sentence's end
        return _Tokens(
            token_ids=token_ids,
            document_ids=np.repeat(document_ids, lengths),
            char_starts=char_starts,
            char_ends=char_ends,
            is_document_end=is_document_end,
            ends_character=ends_character,
            ends_sentence=ends_sentence,
        )

    def _cut(self, tokens: _Tokens, stops: list[int]) -> tuple[list[list[tuple[int, int]]], list[int]]:
        """Return where the full sequences of each stream start and stop, and where its rest starts."""
        positions = np.arange(len(tokens))
        # An end in another stream is farther back than half a sequence can reach, or before its start.
        last_sentence_end = np.maximum.accumulate(np.where(tokens.ends_sentence, positions, -1))
        last_character_end = np.maximum.accumulate(np.where(tokens.ends_character, positions, -1))
        cuts: list[list[tuple[int, int]]] = []
        rest_starts: list[int] = []
        start = 0
        for stream_stop in stops:
            sequences: list[tuple[int, int]] = []
            while stream_stop - start > self._max_tokens:
                if tokens.is_document_end[start]:
                    start += 1
                    continue
                full = start + self._max_tokens
                stop = full
                for last_end in (last_sentence_end, last_character_end):
                    trimmed = int(last_end[full - 1]) + 1
                    if 2 * (trimmed - start) >= self._max_tokens:
                        stop = trimmed
                        break
                sequences.append((start, stop))
                start = stop
            cuts.append(sequences)
            rest_starts.append(start)
            start = stream_stop
        return cuts, rest_starts


def _within(num_tokens: int, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which tokens stand in one of some ranges that do not overlap."""
    steps = np.zeros(num_tokens + 1, dtype=np.int8)
    np.add.at(steps, starts, 1)
    np.add.at(steps, stops, -1)
    return np.cumsum(steps[:-1]).astype(bool)


def _pack(tokens: _Tokens, cuts: list[list[tuple[int, int]]], is_rest: NDArray[np.bool_]) -> PackedSequences:
    flat = np.array([place for sequences in cuts for place in sequences], dtype=np.int64).reshape(-1, 2)
    sequence_starts, sequence_stops = flat[:, 0], flat[:, 1]
    is_inside = _within(len(tokens), sequence_starts, sequence_stops)
    # A piece begins with a sequence or with a document; between two sequences stand left-out document ends, and rests.
    begins_piece = np.append(False, tokens.is_document_end[:-1]) if len(tokens) else np.empty(0, np.bool_)
    begins_piece[sequence_starts] = True
    piece_starts = np.flatnonzero(begins_piece & is_inside)
    sequence_of_piece = np.searchsorted(sequence_starts, piece_starts, side="right") - 1
    piece_stops = np.minimum(np.append(piece_starts[1:], len(tokens)), sequence_stops[sequence_of_piece])
    return PackedSequences(
        num_sequences=np.array([len(sequences) for sequences in cuts], dtype=np.int64),
        num_tokens=sequence_stops - sequence_starts,
        token_ids=tokens.token_ids[is_inside],
        num_spans=np.bincount(sequence_of_piece).astype(np.int64),
        document_ids=tokens.document_ids[piece_starts],
        char_starts=tokens.char_starts[piece_starts],
        char_ends=tokens.char_ends[piece_stops - 1],
        # Where a document goes on in a rest, its end stands there.
        finished_document_ids=tokens.document_ids[tokens.is_document_end & ~is_rest],
    )


_NONE = _Tokens(
    token_ids=np.empty(0, np.int32),
    document_ids=np.empty(0, np.int64),
    char_starts=np.empty(0, np.int64),
    char_ends=np.empty(0, np.int64),
    is_document_end=np.empty(0, np.bool_),
    ends_character=np.empty(0, np.bool_),
    ends_sentence=np.empty(0, np.bool_),
)
