"""Tokenizers: what training writes transformers reads, and token places are exact for every kind."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from miniplm_assets.core.errors import ModelError
from miniplm_assets.corpus.encoding import PackingTokenizer
from miniplm_assets.corpus.tokenizer import END_OF_DOCUMENT, fetch_tokenizer, load_tokenizer, train_tokenizer
from miniplm_assets.experiment import FolderTokenizer, HubTokenizer

TEXTS = [
    "The teacher reads. The reference reads too!\n\nBoth differ.",
    "naïve café 北京欢迎你。再见。 🎉🎊 emoji 👩‍👩‍👧 family",
    f"spelt out {END_OF_DOCUMENT} within a text",
    "   leading, trailing, and\ttabs  \n\n  ",
    "e\u0301 combining, \x00 null",
    "x",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    train_tokenizer(iter(TEXTS * 3), vocab_size=300, folder=folder)
    return folder


def places(tokenizer: PackingTokenizer, texts: Sequence[str]) -> list[tuple[list[int], list[int], list[bool]]]:
    encoded = tokenizer.encode(texts)
    parts = [encoded.texts(index, index + 1) for index in range(len(texts))]
    return [(part.token_ids.tolist(), part.char_ends.tolist(), part.ends_character.tolist()) for part in parts]


def test_transformers_reads_what_training_wrote(folder: Path) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder)
    ours = load_tokenizer(folder)
    assert len(theirs) == ours.vocab_size == 300
    assert theirs.eos_token_id == theirs.pad_token_id == ours.end_of_document_id
    for text in TEXTS:
        if END_OF_DOCUMENT in text:
            continue
        ids = ours.encode([text]).token_ids.tolist()
        assert ids == theirs.encode(text, add_special_tokens=False)
        assert theirs.decode(ids) == text


def test_the_same_texts_give_the_same_tokenizer(folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    train_tokenizer(iter(TEXTS * 3), vocab_size=300, folder=again)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (folder / name).read_bytes() == (again / name).read_bytes()


def test_too_little_text_for_the_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"5,000 entries .* yield only 2\d\d\. Lower vocab_size"):
        train_tokenizer(iter(["a few words"]), vocab_size=5_000, folder=tmp_path)
    with pytest.raises(ModelError, match="yield only 257"):
        train_tokenizer(iter([]), vocab_size=300, folder=tmp_path)


def test_places_follow_from_bytes(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    spelt = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text, (ids, char_ends, ends_character) in zip(TEXTS, places(tokenizer, TEXTS), strict=True):
        assert tokenizer.end_of_document_id not in ids
        content = text.encode()
        num_bytes = 0
        for token_id, char_end, ends in zip(ids, char_ends, ends_character, strict=True):
            num_bytes += int(tokenizer.token_num_bytes[token_id])
            try:  # the bytes so far are whole characters, or they are not
                before = content[:num_bytes].decode()
            except UnicodeDecodeError:
                assert not ends
            else:
                assert ends and len(before) == char_end
        assert num_bytes == len(content)
        assert spelt.decode(ids) == text


def test_a_spelt_out_special_token_is_ordinary_text(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    ((ids, char_ends, _),) = places(tokenizer, [END_OF_DOCUMENT])
    assert tokenizer.end_of_document_id not in ids
    assert len(ids) > 1 and char_ends[-1] == len(END_OF_DOCUMENT)
    assert tokenizer.token_num_bytes[tokenizer.end_of_document_id] == 0


def saved(tokenizer: Tokenizer, folder: Path) -> Path:
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": END_OF_DOCUMENT}}))
    return folder


def test_a_normalised_text_is_placed_by_offsets(folder: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    ours = load_tokenizer(saved(tokenizer, tmp_path / "nfc"))
    assert places(ours, TEXTS)[:4] == places(load_tokenizer(folder), TEXTS)[:4]
    # Scrambled so that changed texts stand before and after unchanged ones; each alone gives the same.
    texts = ["e\u0301\u0301 x", "plain text.", "cafe\u0301", "北京", "A\u030a"]
    assert places(ours, texts) == [place for text in texts for place in places(ours, [text])]
    for text, (_, char_ends, ends_character) in zip(texts, places(ours, texts), strict=True):
        assert char_ends[-1] == len(text) and char_ends == sorted(char_ends) and ends_character[-1]
    # NFC joins letter and accent: no token ends between them.
    _, char_ends, ends_character = places(ours, ["cafe\u0301!"])[0]
    assert [end for end, ends in zip(char_ends, ends_character, strict=True) if ends and end > 2] == [3, 5, 6]


def test_other_kinds_are_placed_by_offsets(tmp_path: Path) -> None:
    vocabulary = {END_OF_DOCUMENT: 0, "▁the": 1, "▁end": 2, ".": 3, "▁": 4, "<0x0A>": 5, "x": 6}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="x"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([END_OF_DOCUMENT])
    ours = load_tokenizer(saved(tokenizer, tmp_path / "words"))
    assert places(ours, ["the end. the", "end"]) == [
        ([1, 2, 3, 1], [3, 7, 8, 12], [True] * 4),
        ([2], [3], [True]),
    ]
    assert ours.token_num_bytes.tolist() == [0, 4, 4, 1, 1, 1, 1]
    assert np.flatnonzero(ours.ends_sentence).tolist() == [3, 5]


@pytest.mark.parametrize("piece", ["end.", "what?!", "so.”", "「好。」", "\n", "x\n  ", ".\n\n", "…"])
def test_pieces_that_end_a_sentence(piece: str, tmp_path: Path) -> None:
    assert _ends(piece, tmp_path)


@pytest.mark.parametrize("piece", ["end", ",", " ", ".x", ";", "”"])
def test_pieces_that_do_not(piece: str, tmp_path: Path) -> None:
    assert not _ends(piece, tmp_path)


def _ends(piece: str, tmp_path: Path) -> bool:
    words = Tokenizer(models.WordLevel({END_OF_DOCUMENT: 0, piece: 1}, unk_token=piece))
    words.add_special_tokens([END_OF_DOCUMENT])
    return bool(load_tokenizer(saved(words, tmp_path / "one")).ends_sentence[1])


def test_a_folder_is_copied_without_weights(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weights")
    copy = tmp_path / "copy"
    copy.mkdir()
    fetch_tokenizer(FolderTokenizer(source="folder", path=str(folder)), copy)
    assert sorted(path.name for path in copy.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    assert load_tokenizer(copy).vocab_size == 300


def test_what_is_no_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        fetch_tokenizer(FolderTokenizer(source="folder", path=str(tmp_path / "nowhere")), tmp_path)
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<none>"}))
    with pytest.raises(ModelError, match="'<none>' is not in its vocabulary"):
        load_tokenizer(folder)
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ModelError, match="names no eos_token"):
        load_tokenizer(folder)


def changed(folder: Path, **changes: object) -> None:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "tokenizer.json").write_text("{"),
        lambda folder: (folder / "tokenizer.json").write_bytes(b"\xff\xfe"),
        lambda folder: (folder / "tokenizer.json").write_text("[]"),
        lambda folder: (folder / "tokenizer.json").write_text("[" * 100_000),
        lambda folder: changed(folder, pre_tokenizer={"type": "BrandNew"}),
        lambda folder: changed(folder, version="9.0"),
        lambda folder: changed(folder, added_tokens=[{"id": 0}]),
        lambda folder: changed(folder, added_tokens=7),
        lambda folder: changed(folder, model={"type": "BPE", "vocab": {"a": -1}, "merges": []}),
        lambda folder: (folder / "tokenizer_config.json").write_text("["),
        lambda folder: (folder / "tokenizer_config.json").write_text("[]"),
    ],
)
def test_a_tokenizer_that_cannot_be_read_names_file_and_remedy(damage, folder: Path, tmp_path: Path) -> None:
    damage(folder)
    copy = tmp_path / "copy"
    copy.mkdir()
    with pytest.raises(ModelError, match=r"json cannot be read by the installed tokenizers .*fetch it again") as found:
        fetch_tokenizer(FolderTokenizer(source="folder", path=str(folder)), copy)
    assert str(folder) in str(found.value)


def test_a_pointer_of_git_lfs_is_no_tokenizer(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(ModelError, match=r"tokenizer\.json is a pointer of git-lfs .*git lfs pull"):
        fetch_tokenizer(FolderTokenizer(source="folder", path=str(folder)), tmp_path)


def test_an_unreachable_hub_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = {}

    def offline(repo_id: str, *, revision: str, allow_patterns: list[str], local_dir: None) -> str:
        asked.update(repo_id=repo_id, revision=revision, patterns=allow_patterns)
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    revision = "0123456789" * 4
    with pytest.raises(ModelError, match=rf"some/model at revision {revision} .* source: folder"):
        fetch_tokenizer(HubTokenizer(source="hub", id="some/model", revision=revision), tmp_path)
    assert asked["revision"] == revision and not any("safetensors" in pattern for pattern in asked["patterns"])
