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

A sequence has at least two tokens. The cost is a few NumPy passes over the tokens of all streams at once, some more
over documents and sequences, and one step of Python a sequence and a stream, however many streams there are; the state
between two calls is less than one sequence a stream.
"""

from bisect import bisect_right
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from miniplm_assets.core.encoded_texts import EncodedTexts

# What tells streams apart.
K = TypeVar("K", bound=Hashable)


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
    char_ends: NDArray[np.int32] | NDArray[np.int64]
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


@dataclass(frozen=True, kw_only=True)
class _Rest:
    """The last tokens of a stream, which ends with a document.

    Attributes:
        tokens: at most as many as a sequence has.
        document_ids: int64 of shape (documents,): those that end in them.
        first_char: where the first token begins in its document.
    """

    tokens: _Tokens
    document_ids: NDArray[np.int64]
    first_char: int


class _Laid:
    """The tokens of some streams, stream after stream, and what stands in each place of them.

    Attributes:
        tokens: none of a stream is missing but those of finished sequences.
        stops: int64 of shape (streams,): where each stream ends.
        document_ids: int64 of shape (documents,): in the order of their ends.
        document_ends: int64 of shape (documents,): where they end.
    """

    def __init__(
        self, rests: Sequence[_Rest], added: Sequence[_Tokens], added_ids: Sequence[NDArray[np.int64]]
    ) -> None:
        parts: list[_Tokens] = []
        document_ids: list[NDArray[np.int64]] = []
        lengths: list[int] = []
        for rest, tokens, ids in zip(rests, added, added_ids, strict=True):
            parts += [rest.tokens, tokens]
            document_ids += [rest.document_ids, ids]
            lengths.append(len(rest.tokens) + len(tokens))
        self.tokens = _joined(parts or [_NO_TOKENS])
        self.stops = np.cumsum(lengths, dtype=np.int64)
        self.document_ids = np.concatenate([_NO_REST.document_ids, *document_ids])
        self.document_ends = np.flatnonzero(self.tokens.is_document_end)
        self._starts = self.stops - np.array(lengths, dtype=np.int64)
        self._first_chars = np.array([rest.first_char for rest in rests], dtype=np.int64)

    def char_starts(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where the tokens in some places begin in their documents."""
        before = places - 1  # of the first place the last one, which is put right below
        starts = np.where(self.tokens.is_document_end[before], 0, self.tokens.char_ends[before].astype(np.int64))
        streams = np.minimum(np.searchsorted(self._starts, places), len(self._starts) - 1)
        is_first = self._starts[streams] == places
        starts[is_first] = self._first_chars[streams[is_first]]
        return starts

    def documents_at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the places in `document_ids` of the documents that tokens belong to."""
        return np.searchsorted(self.document_ends, places)

    def rests(self, starts: Sequence[int]) -> list[_Rest]:
        """Return the last tokens of each stream, from some places on."""
        places = np.array(starts, dtype=np.int64)
        first_chars = self.char_starts(places).tolist()
        first_documents, last_documents = self.documents_at(places), self.documents_at(self.stops)
        # Copied, so that a short rest does not keep the arrays of a whole batch alive.
        return [
            _Rest(
                tokens=self.tokens.part(start, stop).copy(),
                document_ids=self.document_ids[first:last].copy(),
                first_char=first_char,
            )
            for start, stop, first, last, first_char in zip(
                starts, self.stops.tolist(), first_documents, last_documents, first_chars, strict=True
            )
        ]

    def packed(self, cuts: Sequence[Sequence[tuple[int, int]]], rest_starts: Sequence[int]) -> PackedSequences:
        """Return the sequences that are cut out of the streams.

        Args:
            cuts: of each stream, where its sequences start and stop.
            rest_starts: where each stream goes on behind them; nothing of that is finished.
        """
        flat = np.array([place for sequences in cuts for place in sequences], dtype=np.int64).reshape(-1, 2)
        starts, stops = flat[:, 0], flat[:, 1]
        # A piece begins with a sequence, or with a document inside of one.
        begun = self.document_ends + 1
        around = np.searchsorted(starts, begun, side="right") - 1
        is_inside = (around >= 0) & (begun < stops[around]) if len(starts) else np.zeros(len(begun), dtype=np.bool_)
        piece_starts = np.union1d(starts, begun[is_inside])
        sequences = np.searchsorted(starts, piece_starts, side="right") - 1
        piece_stops = np.minimum(np.append(piece_starts[1:], len(self.tokens)), stops[sequences])
        # Where a document goes on in a rest, its end stands there.
        rest = np.searchsorted(self.stops, self.document_ends, side="right")
        is_finished = self.document_ends < np.array(rest_starts, dtype=np.int64)[rest]
        return PackedSequences(
            num_sequences=np.array([len(sequences) for sequences in cuts], dtype=np.int64),
            num_tokens=stops - starts,
            token_ids=np.concatenate(
                [_NO_TOKENS.token_ids, *(self.tokens.token_ids[start:stop] for start, stop in flat.tolist())]
            ),
            num_spans=np.bincount(sequences).astype(np.int64),
            document_ids=self.document_ids[self.documents_at(piece_starts)],
            char_starts=self.char_starts(piece_starts),
            char_ends=self.tokens.char_ends[piece_stops - 1].astype(np.int64),
            finished_document_ids=self.document_ids[is_finished],
        )


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
        self._rests: dict[K, _Rest] = {}

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
        added = self._tokens_of(texts)
        # A document has its text's tokens and its end.
        document_stops = np.cumsum(num_documents, dtype=np.int64)
        stops = np.cumsum(texts.num_tokens + 1)[document_stops - 1].tolist() if len(streams) else []
        laid = _Laid(
            [self._rests.pop(stream, _NO_REST) for stream in streams],
            [added.part(start, stop) for start, stop in pairwise([0, *stops])],
            np.split(document_ids, document_stops[:-1]) if len(streams) else [],
        )
        cuts, rest_starts = self._cut(laid.tokens, laid.stops.tolist())
        self._rests.update(zip(streams, laid.rests(rest_starts), strict=True))
        return laid.packed(cuts, rest_starts)

    def finish(self, streams: Sequence[K]) -> PackedSequences:
        """Return the last, partial sequence of each of some streams, if it has one.

        Args:
            streams: what comes out first; each once, and open.
        """
        rests = [self._rests.pop(stream) for stream in streams]
        laid = _Laid(rests, [_NO_TOKENS] * len(rests), [_NO_REST.document_ids] * len(rests))
        stops = laid.stops.tolist()
        cuts: list[list[tuple[int, int]]] = []
        start = 0
        for stop in stops:
            if start < stop and laid.tokens.is_document_end[start]:
                start += 1
            cuts.append([(start, stop)] if start < stop else [])
            start = stop
        return laid.packed(cuts, stops)

    def _tokens_of(self, texts: EncodedTexts) -> _Tokens:
        """Return the tokens of texts, each with the end of its document behind it."""
        end_positions = np.cumsum(texts.num_tokens + 1) - 1
        num_tokens = len(texts.token_ids) + len(end_positions)
        is_text = np.ones(num_tokens, dtype=np.bool_)
        is_text[end_positions] = False
        token_ids = np.full(num_tokens, self._end_of_document_id, dtype=np.int32)
        token_ids[is_text] = texts.token_ids
        char_ends = np.empty(num_tokens, dtype=texts.char_ends.dtype)
        char_ends[is_text] = texts.char_ends
        char_ends[end_positions] = char_ends[end_positions - 1]
        ends_character = np.ones(num_tokens, dtype=np.bool_)
        if not texts.ends_character.all():
            ends_character[is_text] = texts.ends_character
        ends_sentence = np.zeros(num_tokens, dtype=np.bool_)
        if self._ends_sentence is not None:
            np.logical_and(self._ends_sentence[token_ids], ends_character, out=ends_sentence)
            ends_sentence[end_positions] = True
            ends_sentence[end_positions - 1] = True  # a document's end is a sentence's end
        return _Tokens(
            token_ids=token_ids,
            char_ends=char_ends,
            is_document_end=~is_text,
            ends_character=ends_character,
            ends_sentence=ends_sentence,
        )

    def _cut(self, tokens: _Tokens, stops: list[int]) -> tuple[list[list[tuple[int, int]]], list[int]]:
        """Return where the full sequences of each stream start and stop, and where its rest starts."""
        sentence_ends = np.flatnonzero(tokens.ends_sentence).tolist()
        is_document_end, max_tokens = tokens.is_document_end, self._max_tokens
        cuts: list[list[tuple[int, int]]] = []
        rest_starts: list[int] = []
        start = num_before = 0
        for stream_stop in stops:
            sequences: list[tuple[int, int]] = []
            while stream_stop - start > max_tokens:
                if is_document_end[start]:
                    start += 1
                    continue
                full = start + max_tokens
                # An end in another stream is farther back than half a sequence can reach, or before its start.
                num_before = bisect_right(sentence_ends, full - 1, num_before)
                stop = sentence_ends[num_before - 1] + 1 if num_before else 0
                if 2 * (stop - start) < max_tokens:
                    stop = full
                    while not tokens.ends_character[stop - 1]:
                        stop -= 1
                    if 2 * (stop - start) < max_tokens:
                        stop = full
                sequences.append((start, stop))
                start = stop
            cuts.append(sequences)
            rest_starts.append(start)
            start = stream_stop
        return cuts, rest_starts


_NO_TOKENS = _Tokens(
    token_ids=np.empty(0, np.int32),
    char_ends=np.empty(0, np.int32),
    is_document_end=np.empty(0, np.bool_),
    ends_character=np.empty(0, np.bool_),
    ends_sentence=np.empty(0, np.bool_),
)
_NO_REST = _Rest(tokens=_NO_TOKENS, document_ids=np.empty(0, np.int64), first_char=0)
