"""From documents to sequences on real tokenizers: every token and every character stands in exactly one sequence."""

import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, normalizers

from miniplm_assets.core.errors import CorpusError
from miniplm_assets.corpus import sequences as sequences_module
from miniplm_assets.corpus.sequences import write_sequences
from miniplm_assets.corpus.tables import DOCUMENTS, RowGroupWriter
from miniplm_assets.corpus.tokenizer import END_OF_DOCUMENT, load_tokenizer, train_tokenizer
from miniplm_assets.experiment.schema import Sequences

WORDS = [
    "the",
    "Hund",
    "läuft.",
    "北京。",
    "再",
    "🎉",
    "👩‍👧",
    "e\u0301",
    "\n\n",
    "(end!)",
    END_OF_DOCUMENT,
    "\x00",
    "x" * 30,
]
FINGERPRINT = "fedcba9876543210" * 2


def random_texts(count: int, *, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.choice([1, 3, 30, 300]))) for _ in range(count)]


@pytest.fixture(params=["plain", "NFC"])
def tokenizer_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A byte-level tokenizer so small that most characters take several tokens."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    train_tokenizer(iter(random_texts(50, seed=0)), vocab_size=300, folder=folder)
    if request.param == "NFC":
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def write_documents(path: Path, texts: list[str]) -> list[dict[str, Any]]:
    rng = random.Random(1)
    rows = [
        {
            "document_id": 1_000 + number,
            "shard": "s.jsonl",
            "line": number + 1,
            "domain": rng.choice(["web", "books"]),
            "split": rng.choice(["candidate", "candidate", "reference", "validation"]),
            "text": text,
            "num_bytes": len(text.encode()),
        }
        for number, text in enumerate(texts)
    ]
    with RowGroupWriter(path, DOCUMENTS) as writer:
        for start in range(0, len(rows), 50):
            part = rows[start : start + 50]
            writer.write({name: [row[name] for row in part] for name in DOCUMENTS.names})
    return rows


def pack(documents: Path, tokenizer_folder: Path, folder: Path, **settings: Any) -> tuple[dict[str, Any], list[Any]]:
    facts = write_sequences(
        documents,
        shard="s.jsonl",
        tokenizer_folder=tokenizer_folder,
        sequences=Sequences(**settings),
        shard_fingerprint=FINGERPRINT,
        folder=folder,
        report=lambda _: None,
    )
    return facts, pq.read_table(folder / "sequences.parquet").to_pylist()


@pytest.mark.parametrize("trims", [True, False])
def test_every_token_and_character_is_in_one_sequence(
    tmp_path: Path, tokenizer_folder: Path, trims: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequences_module, "_CHUNK_BYTES", 10_000)
    documents = write_documents(tmp_path / "documents.parquet", random_texts(200, seed=2))
    facts, rows = pack(
        tmp_path / "documents.parquet", tokenizer_folder, tmp_path, sequence_length=40, trim_to_sentence_end=trims
    )
    by_id = {row["document_id"]: row for row in documents}
    first_id = int(FINGERPRINT[:9], 16) << 27
    assert [row["sequence_id"] for row in rows] == list(range(first_id, first_id + len(rows)))

    spans: dict[int, list[tuple[int, int]]] = {}
    tokens: dict[tuple[str, str], list[int]] = {}
    tokenizer = load_tokenizer(tokenizer_folder)
    end_id = tokenizer.end_of_document_id
    for row in rows:
        assert row["shard"] == "s.jsonl"
        assert 2 <= row["num_tokens"] == len(row["token_ids"]) <= 41
        assert row["token_ids"][0] != end_id
        assert row["num_bytes"] == sum(len(text.encode()) for text in row["texts"])
        for span, text in zip(row["spans"], row["texts"], strict=True):
            document = by_id[span["document_id"]]
            assert (row["domain"], row["split"]) == (document["domain"], document["split"])
            assert text == document["text"][span["char_start"] : span["char_end"]]
            spans.setdefault(span["document_id"], []).append((span["char_start"], span["char_end"]))
        tokens.setdefault((row["domain"], row["split"]), []).extend(id_ for id_ in row["token_ids"] if id_ != end_id)
    for document_id, document in by_id.items():
        starts, ends = zip(*spans[document_id], strict=True)
        assert starts == (0, *ends[:-1]) and ends[-1] == len(document["text"])
    # The library itself, one text at a time, special tokens spelt out.
    theirs = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    theirs.encode_special_tokens = True
    for key, its_tokens in tokens.items():
        own = [row["text"] for row in documents if (row["domain"], row["split"]) == key]
        assert its_tokens == [id_ for text in own for id_ in theirs.encode(text, add_special_tokens=False).ids]
    # What a sequence holds reads back as its texts.
    for row in rows:
        parts = theirs.decode(row["token_ids"], skip_special_tokens=False).split(END_OF_DOCUMENT)
        if theirs.normalizer is None and not any(END_OF_DOCUMENT in text for text in row["texts"]):
            assert [part for part in parts if part] == row["texts"]

    assert facts["num_documents"] == 200
    assert facts["num_sequences"] == len(rows)
    assert facts["num_tokens"] == sum(row["num_tokens"] for row in rows) == sum(facts["tokens_per_split"].values())
    assert facts["num_bytes"] == sum(row["num_bytes"] for row in rows) == sum(row["num_bytes"] for row in documents)
    assert facts["tokens_per_split"]["teacher"] == 0


def test_trimmed_sequences_end_with_sentences(tmp_path: Path, tokenizer_folder: Path) -> None:
    write_documents(tmp_path / "documents.parquet", ["Short one. " * 100, "Is it? " * 100])
    _, rows = pack(tmp_path / "documents.parquet", tokenizer_folder, tmp_path, sequence_length=64)
    assert {row["texts"][-1][-1] for row in rows if row["num_tokens"] == 65 or len(row["texts"][-1]) > 11} <= set(".? ")
    ends = [row["texts"][-1].rstrip()[-1] for row in rows]
    assert set(ends) <= {".", "?"}


def test_an_empty_shard_gives_an_empty_file(tmp_path: Path, tokenizer_folder: Path) -> None:
    write_documents(tmp_path / "documents.parquet", [])
    facts, rows = pack(tmp_path / "documents.parquet", tokenizer_folder, tmp_path)
    assert rows == [] and facts["num_sequences"] == 0


def test_a_document_that_the_tokenizer_cannot_encode_is_a_rejected_row(tmp_path: Path, tokenizer_folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    tokenizer.normalizer = normalizers.Replace("\x00", "")
    tokenizer.save(str(tokenizer_folder / "tokenizer.json"))
    # A piece of ordinary words ends documents: a word with it would end one in its middle.
    (tokenizer_folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "z"}))
    texts = ["words", "\x00\x00", "a zoo", "more words"]
    write_documents(tmp_path / "documents.parquet", texts)
    facts, rows = pack(tmp_path / "documents.parquet", tokenizer_folder, tmp_path)
    assert sorted(text for row in rows for text in row["texts"]) == ["more words", "words"]
    assert (facts["num_documents"], facts["num_rejected"]) == (2, 2)
    rejected = pq.read_table(tmp_path / "rejected.parquet").to_pylist()
    assert [(row["file"], row["line"], row["reason"], row["excerpt"]) for row in rejected] == [
        ("s.jsonl", 2, "no_tokens", "\x00\x00"),
        ("s.jsonl", 3, "end_of_document_inside", "a zoo"),
    ]
    write_documents(tmp_path / "documents.parquet", texts[1:3])
    with pytest.raises(CorpusError, match=r"none of its 2 documents \(end_of_document_inside 1, no_tokens 1\)"):
        pack(tmp_path / "documents.parquet", tokenizer_folder, tmp_path)
