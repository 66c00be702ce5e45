"""The demo corpus: the same bytes each time, the shares as asked, and real text."""

import ast
import json
import random
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from miniplm_assets.core.errors import CorpusError
from miniplm_assets.corpus.demo import write_demo_corpus
from miniplm_assets.corpus.demo_library import MAX_CHARACTERS, MIN_CHARACTERS, Library, merged, split_module
from miniplm_assets.experiment import DemoSource


def corpus(folder: Path, source: DemoSource) -> tuple[list[dict[str, str]], list[str]]:
    folder.mkdir()
    said: list[str] = []
    write_demo_corpus(source, folder, said.append)
    rows = [json.loads(line) for path in sorted(folder.iterdir()) for line in path.read_text("utf-8").splitlines()]
    return rows, said


def num_bytes(rows: list[dict[str, str]]) -> Counter[str]:
    sizes: Counter[str] = Counter()
    for row in rows:
        sizes[row["domain"]] += len(row["text"].encode())
    return sizes


def test_two_writes_give_the_same_bytes(tmp_path: Path) -> None:
    source = DemoSource(type="demo", num_shards=3, megabytes=0.5)
    corpus(tmp_path / "a", source)
    corpus(tmp_path / "b", source)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["shard-0000.jsonl", "shard-0001.jsonl", "shard-0002.jsonl"]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)


def test_the_shares_are_as_asked(tmp_path: Path) -> None:
    source = DemoSource(type="demo", num_shards=2, megabytes=1.0, noise_share=0.33, boilerplate_share=0.07)
    rows, said = corpus(tmp_path / "a", source)
    sizes = num_bytes(rows)
    total = sizes.total()
    assert 0.98e6 < total < 1.1e6
    assert abs(sizes["noise"] / total - 0.33) < 0.02
    assert abs(sizes["boilerplate"] / total - 0.07) < 0.02
    assert sizes["code"] > sizes["docs"] > 0 and sizes["prose"] > 0
    lengths = [len(row["text"]) for row in rows if row["domain"] in ("code", "docs", "prose")]
    assert max(lengths) <= MAX_CHARACTERS and min(lengths) >= MIN_CHARACTERS
    assert len(set(lengths)) > len(lengths) / 3
    assert "noise" in said[-1]


def test_no_noise_and_no_boilerplate(tmp_path: Path) -> None:
    source = DemoSource(type="demo", num_shards=1, megabytes=0.2, noise_share=0, boilerplate_share=0)
    rows, _ = corpus(tmp_path / "a", source)
    assert not {"noise", "boilerplate"} & set(num_bytes(rows))
    with pytest.raises(CorpusError, match="leave no real text"):
        corpus(tmp_path / "b", DemoSource(type="demo", noise_share=0.6, boilerplate_share=0.4))
    with pytest.raises(CorpusError, match="too few for 5000 shards"):
        corpus(tmp_path / "c", DemoSource(type="demo", megabytes=0.2, num_shards=5_000))


def a_library(folder: Path) -> Path:
    for name, content in {
        "one.py": b'"""About one."""\n\nimport os\n\n\ndef f():\n    """Say f."""\n    return os\n',
        "test/test_one.py": b"def test_one():\n    assert True\n" * 20,
        "site-packages/other.py": b"installed = True\n" * 50,
        "__pycache__/one.py": b"cached = True\n" * 50,
        "latin.py": b"# caf\xe9\n",
        "broken.py": b"def (:\n",
        "LICENSE.txt": b"Do what you like. " * 20,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_a_library_that_has_too_little_gives_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = a_library(tmp_path / "library")
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(library))
    rows, said = corpus(tmp_path / "a", DemoSource(type="demo", num_shards=1, megabytes=100))
    real = [row["text"] for row in rows if row["domain"] not in ("noise", "boilerplate")]
    sizes = num_bytes(rows)
    assert abs(sizes["noise"] / sizes.total() - 0.33) < 0.02
    assert not any("installed = True" in text or "cached = True" in text for text in real)
    assert any("Do what you like" in text for text in real) and any("def test_one" in text for text in real)
    assert any("1 files of the library that are not UTF-8" in line for line in said)
    assert any("60.0 MB were asked for; the corpus is smaller" in line for line in said)


def test_no_library_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path / "python.zip"))
    with pytest.raises(CorpusError, match=r"python\.zip is not a folder"):
        corpus(tmp_path / "a", DemoSource(type="demo"))


def test_a_module_is_split_at_its_definitions() -> None:
    source = (
        '"""The module."""\nimport os\n\n\n@decorated\ndef f():\n    """What f does.\n\n    More.\n    """\n'
        '    return 1\n\n\nclass Error(Exception):\n    """Stays: it is the whole body."""\n'
    )
    blocks, docstrings = split_module(source)
    assert blocks == [
        "import os",
        "@decorated\ndef f():\n    return 1",
        'class Error(Exception):\n    """Stays: it is the whole body."""',
    ]
    assert docstrings == ["The module.", "f\n\nWhat f does.\n\nMore."]
    for block in blocks:
        ast.parse(block)


def test_documents_are_neither_too_short_nor_too_long() -> None:
    blocks = ["a" * 50] * 40 + [("word " * 100 + "\n\n") * 60, "", "b" * 20_000, "t"]
    documents = list(merged(blocks, random.Random(0)))
    assert all(200 <= len(document) <= MAX_CHARACTERS for document in documents)
    kept = Counter("".join(documents))
    given = Counter("".join(blocks))
    assert kept["a"] == given["a"] and kept["b"] == given["b"] and kept["w"] == given["w"]


def test_the_order_in_which_a_folder_lists_its_files_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = a_library(tmp_path / "library")
    expected = list(Library(folder, seed=0).documents("tests")) + list(Library(folder, seed=0).documents("code"))
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: reversed(list(listed(path))))
    found = list(Library(folder, seed=0).documents("tests")) + list(Library(folder, seed=0).documents("code"))
    assert found == expected
