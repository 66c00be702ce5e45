"""Selected text for another tokenizer: to the byte what the spans hold, for every kind of tokenizer there is."""

import json
import random
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from miniplm_assets.core.errors import CorpusError, ModelError
from miniplm_assets.corpus import sequences as sequences_module
from miniplm_assets.corpus.passages import PROBE, write_refined_sequences
from miniplm_assets.corpus.sequences import write_sequences
from miniplm_assets.corpus.tables import DOCUMENTS, SPAN, RowGroupWriter
from miniplm_assets.corpus.tokenizer import END_OF_DOCUMENT, load_tokenizer, train_tokenizer
from miniplm_assets.experiment.schema import Sequences

SHARD = "s.jsonl"
FIRST, SECOND = "0123456789abcdef" * 2, "fedcba9876543210" * 2
WORDS = [
    "the ",
    "Hund",
    " läuft. ",
    "北京。",
    "再",
    "🎉",
    "👩\u200d👧",
    "e\u0301",
    "\n\n",
    "(end!) ",
    "\x00",
    "\t",
    " ",
]
WORDS += ["Österreich", "o\u0308\u0304", "नमस्ते", "x" * 30, END_OF_DOCUMENT, "▁", "<0x41>", "  "]
LEARNT = ["The teacher reads the text. The reference reads it too!\n\n", "Der Hund läuft. 北京。 the end"] * 4
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


@dataclass(frozen=True)
class Family:
    """A tokenizer of some kind.

    Attributes:
        tokenizer: as the library makes it, with its template.
        puts_space: whether a text begins with a space of the tokenizer's own, where it does not begin with one.
        always_puts_space: whether it does so in front of a space, too.
    """

    tokenizer: Tokenizer
    puts_space: bool = False
    always_puts_space: bool = False


def byte_level(*, add_prefix_space: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["</s>", "<s>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(LEARNT, trainer)
    return tokenizer


def with_byte_fallback(tokenizer: Tokenizer) -> Tokenizer:
    """Train a BPE of characters, and give it a piece for every byte that it has none for."""
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(LEARNT, trainer)
    spec = json.loads(tokenizer.to_str())
    vocabulary = spec["model"]["vocab"]
    vocabulary |= {piece: len(vocabulary) + number for number, piece in enumerate(BYTES)}
    spec["model"] |= {"byte_fallback": True, "unk_token": "<unk>", "fuse_unk": True}
    return Tokenizer.from_str(json.dumps(spec))


def metaspace() -> Tokenizer:
    """What SentencePiece's models become: ▁ for a space, one in front of each text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")])
    return with_byte_fallback(tokenizer)


def unigram() -> Tokenizer:
    """The other kind of SentencePiece model."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((piece, -9.0) for piece in BYTES)]
    letters = sorted({letter for text in LEARNT for letter in text} - {" ", "\n"})
    pieces += [("▁", -3.0), ("▁the", -2.0), ("er", -2.0), *((letter, -5.0) for letter in letters)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


def llama() -> Tokenizer:
    """As Llama 2 and Mistral have it: ▁ by normalising, no cutting into words, bytes for what is not known."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return with_byte_fallback(tokenizer)


@cache
def family(name: str, *, has_begin: bool) -> Family:
    made = {
        "byte_level": lambda: Family(byte_level(add_prefix_space=False)),
        "prefix_space": lambda: Family(byte_level(add_prefix_space=True), puts_space=True),
        "metaspace": lambda: Family(metaspace(), puts_space=True),
        "unigram": lambda: Family(unigram(), puts_space=True),
        "llama": lambda: Family(llama(), puts_space=True, always_puts_space=True),
    }[name]()
    if has_begin:
        begin = made.tokenizer.token_to_id("<s>")
        made.tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", begin)]
        )
        assert made.tokenizer.encode("a").ids[0] == begin
    return made


NAMES = ["byte_level", "prefix_space", "metaspace", "unigram", "llama"]


def saved(tokenizer: Tokenizer, folder: Path, *, eos: str = "</s>") -> Path:
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos}))
    return folder


def write_documents(path: Path, texts: list[str], domains: list[str]) -> list[dict[str, Any]]:
    rows = [
        {
            "document_id": 1_000 + number,
            "shard": SHARD,
            "line": number + 1,
            "domain": domain,
            "split": "candidate",
            "text": text,
            "num_bytes": len(text.encode()),
        }
        for number, (text, domain) in enumerate(zip(texts, domains, strict=True))
    ]
    with RowGroupWriter(path, DOCUMENTS) as writer:
        writer.write({name: [row[name] for row in rows] for name in DOCUMENTS.names})
    return rows


def refine(refined: list[Path], folder: Path, tokenizer_folder: Path, **settings: Any) -> tuple[dict[str, Any], list]:
    folder.mkdir()
    facts = write_refined_sequences(
        refined,
        folder.parent / "documents.parquet",
        shard=SHARD,
        tokenizer_folder=tokenizer_folder,
        named="its own",
        sequences=Sequences(**settings),
        shard_fingerprint=SECOND,
        folder=folder,
        report=lambda _: None,
    )
    return facts, pq.read_table(folder / "sequences.parquet").to_pylist()


def spelt(tokenizer: Tokenizer, token_ids: list[int]) -> bytes:
    return spelt_pieces([tokenizer.id_to_token(token_id) for token_id in token_ids])


def spelt_pieces(pieces: list[str]) -> bytes:
    """The bytes of pieces as SentencePiece spells them."""
    return b"".join(
        bytes([BYTES.index(piece)]) if piece in BYTES else piece.replace("▁", " ").encode() for piece in pieces
    )


def passages_by_hand(selected: list[dict[str, Any]]) -> dict[str, list[tuple[int, int, str]]]:
    """Mark every selected character of every document, and read off the runs: by domain, in order."""
    marked: dict[tuple[str, int], dict[int, str]] = {}
    for row in selected:
        for span, text in zip(row["spans"], row["texts"], strict=True):
            characters = marked.setdefault((row["domain"], span["document_id"]), {})
            for place, character in zip(range(span["char_start"], span["char_end"]), text, strict=True):
                assert place not in characters
                characters[place] = character
    found: dict[str, list[tuple[int, int, str]]] = {}
    for (domain, document_id), characters in sorted(marked.items()):
        runs = groupby(enumerate(sorted(characters)), key=lambda one: one[1] - one[0])
        for _, run in runs:
            places = [place for _, place in run]
            text = "".join(characters[place] for place in places)
            found.setdefault(domain, []).append((document_id, places[0], text))
    return found


@given(
    st.sampled_from(NAMES),
    st.booleans(),
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(WORDS), min_size=1, max_size=40).map("".join).filter(lambda text: text.strip()),
            st.sampled_from(["books", "web"]),
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(8, 24),
    st.booleans(),
    st.randoms(use_true_random=False),
    st.sampled_from([0.3, 0.8, 1.0]),
)
@settings(max_examples=80, deadline=None)
@example(
    "metaspace", True, [("再" * 30 + "e\u0301" * 20, "web"), ("👩\u200d👧" * 9, "web")], 8, False, random.Random(3), 0.5
)
@example("prefix_space", False, [("x" * 90, "web"), ("the " * 30, "web")], 8, True, random.Random(4), 0.5)
def test_what_is_tokenised_anew_is_to_the_byte_what_was_selected(
    name: str,
    has_begin: bool,
    texts: list[tuple[str, str]],
    sequence_length: int,
    trims: bool,
    rng: random.Random,
    share: float,
) -> None:
    own = family(name, has_begin=has_begin)
    with TemporaryDirectory() as place:
        folder = Path(place)
        documents = write_documents(folder / "documents.parquet", *map(list, zip(*texts, strict=True)))
        write_sequences(
            folder / "documents.parquet",
            shard=SHARD,
            tokenizer_folder=source_tokenizer(),
            sequences=Sequences(sequence_length=8, trim_to_sentence_end=trims),
            shard_fingerprint=FIRST,
            folder=folder,
            report=lambda _: None,
        )
        packed = pl.read_parquet(folder / "sequences.parquet")
        packed = packed.filter(pl.Series([rng.random() < share for _ in range(len(packed))], dtype=pl.Boolean))
        packed.write_parquet(folder / "refined.parquet")
        tokenizer_folder = saved(own.tokenizer, folder / "tokenizer")
        facts, rows = refine(
            [folder / "refined.parquet"],
            folder / "made",
            tokenizer_folder,
            sequence_length=sequence_length,
            trim_to_sentence_end=trims,
        )
        rejected = pq.read_table(folder / "made" / "rejected.parquet").num_rows

    expected = passages_by_hand(packed.to_dicts())
    end_id = own.tokenizer.token_to_id("</s>")
    library = Tokenizer.from_str(own.tokenizer.to_str())
    library.encode_special_tokens = True
    found: dict[str, list[tuple[int, int, str, list[int]]]] = {}
    for row in rows:
        assert 2 <= row["num_tokens"] == len(row["token_ids"]) <= sequence_length + 1
        assert row["token_ids"][0] != end_id
        parts = [list(part) for is_end, part in groupby(row["token_ids"], key=end_id.__eq__) if not is_end]
        assert row["token_ids"].count(end_id) - len(parts) in (0, -1)
        ends = [place for place, token_id in enumerate(row["token_ids"]) if token_id == end_id]
        goes_on = [span["char_end"] < len(documents[span["document_id"] - 1_000]["text"]) for span in row["spans"]]
        assert row["cut_ends"] == [place for place, is_cut in zip(ends, goes_on, strict=False) if is_cut]
        for span, text, token_ids in zip(row["spans"], row["texts"], parts, strict=True):
            ours = found.setdefault(row["domain"], [])
            last = ours[-1] if ours else None
            if last is not None and last[0] == span["document_id"] and last[1] + len(last[2]) == span["char_start"]:
                ours[-1] = (*last[:2], last[2] + text, last[3] + token_ids)
            else:
                ours.append((span["document_id"], span["char_start"], text, token_ids))
    assert rejected == 0
    assert {domain: [one[:3] for one in ours] for domain, ours in found.items()} == expected
    for document_id, start, text, token_ids in (one for ours in found.values() for one in ours):
        assert documents[document_id - 1_000]["text"][start : start + len(text)] == text
        # The library alone, on the passage alone.
        assert token_ids == library.encode(text, add_special_tokens=False).ids
        put = own.puts_space and (own.always_puts_space or not text.startswith(" "))
        if name in ("byte_level", "prefix_space"):
            assert library.decode(token_ids) == (" " if put else "") + text
        elif name != "unigram" or "<0x41>" not in text:  # which its library takes for the byte
            begins_with_own = text.startswith("▁") and not own.always_puts_space
            assert (
                spelt(library, token_ids)
                == (b" " if put and not begins_with_own else b"") + text.replace("▁", " ").encode()
            )
        if name == "llama" and "▁" not in text and "<0x41>" not in text:
            assert library.decode(token_ids) == text
    passages = [one for ours in expected.values() for one in ours]
    assert facts["num_passages"] == len(passages)
    assert facts["num_bytes"] == packed["num_bytes"].sum() == sum(len(text.encode()) for _, _, text in passages)
    assert facts["num_cut_passages"] == sum(
        start + len(text) < len(documents[document_id - 1_000]["text"]) for document_id, start, text in passages
    )
    assert facts["num_tokens"] == sum(row["num_tokens"] for row in rows)


def selected(folder: Path, rows: list[tuple[str, list[tuple[int, int, int]]]], texts: list[str]) -> list[Path]:
    """Write a refined corpus by hand: of each sequence its domain and its spans, of documents number 0, 1, ..."""
    columns = {
        "sequence_id": list(range(len(rows))),
        "domain": [domain for domain, _ in rows],
        "spans": pa.array(
            [
                [{"document_id": 1_000 + number, "char_start": start, "char_end": end} for number, start, end in spans]
                for _, spans in rows
            ],
            type=pa.list_(SPAN),
        ),
        "texts": [[texts[number][start:end] for number, start, end in spans] for _, spans in rows],
    }
    pq.write_table(pa.table(columns), folder / "refined.parquet")
    return [folder / "refined.parquet"]


TEXTS = ["The teacher reads. It keeps on reading. The end.", "Another text.", "And one more."]


def made_of(
    folder: Path, rows: list[tuple[str, list[tuple[int, int, int]]]], texts: list[str] = TEXTS, **settings: Any
):
    write_documents(folder / "documents.parquet", texts, ["web"] * len(texts))
    own = saved(byte_level(add_prefix_space=False), folder / "tokenizer")
    facts, made = refine(selected(folder, rows, texts), folder / "made", own, **settings)
    return facts, made, load_tokenizer(own)


def test_a_case_worked_by_hand(tmp_path: Path) -> None:
    rows = [("web", [(0, 0, 19)]), ("web", [(0, 19, 33)]), ("web", [(1, 4, 13), (2, 0, 13)])]
    facts, [row], tokenizer = made_of(tmp_path, rows, sequence_length=200)
    # Two neighbours are one; what is cut in a word is tokenised as it is, and ended as a document is.
    assert row["texts"] == ["The teacher reads. It keeps on re", "her text.", "And one more."]
    assert [tuple(span.values()) for span in row["spans"]] == [(1_000, 0, 33), (1_001, 4, 13), (1_002, 0, 13)]
    end_id = tokenizer.end_of_document_id
    ended = [[*tokenizer.encode([text]).token_ids.tolist(), end_id] for text in row["texts"]]
    assert row["token_ids"] == [token_id for token_ids in ended for token_id in token_ids]
    assert row["cut_ends"] == [len(ended[0]) - 1]
    assert (row["split"], row["domain"], row["shard"]) == ("candidate", "web", SHARD)
    assert (facts["num_passages"], facts["num_cut_passages"], facts["num_rejected"]) == (3, 1, 0)
    assert facts["num_bytes"] == 33 + 9 + 13 and facts["num_changed_passages"] == facts["num_rejected_bytes"] == 0


def test_what_was_left_out_parts_a_document_into_two(tmp_path: Path) -> None:
    _, [row], _ = made_of(tmp_path, [("web", [(0, 0, 18)]), ("web", [(0, 40, 48)])], sequence_length=200)
    assert row["texts"] == ["The teacher reads.", "The end."]


def test_a_span_of_nothing_is_no_passage(tmp_path: Path) -> None:
    rows = [("web", [(0, 7, 7)]), ("web", [(1, 0, 7), (1, 7, 7)]), ("web", [(1, 7, 13), (2, 13, 13)])]
    facts, [row], _ = made_of(tmp_path, rows, sequence_length=200)
    assert row["texts"] == ["Another text."]
    assert (facts["num_passages"], facts["num_cut_passages"]) == (1, 0)


@pytest.mark.parametrize("rows", [[], [("web", [(0, 7, 7)])]])
def test_a_file_of_which_nothing_is_selected_gives_an_empty_one(tmp_path: Path, rows: list) -> None:
    facts, made, _ = made_of(tmp_path, rows)
    assert made == [] and {facts[name] for name in ("num_passages", "num_sequences", "num_bytes", "num_tokens")} == {0}


def test_sequences_that_overlap_are_refused(tmp_path: Path) -> None:
    message = r"s\.jsonl: sequence 1 begins at character 18 of document 1000, .* up to 19: .*materialise"
    with pytest.raises(CorpusError, match=message):
        made_of(tmp_path, [("web", [(0, 0, 19)]), ("web", [(0, 18, 33)])])


def test_a_document_that_is_no_candidate_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "others"
    folder.mkdir()
    write_documents(tmp_path / "documents.parquet", TEXTS[:1], ["web"])
    refined = selected(folder, [("web", [(1, 0, 13)])], TEXTS)
    own = saved(byte_level(add_prefix_space=False), tmp_path / "tokenizer")
    with pytest.raises(CorpusError, match=r"document 1001 is selected, and is none of the 1 candidates"):
        refine(refined, tmp_path / "made", own)


def test_passages_do_not_depend_on_how_many_are_encoded_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(5)
    texts = ["".join(rng.choices(WORDS, k=60)) for _ in range(40)]
    rows = [
        (rng.choice(["books", "web"]), [(number, place, min(place + 20, len(text)))])
        for number, text in enumerate(texts)
        for place in range(0, len(text), 30)
    ]
    made = []
    for num_bytes in (4 << 20, 300):
        monkeypatch.setattr(sequences_module, "_CHUNK_BYTES", num_bytes)
        folder = tmp_path / str(num_bytes)
        folder.mkdir()
        made.append(made_of(folder, rows, texts, sequence_length=30)[1])
    once, often = ({(row["domain"], *row["token_ids"]) for row in one} for one in made)
    assert once == often and len(made[0]) == len(made[1]) > 20


def test_what_cannot_be_encoded_is_kept_apart_with_its_line(tmp_path: Path) -> None:
    write_documents(tmp_path / "documents.parquet", TEXTS, ["web"] * 3)
    tokenizer = byte_level(add_prefix_space=False)
    tokenizer.normalizer = normalizers.Replace("And one more.", "")
    refined = selected(tmp_path, [("web", [(1, 0, 13), (2, 0, 13)])], TEXTS)
    facts, [row] = refine(refined, tmp_path / "made", saved(tokenizer, tmp_path / "tokenizer"))
    [rejected] = pq.read_table(tmp_path / "made" / "rejected.parquet").to_pylist()
    assert row["texts"] == ["Another text."]
    assert (rejected["line"], rejected["reason"], rejected["excerpt"]) == (3, "no_tokens", "And one more.")
    assert (facts["num_bytes"], facts["num_rejected_bytes"], facts["num_rejected"]) == (13, 13, 1)


def lower_case() -> Tokenizer:
    tokenizer = byte_level(add_prefix_space=False)
    tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


def words_without_space() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"</s>": 0, "<unk>": 1, "the": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


@pytest.mark.parametrize("make", [lower_case, words_without_space])
def test_a_tokenizer_that_keeps_no_text_is_refused(tmp_path: Path, make: Any) -> None:
    write_documents(tmp_path / "documents.parquet", TEXTS, ["web"] * 3)
    refined = selected(tmp_path, [("web", [(1, 0, 13)])], TEXTS)
    folder = saved(make(), tmp_path / "tokenizer")
    with pytest.raises(ModelError, match=r"tokenizer its own: does not keep a text: of .Two words.* byte fallback"):
        refine(refined, tmp_path / "made", folder)


@pytest.mark.parametrize("has_begin", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_tokenizers_of_published_families_keep_a_text(tmp_path: Path, name: str, has_begin: bool) -> None:
    write_documents(tmp_path / "documents.parquet", [PROBE, f"e\u0301 {PROBE} 🎉"], ["web"] * 2)
    refined = selected(tmp_path, [("web", [(0, 0, 31), (1, 0, 37)])], [PROBE, f"e\u0301 {PROBE} 🎉"])
    folder = saved(family(name, has_begin=has_begin).tokenizer, tmp_path / "tokenizer")
    facts, [row] = refine(refined, tmp_path / "made", folder)
    assert facts["num_changed_passages"] == 0 and facts["num_passages"] == 2
    assert family(name, has_begin=has_begin).tokenizer.token_to_id("<s>") not in row["token_ids"]


def test_passages_that_are_spelt_otherwise_are_counted(tmp_path: Path) -> None:
    """A SentencePiece model without byte fallback, and a normal form: what is told of them, and kept."""
    texts = ["Two 再再 words.", "Two words.", "cafe\u0301"]
    write_documents(tmp_path / "documents.parquet", texts, ["web"] * 3)
    refined = selected(tmp_path, [("web", [(0, 0, 13), (1, 0, 10), (2, 0, 5)])], texts)
    composed = byte_level(add_prefix_space=False)
    composed.normalizer = normalizers.NFC()
    facts, [row] = refine(refined, tmp_path / "nfc", saved(composed, tmp_path / "composed"))
    assert facts["num_changed_passages"] == 1 and row["texts"] == texts
    spec = json.loads(metaspace().to_str())
    spec["model"] |= {"byte_fallback": False}
    letters = sorted(set(PROBE) - set(spec["model"]["vocab"]))
    spec["model"]["vocab"] |= {letter: len(spec["model"]["vocab"]) + n for n, letter in enumerate(letters)}
    unknowing = Tokenizer.from_str(json.dumps(spec))
    facts, [row] = refine(refined, tmp_path / "unk", saved(unknowing, tmp_path / "unknowing"))
    assert facts["num_changed_passages"] == 2 and row["texts"] == texts


@cache
def source_tokenizer() -> Path:
    """So small that most characters take several tokens."""
    folder = Path(KEPT.name) / "source"
    folder.mkdir()
    train_tokenizer(iter(LEARNT), vocab_size=290, folder=folder)
    return folder


KEPT = TemporaryDirectory()
