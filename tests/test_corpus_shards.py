"""Which files are shards, and when a file is read again."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry as filesystems

from miniplm_assets.core.errors import CorpusError, TransientError
from miniplm_assets.corpus import shards as shards_module
from miniplm_assets.corpus.shards import FileSource, fingerprint_shard, list_shards, observe_corpus
from miniplm_assets.experiment import JsonlSource, ParquetSource, TextSource

LATER_NS = 2**62


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"content of {name}\n")


def names(path: Path | str, kind: str = "jsonl") -> list[str]:
    source: FileSource = JsonlSource(type="jsonl", path=str(path))
    if kind == "parquet":
        source = ParquetSource(type="parquet", path=str(path))
    return [shard.name for shard in list_shards(source).shards]


def test_a_file_a_folder_or_a_pattern(tmp_path: Path) -> None:
    fill(
        tmp_path,
        *("b.jsonl", "web/a.jsonl.zst", "web/deep/c.ndjson.gz", "web/d.parquet", "readme.md", "e.json", "odd.data"),
        *(".hidden.jsonl", ".cache/f.jsonl", "tricky[1].jsonl"),
    )
    assert names(tmp_path) == ["b.jsonl", "e.json", "tricky[1].jsonl", "web/a.jsonl.zst", "web/deep/c.ndjson.gz"]
    assert names(tmp_path / "b.jsonl") == ["b.jsonl"]
    assert names(tmp_path / "odd.data") == ["odd.data"]
    assert names(tmp_path / "tricky[1].jsonl") == ["tricky[1].jsonl"]
    assert names(tmp_path / "*.jsonl") == ["b.jsonl", "tricky[1].jsonl"]
    assert names(tmp_path / "*" / "a.*") == ["web/a.jsonl.zst"]
    assert names(tmp_path / "web" / "**") == ["a.jsonl.zst", "deep/c.ndjson.gz"]
    assert names(tmp_path.as_uri()) == names(tmp_path)
    assert names(tmp_path, "parquet") == ["web/d.parquet"]


def test_a_folder_of_texts_is_a_shard_for_each_sub_folder(tmp_path: Path) -> None:
    fill(tmp_path, "b/2.txt", "b/deep/1.txt", "a/1.txt", "top.txt", "a/skip.md", "c/skip.md")
    found = list_shards(TextSource(type="text", path=str(tmp_path))).shards
    assert [(shard.name, shard.file_names) for shard in found] == [
        (".", ("top.txt",)),
        ("a", ("a/1.txt",)),
        ("b", ("b/2.txt", "b/deep/1.txt")),
    ]
    assert found[2].num_bytes == len("content of b/2.txt\n") + len("content of b/deep/1.txt\n")


@pytest.mark.parametrize("place", ["empty", "empty/*.jsonl", "nowhere/*.jsonl"])
def test_no_files_are_an_error_that_says_what_was_looked_for(tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match=r"no corpus file found in .*looked for files that end in \.jsonl, .*Check"):
        list_shards(JsonlSource(type="jsonl", path=str(tmp_path / place)))


def test_a_folder_without_texts_is_an_error_that_says_what_was_looked_for(tmp_path: Path) -> None:
    fill(tmp_path, "a.md")
    with pytest.raises(CorpusError, match=r"looked for files that match '\*\.txt'.*a\.md does not match"):
        list_shards(TextSource(type="text", path=str(tmp_path)))


@pytest.mark.parametrize(
    "source", [JsonlSource(type="jsonl", path="/no/where"), TextSource(type="text", path="/no/where")]
)
def test_a_place_that_does_not_exist_is_said_so(source: FileSource) -> None:
    with pytest.raises(CorpusError, match=r"/no/where does not exist"):
        list_shards(source)


def left_out(path: Path, warehouse: Path | None = None) -> dict[str, tuple[str, bool]]:
    listed = list_shards(JsonlSource(type="jsonl", path=str(path)), warehouse=warehouse)
    return {one.name: (one.reason, one.looks_like_corpus) for one in listed.left_out}


def test_every_ending_that_can_be_read_is_read_in_any_case(tmp_path: Path) -> None:
    endings = ("jsonl", "jsonl.bz2", "jsonl.xz", "JSONL", "jsonl.zstd", "jsonl.GZ", "Json.Zip", "ndjson.lzma")
    fill(tmp_path, *(f"{place}.{ending}" for place, ending in enumerate(endings)))
    assert len(names(tmp_path)) == len(endings)
    assert left_out(tmp_path) == {}


def test_what_is_left_out_is_named_with_its_reason(tmp_path: Path) -> None:
    fill(tmp_path, "a.jsonl", "b.jsonl.7z", "c.csv", "README.md", ".cache/d.jsonl", "_SUCCESS", "_tmp.jsonl")
    (tmp_path / "dead.jsonl").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert names(tmp_path) == ["a.jsonl"]
    assert {name: looks_like_corpus for name, (_, looks_like_corpus) in left_out(tmp_path).items()} == {
        "b.jsonl.7z": True,
        "c.csv": True,
        "dead.jsonl": True,
        "README.md": False,
        ".cache": False,
        "_SUCCESS": False,
        "_tmp.jsonl": False,
        "loop": False,
    }
    assert "leads nowhere" in left_out(tmp_path)["dead.jsonl"][0]


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    """The hub's cache is made of them: names as the data set has them, contents elsewhere."""
    fill(tmp_path, "blobs/123", "elsewhere/deep/b.jsonl", "snapshot/own.jsonl")
    (tmp_path / "snapshot" / "a.jsonl").symlink_to("../blobs/123")
    (tmp_path / "snapshot" / "more").symlink_to(tmp_path / "elsewhere")
    assert names(tmp_path / "snapshot") == ["a.jsonl", "more/deep/b.jsonl", "own.jsonl"]
    assert names(tmp_path / "snapshot" / "*.jsonl") == ["a.jsonl", "own.jsonl"]
    texts = TextSource(type="text", path=str(tmp_path / "snapshot"), pattern="*")
    assert [shard.name for shard in list_shards(texts).shards] == [".", "more"]


@pytest.mark.parametrize("path", ["", "**"])
def test_the_warehouse_is_never_corpus(tmp_path: Path, path: str) -> None:
    fill(tmp_path, "a.jsonl", "warehouse/raw_corpus/1/manifest.json")
    listed = list_shards(JsonlSource(type="jsonl", path=str(tmp_path / path)), warehouse=tmp_path / "warehouse")
    assert [shard.name for shard in listed.shards] == ["a.jsonl"]
    assert {one.reason for one in listed.left_out} == {"lies in the warehouse"}
    with pytest.raises(CorpusError, match="lies in the warehouse"):
        list_shards(JsonlSource(type="jsonl", path=str(tmp_path / "warehouse" / "raw_corpus")), warehouse=tmp_path)


def test_a_name_that_is_not_utf8_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.jsonl")).write_text("{}")
    with pytest.raises(CorpusError, match=r"caf\\udce9\.jsonl: the name of this file is not UTF-8"):
        list_shards(JsonlSource(type="jsonl", path=str(tmp_path)))


def test_a_name_is_no_pattern_and_no_url(tmp_path: Path) -> None:
    odd = ("run1.jsonl", "run[1].jsonl", "a::b.jsonl", "100%20#x?y*z.jsonl")
    fill(tmp_path, *odd)
    listed = list_shards(JsonlSource(type="jsonl", path=str(tmp_path))).shards
    expected = {name: hashlib.sha256(f"content of {name}\n".encode()).hexdigest()[:32] for name in odd}
    assert {shard.name: fingerprint_shard(shard) for shard in listed} == expected


@pytest.mark.parametrize(("place", "what"), [("web/*.txt", "pattern"), ("web/a.txt", "file")])
def test_texts_come_from_a_folder(tmp_path: Path, place: str, what: str) -> None:
    fill(tmp_path, "web/a.txt", "odd[1]/b.txt")
    with pytest.raises(CorpusError, match=rf"{what}; a source of type text expects a folder"):
        list_shards(TextSource(type="text", path=str(tmp_path / place)))
    assert len(list_shards(TextSource(type="text", path=str(tmp_path / "odd[1]"))).shards) == 1


def test_empty_files_are_an_empty_corpus(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(CorpusError, match="is empty: 1 files, all of 0 bytes"):
        names(tmp_path)
    fill(tmp_path, "b.jsonl")
    assert names(tmp_path) == ["a.jsonl", "b.jsonl"]


def test_a_fingerprint_is_that_of_the_content(tmp_path: Path) -> None:
    fill(tmp_path, "one/a.jsonl")
    (shard,) = list_shards(JsonlSource(type="jsonl", path=str(tmp_path / "one"))).shards
    assert fingerprint_shard(shard) == hashlib.sha256(b"content of one/a.jsonl\n").hexdigest()[:32]


def test_a_text_shard_is_its_names_and_contents(tmp_path: Path) -> None:
    def fingerprints(root: Path) -> list[str]:
        return [fingerprint_shard(shard) for shard in list_shards(TextSource(type="text", path=str(root))).shards]

    fill(tmp_path / "here" / "corpus", "a/1.txt", "a/2.txt", "top.txt")
    fill(tmp_path / "there" / "corpus", "a/2.txt", "a/1.txt", "top.txt")
    before = fingerprints(tmp_path / "here" / "corpus")
    assert before == fingerprints(tmp_path / "there" / "corpus")
    (tmp_path / "there" / "corpus" / "a" / "2.txt").rename(tmp_path / "there" / "corpus" / "a" / "3.txt")
    after = fingerprints(tmp_path / "there" / "corpus")
    assert after[0] == before[0] and after[1] != before[1]


class Observer:
    """Observes again and again, and counts what is read."""

    def __init__(self, source: FileSource, monkeypatch: pytest.MonkeyPatch) -> None:
        self.source = source
        self.known: dict[str, tuple[str, str]] = {}
        self.read: list[str] = []

        def fingerprint(shard: Any) -> str:
            self.read.append(shard.name)
            return fingerprint_shard(shard)

        monkeypatch.setattr(shards_module, "fingerprint_shard", fingerprint)

    def look(self, now_ns: int = LATER_NS) -> list[str]:
        self.read.clear()
        observed = observe_corpus(self.source, known=self.known, now_ns=now_ns).shards
        self.known = {shard.name: (shard.stamp, shard.fingerprint) for shard in observed if shard.stamp is not None}
        assert [shard.fingerprint for shard in observed] == [
            fingerprint_shard(shard) for shard in list_shards(self.source).shards
        ]
        return list(self.read)


def test_only_changed_files_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "a.jsonl", "b.jsonl")
    observer = Observer(JsonlSource(type="jsonl", path=str(tmp_path)), monkeypatch)
    assert observer.look() == ["a.jsonl", "b.jsonl"]
    assert observer.look() == []
    (tmp_path / "b.jsonl").write_text("Content of b.jsonl\n")  # as long as before
    fill(tmp_path, "c.jsonl")
    assert observer.look() == ["b.jsonl", "c.jsonl"]
    (tmp_path / "b.jsonl").unlink()
    assert observer.look() == []
    # The same size, and a modification time that was set back.
    before = (tmp_path / "a.jsonl").stat()
    (tmp_path / "a.jsonl").write_text("CONTENT of a.jsonl\n")
    os.utime(tmp_path / "a.jsonl", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert observer.look() == ["a.jsonl"]


@pytest.mark.parametrize("seconds_later", [1.9, 0.0, -3_600.0])
def test_a_file_that_changed_just_now_or_in_the_future_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds_later: float
) -> None:
    fill(tmp_path, "a.jsonl")
    status = (tmp_path / "a.jsonl").stat()
    now_ns = max(status.st_mtime_ns, status.st_ctime_ns) + int(seconds_later * 1e9)
    observer = Observer(JsonlSource(type="jsonl", path=str(tmp_path)), monkeypatch)
    assert observer.look(now_ns) == ["a.jsonl"]
    assert observer.look(now_ns) == ["a.jsonl"]  # the first look could not be relied on
    assert observer.look(now_ns + 3_700 * 10**9) == ["a.jsonl"]
    assert observer.look(now_ns + 3_700 * 10**9) == []


class Bucket(MemoryFileSystem):
    """A remote store that gives its files an ETag, as S3 does."""

    protocol = "bucket"
    store: dict[str, Any] = {}  # noqa: RUF012 - MemoryFileSystem declares it so
    pseudo_dirs = [""]  # noqa: RUF012
    has_etags = True

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix("bucket://").strip("/")

    def unstrip_protocol(self, name: str) -> str:
        return f"bucket://{self._strip_protocol(name)}"

    def _marked(self, info: dict[str, Any]) -> dict[str, Any]:
        if info["type"] == "file" and self.has_etags:
            info = info | {"ETag": hashlib.sha256(self.cat_file(info["name"])).hexdigest()}
        return info

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        return self._marked(super().info(path, **options))

    def find(self, path: str, **options: Any) -> Any:
        return {name: self._marked(info) for name, info in super().find(path, **options).items()}


def test_a_remote_file_is_read_again_unless_its_store_marks_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(filesystems, "bucket", Bucket)
    monkeypatch.setattr(Bucket, "store", {})
    bucket = Bucket()
    bucket.pipe_file("corpus/web/a.jsonl", b"first\n")
    bucket.pipe_file("corpus/b.jsonl", b"second\n")
    observer = Observer(JsonlSource(type="jsonl", path="bucket://corpus"), monkeypatch)
    assert observer.look() == ["b.jsonl", "web/a.jsonl"]
    assert observer.look(now_ns=10**10) == []  # however young: no clock stamped it
    bucket.pipe_file("corpus/web/a.jsonl", b"FIRST\n")
    assert observer.look() == ["web/a.jsonl"]
    monkeypatch.setattr(Bucket, "has_etags", False)
    assert observer.look() == ["b.jsonl", "web/a.jsonl"]
    assert observer.look() == ["b.jsonl", "web/a.jsonl"]


def test_a_store_out_of_reach_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    class ConnectionLostError(Exception):
        """Of a client library, and no OSError."""

    def lost(*_: Any, **__: Any) -> None:
        raise ConnectionLostError("no route to host")

    def forbidden(*_: Any, **__: Any) -> None:
        raise PermissionError("no key")

    monkeypatch.setitem(filesystems, "bucket", Bucket)
    monkeypatch.setattr(Bucket, "isfile", lost)
    with pytest.raises(
        CorpusError, match=r"bucket://corpus cannot be read \(ConnectionLostError: no route to host\)"
    ) as passing:
        list_shards(JsonlSource(type="jsonl", path="bucket://corpus"))
    assert isinstance(passing.value, TransientError)
    monkeypatch.setattr(Bucket, "isfile", forbidden)
    with pytest.raises(CorpusError, match="PermissionError") as failure:
        list_shards(JsonlSource(type="jsonl", path="bucket://corpus"))
    assert not isinstance(failure.value, TransientError)
