"""gigatoken gives the ids that the tokenizers library gives, or is not used."""

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from miniplm_assets.corpus import fast_merges
from miniplm_assets.corpus.demo import write_demo_corpus
from miniplm_assets.corpus.encoding import _BYTE_OF, PackingTokenizer
from miniplm_assets.corpus.fast_merges import LLAMA_3, O200K, PROVEN, QWEN, QWEN_3_5, all_known, find_fast_merges
from miniplm_assets.corpus.tokenizer import WORDS
from miniplm_assets.experiment import DemoSource

pytestmark = pytest.mark.long

END = "<|endoftext|>"
# What the ByteLevel pre-tokenizer cuts by, unless it is told not to.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> list[str]:
    """The whole demo corpus."""
    folder = tmp_path_factory.mktemp("demo")
    write_demo_corpus(DemoSource(type="demo", num_shards=1, megabytes=6, noise_share=0.22), folder, lambda _: None)
    lines = (folder / "shard-0000.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


def trained(texts: list[str], pattern: str, *, vocab_size: int, normalizer: normalizers.Normalizer | None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, spell])
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


@pytest.fixture(scope="module")
def qwen(texts) -> Tokenizer:
    return trained(texts, QWEN, vocab_size=8_000, normalizer=normalizers.NFC())


@pytest.fixture(scope="module")
def gpt2(texts) -> Tokenizer:
    tokenizer = trained(texts, GPT2, vocab_size=2_000, normalizer=None)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def packing(tokenizer: Tokenizer, **changes) -> PackingTokenizer:
    spec = json.loads(tokenizer.to_str())
    return PackingTokenizer({**spec, **changes}, end_of_document=END, named="test")


@cache
def plain(tokenizer: Tokenizer) -> Tokenizer:
    spec = json.loads(tokenizer.to_str())
    return Tokenizer.from_str(json.dumps({**spec, "added_tokens": []}))  # special tokens are ordinary text here


def slow_ids(tokenizer: Tokenizer, texts: list[str]) -> list[int]:
    return [token_id for text in texts for token_id in plain(tokenizer).encode(text, add_special_tokens=False).ids]


@pytest.mark.parametrize("kind", ["qwen", "gpt2"])
def test_the_whole_demo_corpus_has_the_same_ids(kind, request, texts):
    tokenizer = request.getfixturevalue(kind)
    fast = packing(tokenizer)
    assert fast.fast_merges is not None
    encoded = fast.encode(texts)
    assert len(texts) > 1_000
    assert encoded.token_ids.tolist() == slow_ids(tokenizer, texts)
    # And the places are those that the bytes have.
    ends = np.cumsum(encoded.num_tokens) - 1
    assert encoded.char_ends[ends].tolist() == [len(text) for text in texts]


NASTY = st.text(
    alphabet=st.one_of(
        st.sampled_from(" \t\n\r'’stTrReEvVlLdDmſKK12²½é\u0301\u00a0\u2003\u3000\u200b\x00\x85<|>endoftxfﬆß"),  # noqa: RUF001
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=60,
)


@settings(max_examples=400, deadline=None)
@given(several=st.lists(NASTY, min_size=1, max_size=5))
def test_any_text_has_the_same_ids(several, qwen, gpt2):
    for tokenizer in (qwen, gpt2):
        assert packing_of(tokenizer).encode(several).token_ids.tolist() == slow_ids(tokenizer, several)


@cache
def packing_of(tokenizer: Tokenizer) -> PackingTokenizer:
    return packing(tokenizer)


@pytest.mark.parametrize("text", ["x" + " " * 300_000 + "y", "a" * 300_000, "\n" * 300_000, END * 1_000, "\0" * 1_000])
def test_hostile_texts_have_the_same_ids(text, qwen, gpt2):
    for tokenizer in (qwen, gpt2):
        assert packing_of(tokenizer).encode(["before", text, "after"]).token_ids.tolist() == slow_ids(
            tokenizer, ["before", text, "after"]
        )


def cuts_of(pattern: str | None, *, backwards: bool) -> Tokenizer:
    """Return a tokenizer whose ids tell where a text is cut.

    A token is a byte, or two neighbours of which the first may end a character and the second may begin one. Both are
    one token where they stand in one piece; of three letters of ASCII the first two, or the last two: `backwards`.
    """
    ends, begins = [*range(0x80), *range(0x80, 0xC0)], [*range(0x80), *range(0xC2, 0xF5)]
    pairs = [(_SPELT[first], _SPELT[second]) for first in ends for second in begins]
    pieces = [*_SPELT.values(), *("".join(pair) for pair in pairs)]
    if backwards:
        pairs.reverse()
    tokenizer = Tokenizer(models.BPE(vocab={piece: place for place, piece in enumerate(pieces)}, merges=pairs))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    split = [] if pattern is None else [pre_tokenizers.Split(Regex(pattern), "isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, level]) if split else level
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


_SPELT = {byte: character for character, byte in sorted(_BYTE_OF.items())}
EXPRESSIONS = {"GPT-2": None, "Qwen": QWEN, "Llama 3": LLAMA_3, "Qwen 3.5": QWEN_3_5, "o200k": O200K}
# One or more of each kind that an expression names.
KINDS = ("a", "S", "ǅ", "ʰ", "中", "1", "²", "\u0301", "\u0903", " ", "\n", "\r", "\t", "\u00a0", "'", "’", "!", "/", "🙂", "ſ", "l", "\0")  # fmt: skip  # noqa: E501, RUF001


def differing(tokenizer: Tokenizer, texts: Iterable[str]) -> list[str]:
    fast = find_fast_merges(json.loads(tokenizer.to_str()), tokenizer, _BYTE_OF)
    assert fast is not None
    return [text for text in texts if fast.encode([text])[0].tolist() != tokenizer.encode(text).ids]


def test_the_tokenizers_that_are_trained_here_are_cut_by_a_proven_expression():
    assert WORDS in PROVEN and set(PROVEN) == set(EXPRESSIONS.values()) - {None}


@pytest.mark.parametrize("named", EXPRESSIONS)
@pytest.mark.parametrize("backwards", [False, True])
def test_every_short_text_of_one_character_of_each_kind_is_cut_the_same(named, backwards):
    tokenizer = cuts_of(EXPRESSIONS[named], backwards=backwards)
    # What follows a character of several bytes, or comes before it, is seen in either order.
    kinds = [kind for kind in KINDS if kind.isascii()] if backwards else KINDS
    texts = ("".join(several) for length in (1, 2, 3) for several in product(kinds, repeat=length))
    assert differing(tokenizer, texts) == []
    generator = random.Random(5)  # and longer ones, since the faster library looks at many bytes at once
    longer = ("".join(generator.choices(KINDS, k=generator.randrange(4, 150))) for _ in range(300))
    assert differing(tokenizer, longer) == []


@pytest.mark.parametrize("named", EXPRESSIONS)
def test_every_character_of_unicode_is_cut_the_same_beside_each_kind(named):
    tokenizer = cuts_of(EXPRESSIONS[named], backwards=False)
    known = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000 and all_known(chr(point))]
    assert len(known) > 140_000
    for beside in ("a", "1", "!", " ", "\u0301"):
        texts = [beside.join(["", *known[first : first + 5_000], ""]) for first in range(0, len(known), 5_000)]
        assert differing(tokenizer, texts) == []


@pytest.mark.parametrize("character", ["\U000323b0", "\U00011db0", "\u1aeb", "\ue000", "\U0010ffff"])
def test_a_text_with_a_character_that_came_later_is_left_to_the_slow_way(character, qwen, monkeypatch):
    assert not all_known(f"before {character} after")
    fast = packing_of(qwen)
    slow = []
    monkeypatch.setattr(fast.fast_merges, "_slow", Slow(fast.fast_merges._slow, slow))
    text = f"before{character}after"
    assert fast.encode([text]).token_ids.tolist() == slow_ids(qwen, [text])
    assert slow == [text]


def test_the_words_that_it_keeps_are_dropped_after_some_text(qwen, monkeypatch):
    fast = packing(qwen)
    first = fast.fast_merges._fast
    monkeypatch.setattr("miniplm_assets.corpus.fast_merges.MAX_BYTES_OF_CACHE", 30)
    for _ in range(2):
        assert fast.encode(["some words of a text"]).token_ids.tolist() == slow_ids(qwen, ["some words of a text"])
    assert fast.fast_merges._fast is not first


@dataclass
class Slow:
    """Notes what the slow tokenizer is asked for."""

    tokenizer: Tokenizer
    asked: list[str]

    def encode(self, text: str, **options: Any) -> Any:
        self.asked.append(text)
        return self.tokenizer.encode(text, **options)


def bpe(vocabulary: list[str], merges: list[tuple[str, str]]) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = {piece: place for place, piece in enumerate([END, *alphabet, *vocabulary])}
    tokenizer = Tokenizer(models.BPE(vocab=pieces, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    return tokenizer


def test_merges_that_do_not_lead_to_their_own_token_are_left_to_the_slow_way():
    # "abc" is a + bc, but ab comes first, so that the list makes ab + c of it.
    # Who takes a piece that is a token at once makes abc.
    tokenizer = bpe(["ab", "bc", "abc"], [("a", "b"), ("b", "c"), ("a", "bc")])
    fast = packing(tokenizer)
    assert fast.fast_merges is None
    ids = fast.encode(["abc"]).token_ids.tolist()
    assert ids == slow_ids(tokenizer, ["abc"]) and len(ids) == 2


def test_ids_that_are_not_in_the_order_of_the_merges_are_mapped():
    tokenizer = bpe(["abc", "ab", "bd"], [("b", "d"), ("a", "b"), ("ab", "c")])
    fast = packing(tokenizer)
    assert fast.fast_merges is not None
    assert fast.encode(["abcabd bdab"]).token_ids.tolist() == slow_ids(tokenizer, ["abcabd bdab"])


@pytest.mark.parametrize(
    "changes",
    [
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {
            "added_tokens": [
                {
                    "id": 0, "content": END, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
                    "normalized": False,
                },
                {
                    "id": 9_000, "content": "tool", "special": False, "single_word": False, "lstrip": False,
                    "rstrip": False, "normalized": False,
                },
            ]
        },
    ],
)  # fmt: skip
def test_what_the_fast_way_may_do_otherwise_is_left_to_the_slow_way(changes, gpt2):
    assert packing(gpt2, **changes).fast_merges is None


def test_tokens_that_share_an_id_are_left_to_the_slow_way(gpt2):
    spec = json.loads(gpt2.to_str())
    vocabulary = spec["model"]["vocab"] | {"®": spec["model"]["vocab"]["a"]}
    assert packing(gpt2, model=spec["model"] | {"vocab": vocabulary}).fast_merges is None


def test_what_gigatoken_does_not_take_is_left_to_the_slow_way(gpt2, monkeypatch):
    def refuse(_: str) -> None:
        raise RuntimeError("Byte remapping failed")

    monkeypatch.setattr(fast_merges, "load_hf_json", refuse)
    fast = packing(gpt2)
    assert fast.fast_merges is None
    assert fast.encode(["some text"]).token_ids.tolist() == slow_ids(gpt2, ["some text"])


def cut_by(tokenizer: Tokenizer, expression: str) -> dict[str, Any]:
    """Return the change that lets a tokenizer cut by another expression."""
    split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]}}


@pytest.mark.parametrize("expression", [GPT2, r"[[:alpha:]]+|[^[:alpha:]]+", r"\p{Han}+", r"\p{N}{1,3}+|a"])
def test_an_expression_that_nobody_has_proven_is_left_to_the_slow_way(expression, gpt2):
    changes = cut_by(gpt2, expression)
    fast = packing(gpt2, **changes)
    assert fast.fast_merges is None
    spec = json.loads(gpt2.to_str()) | changes
    text = "éab1 a\nab 日本"
    assert fast.encode([text]).token_ids.tolist() == slow_ids(Tokenizer.from_str(json.dumps(spec)), [text])


def test_sequences_are_the_same_rows_either_way(texts, qwen, tmp_path: Path, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from miniplm_assets.core.recipe import fingerprint_of
    from miniplm_assets.corpus.sequences import tokenizer_of, write_sequences
    from miniplm_assets.corpus.tables import DOCUMENTS
    from miniplm_assets.experiment.schema import Sequences

    rows = [
        {
            "document_id": place, "shard": "a", "line": place + 1, "domain": "web", "split": "candidate", "text": text,
            "num_bytes": len(text.encode()),
        }
        for place, text in enumerate(texts[:800])
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema=DOCUMENTS), tmp_path / "documents.parquet", row_group_size=100)
    (tmp_path / "tokenizer").mkdir()
    qwen.save(str(tmp_path / "tokenizer" / "tokenizer.json"))
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text(json.dumps({"eos_token": END}))
    written = []
    for way in ("fast", "slow"):
        (tmp_path / way).mkdir()
        if way == "slow":
            tokenizer_of.cache_clear()
            monkeypatch.setattr(PackingTokenizer, "fast_merges", None)
        write_sequences(
            tmp_path / "documents.parquet",
            shard="a",
            tokenizer_folder=tmp_path / "tokenizer",
            sequences=Sequences(sequence_length=128),
            shard_fingerprint=fingerprint_of("a"),
            folder=tmp_path / way,
            report=lambda _: None,
        )
        written.append((tmp_path / way / "sequences.parquet").read_bytes())
    assert written[0] == written[1]
