"""Packing documents into token sequences.

The documents of one stream (one domain and split of a shard) are laid end to end, each followed by the
end-of-document token. The stream is cut into sequences of at most `max_tokens` tokens. A cut is moved back
to the last sentence end that fits, and what is trimmed begins the next sequence: every token of every
document stands in exactly one sequence, and the last, partial sequence is kept.

    stream     a a a. a a ¶ b b b b. b ¶ c c c ¶        (¶ ends a document, . a sentence; max_tokens = 8)
    sequences  [a a a. a a ¶] [b b b b. b ¶] [c c c ¶]

Rules that the picture does not show:

- An end-of-document token never *begins* a sequence: there the boundary separates already, and it is left out.
- No cut falls inside a character (byte-level tokens can be a part of one).
- Nothing is moved back below half of `max_tokens`; then the sequence is cut at its full length.

A sequence has at least two tokens. The cost is a few NumPy passes over the tokens and one step of Python a
sequence; the state between two calls is less than one sequence.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray


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

    def texts(self, first: int, stop: int) -> "EncodedTexts":
        """Return the texts number `first` to `stop` - 1."""
        token_first = int(self.num_tokens[:first].sum())
        tokens = slice(token_first, token_first + int(self.num_tokens[first:stop].sum()))
        return EncodedTexts(
            num_tokens=self.num_tokens[first:stop],
            token_ids=self.token_ids[tokens],
            char_ends=self.char_ends[tokens],
            ends_character=self.ends_character[tokens],
        )


@dataclass(frozen=True, kw_only=True)
class PackedSequences:
    """Finished sequences, in the order of their stream.

    Attributes:
        num_tokens: int64 of shape (sequences,), between 2 and `max_tokens`.
        token_ids: int32 of shape (tokens,), sequence after sequence.
        num_spans: int64 of shape (sequences,): pieces of documents in each sequence, at least 1.
        document_ids: int64 of shape (spans,).
        char_starts: int64 of shape (spans,), in characters of the document.
        char_ends: int64 of shape (spans,). The spans of one document partition its text.
    """

    num_tokens: NDArray[np.int64]
    token_ids: NDArray[np.int32]
    num_spans: NDArray[np.int64]
    document_ids: NDArray[np.int64]
    char_starts: NDArray[np.int64]
    char_ends: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class _Stream:
    """Tokens in their place in the stream, the end-of-document tokens among them; all of shape (tokens,)."""

    token_ids: NDArray[np.int32]
    document_ids: NDArray[np.int64]
    char_starts: NDArray[np.int64]
    char_ends: NDArray[np.int64]
    is_document_end: NDArray[np.bool_]
    ends_character: NDArray[np.bool_]
    ends_sentence: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.token_ids)

    def after(self, position: int) -> "_Stream":
        # Copied, so that a short tail does not keep the arrays of a whole batch alive.
        return _Stream(**{field.name: getattr(self, field.name)[position:].copy() for field in fields(self)})

    def joined(self, other: "_Stream") -> "_Stream":
        return _Stream(
            **{
                field.name: np.concatenate([getattr(self, field.name), getattr(other, field.name)])
                for field in fields(self)
            }
        )


class Packer:
    """Packs one stream, a batch of documents at a time. How the documents are batched changes nothing.

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
        self._rest: _Stream | None = None

    @property
    def open_document_ids(self) -> set[int]:
        """Documents whose last tokens have not been given out yet."""
        return set() if self._rest is None else set(np.unique(self._rest.document_ids).tolist())

    def push(self, document_ids: NDArray[np.int64], texts: EncodedTexts) -> PackedSequences:
        """Add documents, and return the sequences that are now full.

        Args:
            document_ids: int64 of shape (documents,).
            texts: their tokens, in the same order.
        """
        added = self._stream_of(document_ids, texts)
        stream = added if self._rest is None else self._rest.joined(added)
        starts, stops, start = self._cut(stream)
        self._rest = stream.after(start)
        return _pack(stream, starts, stops)

    def finish(self) -> PackedSequences:
        """Return the last, partial sequence, or none where the stream is used up."""
        stream = self._rest if self._rest is not None else _EMPTY
        self._rest = None
        start = 1 if len(stream) and stream.is_document_end[0] else 0
        return _pack(stream, [start], [len(stream)]) if start < len(stream) else _pack(stream, [], [])

    def _stream_of(self, document_ids: NDArray[np.int64], texts: EncodedTexts) -> _Stream:
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
        return _Stream(
            token_ids=token_ids,
            document_ids=np.repeat(document_ids, lengths),
            char_starts=char_starts,
            char_ends=char_ends,
            is_document_end=is_document_end,
            ends_character=ends_character,
            ends_sentence=ends_sentence,
        )

    def _cut(self, stream: _Stream) -> tuple[list[int], list[int], int]:
        """Return where the full sequences start and stop, and where the rest starts."""
        positions = np.arange(len(stream))
        last_sentence_end = np.maximum.accumulate(np.where(stream.ends_sentence, positions, -1))
        last_character_end = np.maximum.accumulate(np.where(stream.ends_character, positions, -1))
        starts: list[int] = []
        stops: list[int] = []
        start = 0
        while len(stream) - start > self._max_tokens:
            if stream.is_document_end[start]:
                start += 1
                continue
            full = start + self._max_tokens
            stop = full
            for last_end in (last_sentence_end, last_character_end):
                trimmed = int(last_end[full - 1]) + 1
                if 2 * (trimmed - start) >= self._max_tokens:
                    stop = trimmed
                    break
            starts.append(start)
            stops.append(stop)
            start = stop
        return starts, stops, start


def _pack(stream: _Stream, starts: list[int], stops: list[int]) -> PackedSequences:
    sequence_starts = np.array(starts, dtype=np.int64)
    sequence_stops = np.array(stops, dtype=np.int64)
    last_stop = stops[-1] if stops else 0
    # A piece begins with a sequence or with a document; tokens between two sequences are left-out document ends.
    document_starts = np.flatnonzero(stream.is_document_end[: max(last_stop - 1, 0)]) + 1
    piece_starts = np.union1d(sequence_starts, document_starts[document_starts >= sequence_starts[:1].sum()])
    sequence_of_piece = np.searchsorted(sequence_starts, piece_starts, side="right") - 1
    piece_stops = np.minimum(np.append(piece_starts[1:], last_stop), sequence_stops[sequence_of_piece])
    is_inside = np.zeros(len(stream) + 1, dtype=np.int8)
    np.add.at(is_inside, sequence_starts, 1)
    np.add.at(is_inside, sequence_stops, -1)
    return PackedSequences(
        num_tokens=sequence_stops - sequence_starts,
        token_ids=stream.token_ids[np.cumsum(is_inside[:-1]).astype(bool)],
        num_spans=np.bincount(sequence_of_piece).astype(np.int64),
        document_ids=stream.document_ids[piece_starts],
        char_starts=stream.char_starts[piece_starts],
        char_ends=stream.char_ends[piece_stops - 1],
    )


_EMPTY = _Stream(
    token_ids=np.empty(0, np.int32),
    document_ids=np.empty(0, np.int64),
    char_starts=np.empty(0, np.int64),
    char_ends=np.empty(0, np.int64),
    is_document_end=np.empty(0, np.bool_),
    ends_character=np.empty(0, np.bool_),
    ends_sentence=np.empty(0, np.bool_),
)
