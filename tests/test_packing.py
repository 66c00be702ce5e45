"""Packing against a slow plain implementation, and against a case that is worked by hand."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from miniplm_assets.core.encoded_texts import EncodedTexts
from miniplm_assets.core.packing import PackedSequences, Packer

END = 0
STOP = 1  # a token that ends a sentence
ENDS_SENTENCE = np.array([False, True, False, False])
WIDTHS = {
    "num_sequences": np.int64,
    "num_tokens": np.int64,
    "token_ids": np.int32,
    "num_spans": np.int64,
    "document_ids": np.int64,
    "char_starts": np.int64,
    "char_ends": np.int64,
    "finished_document_ids": np.int64,
}


@dataclass
class Text:
    tokens: list[int]
    char_ends: list[int]
    ends_character: list[bool]


def encoded(texts: list[Text]) -> EncodedTexts:
    return EncodedTexts(
        num_tokens=np.array([len(text.tokens) for text in texts], dtype=np.int64),
        token_ids=np.array([token for text in texts for token in text.tokens], dtype=np.int32),
        char_ends=np.array([end for text in texts for end in text.char_ends], dtype=np.int64),
        ends_character=np.array([ends for text in texts for ends in text.ends_character], dtype=bool),
    )


def pack(batches: list[list[Text]], *, max_tokens: int, trims: bool) -> list[tuple[list[int], list[tuple[int, ...]]]]:
    """Pack one stream; its documents are numbered from 100."""
    packer: Packer[str] = Packer(
        max_tokens=max_tokens, end_of_document_id=END, ends_sentence=ENDS_SENTENCE if trims else None
    )
    first = 100
    sequences = []
    finished: list[int] = []
    for batch in batches:
        packed = push(packer, list(range(first, first + len(batch))), batch)
        first += len(batch)
        sequences += as_lists(packed)
        finished += packed.finished_document_ids.tolist()
    packed = packer.finish(packer.open_streams)
    assert packer.open_streams == []
    assert sorted([*finished, *packed.finished_document_ids.tolist()]) == list(range(100, first))
    return sequences + as_lists(packed)


def push(packer: Packer[str], document_ids: list[int], texts: list[Text]) -> PackedSequences:
    return packer.push(["only"], [len(texts)], np.array(document_ids), encoded(texts))


def as_lists(packed: PackedSequences) -> list[tuple[list[int], list[tuple[int, ...]]]]:
    spans = list(zip(packed.document_ids.tolist(), packed.char_starts.tolist(), packed.char_ends.tolist(), strict=True))
    tokens = packed.token_ids.tolist()
    sequences = []
    for num_tokens, num_spans in zip(packed.num_tokens.tolist(), packed.num_spans.tolist(), strict=True):
        sequences.append((tokens[:num_tokens], spans[:num_spans]))
        tokens, spans = tokens[num_tokens:], spans[num_spans:]
    assert not tokens and not spans
    assert int(packed.num_sequences.sum()) == len(sequences)
    return sequences


def packed_plainly(texts: list[Text], *, max_tokens: int, trims: bool) -> list[tuple[list[int], list[tuple[int, ...]]]]:
    """One token after the other, with nothing but lists."""
    stream = []
    for document_id, text in enumerate(texts, start=100):
        start = 0
        for place, token in enumerate(text.tokens):
            is_last = place == len(text.tokens) - 1
            end = text.char_ends[place]
            ends_character = text.ends_character[place]
            ends_sentence = is_last or (token == STOP and ends_character)
            stream.append((token, document_id, start, end, ends_character, ends_sentence))
            start = end
        stream.append((END, document_id, start, start, True, True))
    sequences = []
    while stream:
        if stream[0][0] == END:
            stream.pop(0)
            continue
        window = stream[:max_tokens]
        length = len(window)
        if len(stream) > max_tokens:
            allowed = range((max_tokens + 1) // 2, max_tokens + 1)
            at_sentence = [n for n in allowed if trims and window[n - 1][5]]
            at_character = [n for n in allowed if window[n - 1][4]]
            length = max(at_sentence or at_character or [max_tokens])
        sequence, stream = stream[:length], stream[length:]
        spans = []
        for document_id in sorted({token[1] for token in sequence}):
            own = [token for token in sequence if token[1] == document_id]
            spans.append((document_id, own[0][2], own[-1][3]))
        sequences.append(([token[0] for token in sequence], spans))
    return sequences


@st.composite
def a_text(draw: st.DrawFn) -> Text:
    tokens = draw(st.lists(st.integers(1, 3), min_size=1, max_size=40))
    ends_character = [draw(st.booleans()) for _ in tokens[1:]] + [True]
    steps = [draw(st.integers(1, 3)) for _ in tokens]
    return Text(tokens, np.cumsum(steps).tolist(), ends_character)


@given(st.lists(a_text(), max_size=12), st.integers(8, 24), st.booleans(), st.data())
def test_packing_equals_the_plain_implementation(
    texts: list[Text], max_tokens: int, trims: bool, data: st.DataObject
) -> None:
    borders = sorted(data.draw(st.lists(st.integers(0, len(texts)), max_size=3)))
    batches = [texts[a:b] for a, b in zip([0, *borders], [*borders, len(texts)], strict=True) if b > a]

    sequences = pack(batches, max_tokens=max_tokens, trims=trims)

    assert sequences == packed_plainly(texts, max_tokens=max_tokens, trims=trims)
    assert all(2 <= len(tokens) <= max_tokens for tokens, _ in sequences)
    kept = [token for tokens, _ in sequences for token in tokens if token != END]
    assert kept == [token for text in texts for token in text.tokens]
    for document_id, text in enumerate(texts, start=100):
        spans = [span[1:] for _, its_spans in sequences for span in its_spans if span[0] == document_id]
        assert [start for start, _ in spans] == [0, *[end for _, end in spans[:-1]]]
        assert spans[-1][1] == text.char_ends[-1]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), a_text()), max_size=24),
    st.integers(8, 24),
    st.booleans(),
    st.integers(1, 9),
)
def test_each_stream_is_packed_as_if_it_were_alone(
    documents: list[tuple[str, Text]], max_tokens: int, trims: bool, num_at_once: int
) -> None:
    packer: Packer[str] = Packer(
        max_tokens=max_tokens, end_of_document_id=END, ends_sentence=ENDS_SENTENCE if trims else None
    )
    found: dict[str, list[tuple[list[int], list[tuple[int, ...]]]]] = {stream: [] for stream in "abc"}

    def take(streams: list[str], packed: PackedSequences) -> None:
        sequences = as_lists(packed)
        for stream, num_sequences in zip(streams, packed.num_sequences.tolist(), strict=True):
            found[stream] += sequences[:num_sequences]
            sequences = sequences[num_sequences:]

    # A document's number says which of its stream it is, as in a stream that is packed alone.
    numbers = dict.fromkeys("abc", 100)
    for first in range(0, len(documents), num_at_once):
        batch = sorted(documents[first : first + num_at_once], key=lambda document: document[0])
        ids = []
        for stream, _ in batch:
            ids.append(numbers[stream])
            numbers[stream] += 1
        streams = sorted({stream for stream, _ in batch})
        num_documents = [sum(one == stream for one, _ in batch) for stream in streams]
        take(streams, packer.push(streams, num_documents, np.array(ids), encoded([text for _, text in batch])))
    last_ones = sorted(packer.open_streams)
    take(last_ones, packer.finish(last_ones))

    for stream in "abc":
        texts = [text for one, text in documents if one == stream]
        assert found[stream] == packed_plainly(texts, max_tokens=max_tokens, trims=trims)


def letters(tokens: list[int]) -> Text:
    return Text(tokens, list(range(1, len(tokens) + 1)), [True] * len(tokens))


def test_a_case_worked_by_hand() -> None:
    texts = [letters([2, 2, 2, 1, 2, 2]), letters([3, 3, 3, 3, 1, 3]), letters([2, 2, 2])]

    # 2 2 2 . 2 2 E 3 | 3 3 3 . 3 E 2 2 | 2 E; the last ends that fit: the first E, and after the second E
    assert pack([texts], max_tokens=8, trims=True) == [
        ([2, 2, 2, 1, 2, 2, END], [(100, 0, 6)]),
        ([3, 3, 3, 3, 1, 3, END], [(101, 0, 6)]),
        ([2, 2, 2, END], [(102, 0, 3)]),
    ]
    assert pack([texts], max_tokens=8, trims=False) == [
        ([2, 2, 2, 1, 2, 2, END, 3], [(100, 0, 6), (101, 0, 1)]),
        ([3, 3, 3, 1, 3, END, 2, 2], [(101, 1, 6), (102, 0, 2)]),
        ([2, END], [(102, 2, 3)]),
    ]


def test_an_end_of_document_begins_no_sequence() -> None:
    assert pack([[letters([2] * 8), letters([3])]], max_tokens=8, trims=True) == [
        ([2] * 8, [(100, 0, 8)]),
        ([3, END], [(101, 0, 1)]),
    ]
    assert pack([[letters([2] * 8)]], max_tokens=8, trims=True) == [([2] * 8, [(100, 0, 8)])]


def test_nothing_is_trimmed_below_half() -> None:
    # The only sentence end stands at 3 of 8, so the sequence is cut at its full length.
    assert [len(tokens) for tokens, _ in pack([[letters([2, 2, 1, *[2] * 9])]], max_tokens=8, trims=True)] == [8, 5]
    # At 4 of 8 it counts.
    assert [len(tokens) for tokens, _ in pack([[letters([2, 2, 2, 1, *[2] * 8])]], max_tokens=8, trims=True)] == [4, 8]


def test_no_cut_falls_inside_a_character() -> None:
    # Tokens 6 to 9 are one character of four bytes.
    text = Text([2] * 12, [1, 2, 3, 4, 5, 6, 6, 6, 6, 7, 8, 9], [True] * 5 + [False] * 3 + [True] * 4)
    assert pack([[text]], max_tokens=8, trims=False) == [([2] * 5, [(100, 0, 5)]), ([2] * 7 + [END], [(100, 5, 9)])]


def test_no_documents_give_no_sequences() -> None:
    assert pack([], max_tokens=8, trims=True) == []


def test_several_ends_of_documents_begin_no_sequence() -> None:
    # Each text fills a sequence, so that each end would begin the next one, far from the stream's own end.
    assert pack([[letters([2] * 8)] * 4 + [letters([3] * 3)]], max_tokens=8, trims=True) == [
        *[([2] * 8, [(document_id, 0, 8)]) for document_id in (100, 101, 102, 103)],
        ([3, 3, 3, END], [(104, 0, 3)]),
    ]


def test_half_is_counted_from_where_the_sequence_starts() -> None:
    # Two full sequences; then the only sentence end stands at 3 of 8 again, far beyond half of 8 from the beginning.
    text = letters([*[2] * 16, 2, 2, 1, *[2] * 9])
    assert [len(tokens) for tokens, _ in pack([[text]], max_tokens=8, trims=True)] == [8, 8, 8, 5]


def test_a_document_is_finished_with_its_last_token() -> None:
    packer: Packer[str] = Packer(max_tokens=8, end_of_document_id=END, ends_sentence=None)
    assert packer.open_streams == []
    packed = push(packer, [100], [letters([2] * 3)])
    assert (len(packed.num_tokens), packed.finished_document_ids.tolist()) == (0, [])
    assert packer.open_streams == ["only"]
    packed = push(packer, [101], [letters([3] * 9)])
    assert as_lists(packed) == [([2, 2, 2, END, 3, 3, 3, 3], [(100, 0, 3), (101, 0, 4)])]
    assert packed.finished_document_ids.tolist() == [100]
    packed = packer.finish(["only"])
    assert as_lists(packed) == [([3] * 5 + [END], [(101, 4, 9)])]
    assert packed.finished_document_ids.tolist() == [101]
    assert packer.open_streams == []


@pytest.mark.parametrize("ends_sentence", [None, ENDS_SENTENCE])
def test_columns_have_the_widths_that_are_stored(ends_sentence: NDArray[np.bool_] | None) -> None:
    packer: Packer[str] = Packer(max_tokens=8, end_of_document_id=END, ends_sentence=ends_sentence)
    for packed in (push(packer, [100], [letters([2] * 20)]), packer.finish(["only"]), packer.finish([])):
        assert {name: getattr(packed, name).dtype for name in WIDTHS} == WIDTHS
        assert packed.document_ids.tolist() == [100] * len(packed.num_tokens)


def test_a_sequence_needs_room_for_a_character_in_its_second_half() -> None:
    with pytest.raises(AssertionError, match="^7$"):
        Packer(max_tokens=7, end_of_document_id=END, ends_sentence=None)


def test_texts_are_taken_out_with_their_tokens() -> None:
    texts = encoded([letters([1]), letters([2, 3]), Text([1, 2, 3], [1, 1, 2], [False, True, True]), letters([2])])
    middle = texts.texts(1, 3)
    assert middle.num_tokens.tolist() == [2, 3]
    assert middle.token_ids.tolist() == [2, 3, 1, 2, 3]
    assert middle.char_ends.tolist() == [1, 2, 1, 1, 2]
    assert middle.ends_character.tolist() == [True, True, False, True, True]
    assert texts.texts(0, 1).token_ids.tolist() == [1]
    assert texts.texts(4, 4).token_ids.tolist() == []
