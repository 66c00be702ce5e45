"""tiktoken gives the ids that the tokenizers library gives, or is not used."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from miniplm_assets.corpus.demo import write_demo_corpus
from miniplm_assets.corpus.encoding import PackingTokenizer
from miniplm_assets.corpus.fast_merges import GPT2_PATTERN
from miniplm_assets.experiment import DemoSource

QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
END = "<|endoftext|>"


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
    return trained(texts, QWEN_PATTERN, vocab_size=8_000, normalizer=normalizers.NFC())


@pytest.fixture(scope="module")
def gpt2(texts) -> Tokenizer:
    tokenizer = trained(texts, GPT2_PATTERN, vocab_size=2_000, normalizer=None)
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


CATEGORIES = ("L", "N", "M", "P", "S", "Lu", "Ll", "Lt", "Lm", "Lo")
SAME = [*(rf"\p{{{category}}}" for category in CATEGORIES), r"\s", "(?i:s)", "(?i:t)", "(?i:r)", "(?i:l)", "(?i:d)"]


@pytest.mark.parametrize("expression", SAME)
def test_both_libraries_know_the_same_characters(expression):
    everything = "".join(chr(point) for point in range(0x110000) if not 0xD800 <= point <= 0xDFFF)
    bytes_alone = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding("test", pat_str=expression, mergeable_ranks=bytes_alone, special_tokens={})
    matched = encoding.decode(encoding.encode_ordinary(everything))  # what does not match is left out
    split = pre_tokenizers.Split(Regex(expression), behavior="removed", invert=True)
    assert matched == "".join(piece for piece, _ in split.pre_tokenize_str(everything))


def bpe(vocabulary: list[str], merges: list[tuple[str, str]]) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = {piece: place for place, piece in enumerate([END, *alphabet, *vocabulary])}
    tokenizer = Tokenizer(models.BPE(vocab=pieces, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    return tokenizer


def test_merges_that_do_not_lead_to_their_own_token_are_left_to_the_slow_way():
    # "abc" is a + bc, but ab comes first, so that the list makes ab + c of it, and tiktoken would make abc.
    tokenizer = bpe(["ab", "bc", "abc"], [("a", "b"), ("b", "c"), ("a", "bc")])
    fast = packing(tokenizer)
    assert fast.fast_merges is None
    ids = fast.encode(["abc"]).token_ids.tolist()
    assert ids == slow_ids(tokenizer, ["abc"]) and len(ids) == 2
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"ab": 256, b"bc": 257, b"abc": 258}
    theirs = tiktoken.Encoding("test", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={})
    assert len(theirs.encode_ordinary("abc")) == 1


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
def test_what_tiktoken_cannot_do_is_left_to_the_slow_way(changes, gpt2):
    assert packing(gpt2, **changes).fast_merges is None


def cut_by(tokenizer: Tokenizer, expression: str) -> dict[str, Any]:
    """Return the change that lets a tokenizer cut by another expression."""
    split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]}}


OTHER_TO_BOTH = (
    "[[:alpha:]]+|[^[:alpha:]]+",
    "^ab|.+",
    "ab$|.+",
    r"\h+|\H+",
    r"\o{101}|a",
    "[a-z&&[^b]]+|b",
    r"\p{Han}+",
)
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)"
    r"|\s+"
)


@pytest.mark.parametrize("expression", [*OTHER_TO_BOTH, r"\p{Han}+", r"\p{N}{1,3}+|a", "[a-z--b]+"])
def test_an_expression_that_the_libraries_may_read_in_two_ways_is_left_to_the_slow_way(expression, gpt2):
    changes = cut_by(gpt2, expression)
    fast = packing(gpt2, **changes)
    assert fast.fast_merges is None
    spec = json.loads(gpt2.to_str()) | changes
    text = "éab1 a\nab 日本"
    assert fast.encode([text]).token_ids.tolist() == slow_ids(Tokenizer.from_str(json.dumps(spec)), [text])


@pytest.mark.parametrize(
    "expression",
    [
        GPT2_PATTERN,
        LLAMA_3,
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s+",
    ],
    ids=["GPT-2", "Llama 3 and Qwen", "o200k"],
)
def test_the_expressions_of_the_families_in_use_are_the_same_to_both(expression, gpt2):
    assert packing(gpt2, **cut_by(gpt2, expression)).fast_merges is not None


def test_sequences_are_the_same_rows_either_way(texts, qwen, tmp_path: Path, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from miniplm_assets.core.recipe import fingerprint_of
    from miniplm_assets.corpus.sequences import write_sequences
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
