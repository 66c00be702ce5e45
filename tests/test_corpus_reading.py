"""From corpus files to documents: every row is a document or a rejected row with its line and reason."""

import gzip
import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry as filesystems

from miniplm_assets.core.errors import CorpusChangedError, CorpusError
from miniplm_assets.core.splits import split_of
from miniplm_assets.corpus.cleaning import Document, Rejected
from miniplm_assets.corpus.documents import write_documents
from miniplm_assets.corpus.readers import _parse, read_rows
from miniplm_assets.corpus.row_keys import RowKeys
from miniplm_assets.corpus.shards import FileSource, observe_corpus
from miniplm_assets.corpus.streams import bounded_lines
from miniplm_assets.experiment import DocumentFields, HuggingFaceSource, JsonlSource, ParquetSource, TextSource

NOW_NS = 2**62  # long after every file was written
SHARES = {"validation": 0.1, "reference": 0.2, "teacher": 0.0}
FINGERPRINT = "0123456789abcdef" * 2


def rows(source: FileSource, fields: DocumentFields | None = None) -> list[Document | Rejected]:
    shards = observe_corpus(source, known={}, now_ns=NOW_NS).shards
    return [
        row
        for shard in shards
        for row in read_rows(shard, source=source, fields=fields or DocumentFields(), keys=RowKeys())
    ]


def jsonl(path: Path) -> JsonlSource:
    return JsonlSource(type="jsonl", path=str(path))


def lines(*values: Any) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def test_bad_rows_have_their_line_and_reason(tmp_path: Path) -> None:
    content = [
        b'\xef\xbb\xbf{"text": "first, behind a byte order mark"}',
        b"{not json",
        b'["a list"]',
        b'{"no": "text"}',
        b'{"text": null}',
        b'{"text": 7}',
        b'{"text": "\xff\xfe"}',
        b'{"text": "\\ud800 alone"}',
        b'{"text": " \\n\\t\\u00a0"}',
        b'{"text": ""}',
        b"",
        b'{"text": "a null \\u0000 is text"}',
        b'{"text": "' + b"x" * 101 + b'"}',
        b'{"text": "' + "é".encode() * 51 + b'"}',
        b'{"text": "' + b"x" * 100 + b'"}',
        b"[" * 100_000,
        b'{"text": "the last line has no line break"}',
    ]
    (tmp_path / "web.jsonl").write_bytes(b"\n".join(content))
    found = rows(jsonl(tmp_path), DocumentFields(max_document_bytes=100))
    assert [(row.line, row.reason) for row in found if isinstance(row, Rejected)] == [
        (2, "not_json"),
        (3, "not_an_object"),
        (4, "no_text"),
        (5, "no_text"),
        (6, "text_not_a_string"),
        (7, "not_utf8"),
        (8, "not_utf8"),
        (9, "empty"),
        (10, "empty"),
        (13, "too_long"),
        (14, "too_long"),
        (16, "not_json"),
    ]
    accepted = {row.line: row for row in found if isinstance(row, Document)}
    assert list(accepted) == [1, 12, 15, 17]
    assert accepted[1].text == "first, behind a byte order mark" and accepted[1].domain == "web"
    assert accepted[12].text == "a null \x00 is text"
    assert [row.excerpt for row in found if isinstance(row, Rejected)][:2] == ["{not json", '["a list"]']


def as_python_reads(content: bytes) -> Any:
    try:
        row = json.loads(content.decode())
    except UnicodeDecodeError:
        return "not_utf8"
    except (ValueError, RecursionError):
        return "not_json"
    return row if isinstance(row, dict) else "not_an_object"


def is_same(one: Any, other: Any) -> bool:
    """Whether two values are the same, to the type and the bits of each number, and the order of the keys."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(is_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(is_same, one, other))
    return struct.pack("d", one) == struct.pack("d", other) if isinstance(one, float) else bool(one == other)


def test_a_line_is_read_as_by_python_itself() -> None:
    """The oracle: Python's own decoder, of which ours takes only what it refuses itself."""
    good = [
        b'{"text": "a\\u00e9\\n\xc3\xa9 \xf0\x9f\x98\x80", "m": {"d": 1.5e3, "x": [1,2,-3,true,false,null]}, "n": 1}',
        b'{"text":"\\ud83d\\ude00 x \\ud800 y", "k\xc3\xa9\\u0041":"\\/\\b\\f\\"\\\\"}',
        b'{"a":-0,"b":-0.0,"c":1E400,"d":1e-400,"e":0.1,"f":123.456789012345678901234567890,"g":5e-324,"h":1,"h":2}',
        b'{"a":18446744073709551615,"b":-9223372036854775809,"c":123456789012345678901234567890}',
        b' \t\r\n{"a" : NaN , "b": Infinity, "c":-Infinity, "d":"\x7f"}\r\n',
        b'"text"',
        b"[1, 2]",
    ]
    damage = [
        bytes([byte]) for byte in b'{}[]",:\\u01239deE.+- \t\r\n\x00\x1f\x7f\x80\xbf\xc0\xc2\xe0\xed\xa0\xf0\xf4\xff'
    ]
    damage += [b"\\ud800", b"\\udc00", b"1e", b"0.", b"NaN", b"null", b"\xc3\xa9", b"9" * 25, b"\xef\xbb\xbf", b""]
    rng, kinds = random.Random(0), set()
    for number in range(20_000):
        content = bytearray(rng.choice(good))
        for _ in range(rng.randint(0, 3)):
            place = rng.randrange(len(content) + 1)
            content[place : place + rng.choice([0, 0, 1, 3])] = rng.choice(damage)
        if number % 4 == 0:  # any number there is
            written = rng.choice(["%r", "%.25e", "%.17g", "%f"]) % struct.unpack("d", rng.randbytes(8))[0]
            content = bytearray(f'{{"a": {written}}}'.encode())
        found, expected = _parse(bytes(content)), as_python_reads(bytes(content))
        assert is_same(found, expected), (bytes(content), found, expected)
        kinds.add(expected if isinstance(expected, str) else "row")
    assert kinds == {"row", "not_json", "not_utf8", "not_an_object"}
    for depth in (100, 900, 990, 1_010, 1_100, 50_000):
        nested = b'{"a":' + b"[" * depth + b"]" * depth + b"}"
        assert type(_parse(nested)) is type(as_python_reads(nested)), depth


def test_a_line_of_any_length_is_never_held() -> None:
    nothing = bytes(2 << 20)

    class Endless(io.RawIOBase):
        """A first line of 2 GB, of which nothing is stored, and a short second one."""

        remaining = 2 << 30
        largest_read = 0
        second = b"\nsecond\n"

        def readable(self) -> bool:
            return True

        def readinto(self, target: Any) -> int:
            self.largest_read = max(self.largest_read, len(target))
            if self.remaining:
                num_bytes = min(len(target), self.remaining)
                self.remaining -= num_bytes
                target[:num_bytes] = nothing[:num_bytes]
                return num_bytes
            part, self.second = self.second[: len(target)], self.second[len(target) :]
            target[: len(part)] = part
            return len(part)

    raw = Endless()
    found = list(bounded_lines(io.BufferedReader(raw, 1 << 20), max_bytes=1_000))
    assert [(len(line), is_whole) for line, is_whole in found] == [(1_000, False), (7, True)]
    assert raw.largest_read <= 2 << 20


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_lines_at_the_limit(ending: str) -> None:
    content = ("x" * (10 - len(ending)) + ending + "y").encode()
    expected = [(content[:10], True), (b"y", True)] if ending else [(content[:10], False)]
    assert list(bounded_lines(io.BytesIO(content), max_bytes=10)) == expected


def zstd_frames(content: bytes) -> bytes:
    """Two frames, as parallel compressors write them."""
    half = len(content) // 2
    return b"".join(zstandard.ZstdCompressor().compress(part) for part in (content[:half], content[half:]))


@pytest.mark.parametrize(("ending", "compress"), [("", bytes), (".gz", gzip.compress), (".zst", zstd_frames)])
def test_compressed_files_read_like_plain_ones(tmp_path: Path, ending: str, compress: Callable[[bytes], bytes]) -> None:
    content = lines(*({"text": f"document {number} " * 50} for number in range(2_000)))
    (tmp_path / f"a.jsonl{ending}").write_bytes(compress(content))
    found = rows(jsonl(tmp_path))
    assert [row.text for row in found if isinstance(row, Document)] == [f"document {n} " * 50 for n in range(2_000)]


@pytest.mark.parametrize(("ending", "compress"), [(".gz", gzip.compress), (".zst", zstd_frames)])
@pytest.mark.parametrize("damage", ["cut", "overwritten", "something else"])
def test_a_damaged_file_stops_with_its_name(
    tmp_path: Path, ending: str, compress: Callable[[bytes], bytes], damage: str
) -> None:
    whole = compress(lines(*({"text": f"document {number * 7919}"} for number in range(20_000))))
    middle = len(whole) // 2
    content = {
        "cut": whole[:-20],
        "overwritten": whole[:middle] + b"\xaa" * 64 + whole[middle + 64 :],
        "something else": b'{"text": "plain"}\n',
    }[damage]
    (tmp_path / f"broken.jsonl{ending}").write_bytes(content)
    with pytest.raises(CorpusError, match=rf"broken\.jsonl{ending} cannot be read .*Check that it is complete"):
        rows(jsonl(tmp_path))


def test_nested_fields_and_missing_domains(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(
        lines(
            {"raw": {"text": "one"}, "meta": {"pile_set_name": "ArXiv"}},
            {"raw": {"text": "two"}, "meta": {}},
            {"raw": {"text": "three"}, "meta": None},
            {"raw": {"text": "four"}, "meta": {"pile_set_name": 7}},
            {"raw": {"text": "five"}, "meta": {"pile_set_name": "\ud800"}},
            {"raw": "no object", "meta": {"pile_set_name": "ArXiv"}},
        )
    )
    fields = DocumentFields(text_field="raw.text", domain_field="meta.pile_set_name")
    found = rows(jsonl(tmp_path), fields)
    assert [(row.text, row.domain) for row in found if isinstance(row, Document)] == [
        ("one", "ArXiv"),
        ("two", "unknown"),
        ("three", "unknown"),
        ("four", "7"),
        ("five", "\\ud800"),
    ]
    assert [row.reason for row in found if isinstance(row, Rejected)] == ["no_text"]


def test_parquet_rows(tmp_path: Path) -> None:
    folder = tmp_path / "books"
    folder.mkdir()
    meta = pa.array([{"name": "A", "x": 1}, {"name": None, "x": 2}, None, {"name": "B", "x": 3}, {"name": "C", "x": 4}])
    texts = pa.array([b"one", b"two", None, b"\xff", b"  "])
    not_checked = pa.Array.from_buffers(pa.string(), 5, texts.buffers())  # strings that are not UTF-8
    table = pa.table({"content": pa.StructArray.from_arrays([not_checked], names=["text"]), "meta": meta})
    pq.write_table(table, folder / "part.parquet", row_group_size=2)
    source = ParquetSource(type="parquet", path=str(tmp_path))

    found = rows(source, DocumentFields(text_field="content.text", domain_field="meta.name"))
    assert [(row.line, row.text, row.domain) for row in found if isinstance(row, Document)] == [
        (1, "one", "A"),
        (2, "two", "unknown"),
    ]
    assert [(row.file, row.line, row.reason) for row in found if isinstance(row, Rejected)] == [
        ("books/part.parquet", 3, "no_text"),
        ("books/part.parquet", 4, "not_utf8"),
        ("books/part.parquet", 5, "empty"),
    ]
    by_folder = rows(source, DocumentFields(text_field="content.text"))
    assert {row.domain for row in by_folder if isinstance(row, Document)} == {"books"}
    numbers = rows(source, DocumentFields(text_field="meta.x"))
    assert {row.reason for row in numbers if isinstance(row, Rejected)} == {"text_not_a_string", "no_text"}
    with pytest.raises(CorpusError, match=r"part\.parquet: no column 'text'; its columns: content\.text, meta\.name"):
        rows(source)


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.binary()])
def test_parquet_texts_of_other_types(tmp_path: Path, kind: pa.DataType) -> None:
    pq.write_table(pa.table({"text": pa.array(["b", "a", "b"]).cast(kind)}), tmp_path / "a.parquet")
    found = rows(ParquetSource(type="parquet", path=str(tmp_path)))
    assert [row.text for row in found if isinstance(row, Document)] == ["b", "a", "b"]


def test_a_cut_parquet_file_stops_with_its_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "cut.parquet")
    whole = (tmp_path / "cut.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:-10])
    with pytest.raises(CorpusError, match=r"cut\.parquet cannot be read"):
        rows(ParquetSource(type="parquet", path=str(tmp_path)))


def test_text_files(tmp_path: Path) -> None:
    corpus = tmp_path / "library"
    for name, content in {
        "poems/b.txt": b"second",
        "poems/deep/a.txt": b"third",
        "poems/a.txt": b"first",
        "top.txt": b"at the top",
        "bad/1.txt": b"\xff",
        "bad/2.txt": b"x" * 11,
        "bad/3.txt": b"\n",
        "poems/notes.md": b"another kind",
        ".hidden/a.txt": b"hidden",
    }.items():
        (corpus / name).parent.mkdir(parents=True, exist_ok=True)
        (corpus / name).write_bytes(content)
    found = rows(TextSource(type="text", path=str(corpus)), DocumentFields(max_document_bytes=10))
    assert [(row.domain, row.line, row.text) for row in found if isinstance(row, Document)] == [
        ("library", 1, "at the top"),
        ("poems", 1, "first"),
        ("poems", 2, "second"),
        ("poems", 3, "third"),
    ]
    assert [(row.file, row.line, row.reason) for row in found if isinstance(row, Rejected)] == [
        ("bad/1.txt", 1, "not_utf8"),
        ("bad/2.txt", 2, "too_long"),
        ("bad/3.txt", 3, "empty"),
    ]


class FakeHub(MemoryFileSystem):
    """The hub's file system, as far as reading goes."""

    protocol = "hf"
    store: dict[str, Any] = {}  # noqa: RUF012 - MemoryFileSystem declares it so
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix("hf://").strip("/")

    def unstrip_protocol(self, name: str) -> str:
        return f"hf://{self._strip_protocol(name)}"


def test_files_of_a_hub_at_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(filesystems, "hf", FakeHub)
    revision = "0123456789" * 4
    hub = FakeHub()
    base = f"datasets/some/texts@{revision}"
    hub.pipe_file(f"{base}/data/b.jsonl", lines({"text": "from JSON"}))
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": ["from Parquet"]}), sink)
    hub.pipe_file(f"{base}/data/a.parquet", sink.getvalue())
    hub.pipe_file(f"{base}/README.md", b"no corpus")
    source = HuggingFaceSource(type="huggingface", id="some/texts", revision=revision, files="data/*")

    shards = observe_corpus(source, known={}, now_ns=NOW_NS).shards
    assert [(shard.name, shard.files) for shard in shards] == [
        ("a.parquet", (f"hf://{base}/data/a.parquet",)),
        ("b.jsonl", (f"hf://{base}/data/b.jsonl",)),
    ]
    assert [row.text for row in rows(source) if isinstance(row, Document)] == ["from Parquet", "from JSON"]
    # A commit pins the content, so that its fingerprint needs no reading.
    monkeypatch.setattr(FakeHub, "_open", lambda *_, **__: pytest.fail("read a pinned file"))
    assert [shard.fingerprint for shard in observe_corpus(source, known={}, now_ns=NOW_NS).shards] == [
        shard.fingerprint for shard in shards
    ]


def write(source: FileSource, folder: Path, **changes: Any) -> dict[str, Any]:
    (shard,) = observe_corpus(source, known={}, now_ns=NOW_NS).shards
    settings: dict[str, Any] = {"fields": DocumentFields(), "shares": SHARES, "seed": 3}
    return write_documents(
        shard,
        source=source,
        shard_fingerprint=FINGERPRINT,
        folder=folder,
        report=lambda _: None,
        **(settings | changes),
    )


def test_documents_and_rejected_rows_are_written(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    texts = [f"document {number * 7919 % 3_000}" for number in range(3_000)]
    content = lines({"text": "twice"}, *({"text": text} for text in texts), {"text": "twice"}, {"text": 1}, {"x": 1})
    (tmp_path / "in" / "web.jsonl").write_bytes(content)
    facts = write(jsonl(tmp_path / "in"), tmp_path)

    documents = pq.read_table(tmp_path / "documents.parquet").to_pylist()
    assert [row["text"] for row in documents] == ["twice", *texts, "twice"]
    first = int(FINGERPRINT[:9], 16) << 27
    assert [row["document_id"] for row in documents] == list(range(first, first + 3_002))
    assert [row["line"] for row in documents] == list(range(1, 3_003))
    assert {(row["shard"], row["domain"]) for row in documents} == {("web.jsonl", "web")}
    assert all(row["num_bytes"] == len(row["text"]) for row in documents)
    assert [row["split"] for row in documents] == [split_of(row["text"], shares=SHARES, seed=3) for row in documents]
    assert documents[0]["split"] == documents[-1]["split"]
    rejected = pq.read_table(tmp_path / "rejected.parquet").to_pylist()
    assert [(row["shard"], row["file"], row["line"], row["reason"], row["excerpt"]) for row in rejected] == [
        ("web.jsonl", "web.jsonl", 3_003, "text_not_a_string", '{"text": 1}'),
        ("web.jsonl", "web.jsonl", 3_004, "no_text", '{"x": 1}'),
    ]
    per_split = facts.pop("documents_per_split")
    assert facts == {
        "num_documents": 3_002,
        "num_rejected": 2,
        "num_bytes": sum(len(text) for text in texts) + 10,
        "domains": ["web"],
        "num_without_domain": 0,
        "keys": ["text"],
        "rejected_per_reason": {"no_text": 1, "text_not_a_string": 1},
    }
    # Shares of 0.1 and 0.2 of 3,002, within four standard deviations.
    assert abs(per_split["validation"] - 300) < 66 and abs(per_split["reference"] - 600) < 88
    assert per_split["teacher"] == 0 and sum(per_split.values()) == 3_002


def test_a_file_of_which_no_row_is_a_document_stops_the_step(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_bytes(lines({"content": "a", "meta": {"url": "b"}}, 3, {"content": "c"}))
    with pytest.raises(CorpusError) as raised:
        write(jsonl(tmp_path / "in"), tmp_path)
    assert str(raised.value).startswith(
        "shard a.jsonl: none of its 3 rows is a document (no_text 2, not_an_object 1). Its rows have the fields "
        "content, meta.url. The text is looked for in corpus.fields.text_field: text."
    )


@pytest.mark.parametrize(
    "content",
    [b'[{"text": "a"}, {"text": "b"}]', b'\xef\xbb\xbf[\n{"text": "a"},\n{"text": "b"}\n]\n', b'  [ {\n"text": "a"}]'],
)
def test_a_json_array_is_said_to_be_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(CorpusError, match=r"a\.json: this file is one JSON array"):
        rows(jsonl(tmp_path))


def test_a_key_with_a_dot_comes_before_a_nested_one(tmp_path: Path) -> None:
    fields = DocumentFields(domain_field="meta.source")
    flat, nested = {"text": "a", "meta.source": "flat"}, {"text": "b", "meta": {"source": "nested"}}
    (tmp_path / "a.jsonl").write_bytes(lines(flat, nested, flat | nested))
    pq.write_table(pa.Table.from_pylist([flat | nested]), tmp_path / "b.parquet")
    pq.write_table(pa.Table.from_pylist([nested]), tmp_path / "c.parquet")
    assert [row.domain for row in rows(jsonl(tmp_path), fields) if isinstance(row, Document)] == [
        "flat",
        "nested",
        "flat",
    ]
    found = rows(ParquetSource(type="parquet", path=str(tmp_path)), fields)
    assert [row.domain for row in found if isinstance(row, Document)] == ["flat", "nested"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.binary_view()])
def test_a_text_of_a_parquet_file_that_is_not_utf8_is_one_rejected_row(tmp_path: Path, kind: pa.DataType) -> None:
    array = pa.array([b"\xff\xfe bad", b"fine"], type=pa.binary())
    column = array.cast(kind) if kind in (pa.binary(), pa.binary_view()) else array.view(pa.string())
    if kind not in (column.type, pa.string()):
        column = pa.Array.from_buffers(pa.string(), 2, array.buffers()).cast(kind, safe=False)
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    bad, fine = rows(ParquetSource(type="parquet", path=str(tmp_path)))
    assert isinstance(bad, Rejected) and bad.reason == "not_utf8"
    assert isinstance(fine, Document) and fine.text == "fine"


def test_a_flipped_byte_of_a_parquet_page_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"text": [f"{place}: some text of a page" for place in range(100)]})
    pq.write_table(table, path, compression="none", write_page_checksum=True)
    content = bytearray(path.read_bytes())
    content[content.index(b"50: some text") + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=r"a\.parquet cannot be read .*checksum"):
        rows(ParquetSource(type="parquet", path=str(tmp_path)))


def test_whatever_a_library_raises_over_a_damaged_file_names_it(tmp_path: Path) -> None:
    """Found by fuzzing: a column whose name is not UTF-8 is a UnicodeDecodeError of pyarrow."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a"], "zother": ["b"]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"zother", b"\x80other"))
    with pytest.raises(CorpusError, match=r"a\.parquet cannot be read \(UnicodeDecodeError: "):
        rows(ParquetSource(type="parquet", path=str(tmp_path)))


def test_a_zip_archive_holds_one_file(tmp_path: Path) -> None:
    for num_files in (1, 2):
        with zipfile.ZipFile(tmp_path / "a.jsonl.zip", "w") as archive:
            for place in range(num_files):
                archive.writestr(f"{place}.jsonl", lines({"text": "a"}))
        if num_files == 1:
            assert [row.text for row in rows(jsonl(tmp_path)) if isinstance(row, Document)] == ["a"]
    with pytest.raises(CorpusError, match="a zip archive of 2 files"):
        rows(jsonl(tmp_path))


def test_both_files_are_written_even_when_empty(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_bytes(b"\n \n")
    assert write(jsonl(tmp_path / "in"), tmp_path)["num_documents"] == 0
    assert pq.read_metadata(tmp_path / "documents.parquet").num_rows == 0
    assert pq.read_schema(tmp_path / "documents.parquet").names[0] == "document_id"
    (tmp_path / "in" / "a.jsonl").write_bytes(lines({"text": "sense"}))
    assert write(jsonl(tmp_path / "in"), tmp_path)["num_rejected"] == 0
    assert pq.read_metadata(tmp_path / "rejected.parquet").num_rows == 0


@pytest.mark.parametrize("trusts_stamp", [True, False])
def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path, trusts_stamp: bool) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines({"text": "as observed"}))
    source = jsonl(path)
    (shard,) = observe_corpus(source, known={}, now_ns=NOW_NS if trusts_stamp else 0).shards
    assert (shard.stamp is not None) == trusts_stamp
    settings: dict[str, Any] = {"source": source, "fields": DocumentFields(), "shares": SHARES, "seed": 0}
    settings |= {"shard_fingerprint": FINGERPRINT, "folder": tmp_path, "report": lambda _: None}
    path.write_bytes(lines({"text": "as observed"}))  # written again, but the same
    assert write_documents(shard, **settings)["num_documents"] == 1
    path.write_bytes(lines({"text": "as_observed"}))
    with pytest.raises(CorpusChangedError, match=r"shard a\.jsonl: its files changed while the run .* Start again"):
        write_documents(shard, **settings)
    path.write_bytes(b"{")  # cut off, but another file: nobody's fault
    with pytest.raises(CorpusChangedError):
        write_documents(shard, **settings)
    path.unlink()
    with pytest.raises(CorpusChangedError, match="gone now"):
        write_documents(shard, **settings)


def test_a_bad_file_that_stayed_as_it_is_is_not_said_to_have_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(lines({"text": "one"}))[:-9])
    source = jsonl(path)
    (shard,) = observe_corpus(source, known={}, now_ns=NOW_NS).shards
    settings: dict[str, Any] = {"source": source, "fields": DocumentFields(), "shares": SHARES, "seed": 0}
    with pytest.raises(CorpusError, match="cannot be read") as failure:
        write_documents(shard, **settings, shard_fingerprint=FINGERPRINT, folder=tmp_path, report=print)
    assert not isinstance(failure.value, CorpusChangedError)
