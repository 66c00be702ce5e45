"""Reading the rows of a shard one by one, in bounded memory: JSON lines, Parquet, text files."""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from miniplm_assets.core.errors import CorpusError
from miniplm_assets.corpus.cleaning import (
    UNKNOWN_DOMAIN,
    Document,
    Reason,
    Rejected,
    check_text,
    domain_of,
    excerpt_of,
    value_at,
)
from miniplm_assets.corpus.listing import PARQUET_ENDINGS, default_domain, file_names
from miniplm_assets.corpus.row_keys import RowKeys
from miniplm_assets.corpus.shards import ObservedShard
from miniplm_assets.corpus.streams import bounded_lines, explained, open_bytes, open_raw
from miniplm_assets.experiment.sources import DocumentFields, Source, TextSource

# JSON may spell each byte of a text with up to 6 characters (\u0041), and a row has other fields too.
_JSON_BYTES_PER_TEXT_BYTE: Final = 6
_OTHER_FIELDS_BYTES: Final = 1 << 20
BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_PARQUET_ROWS: Final = 256
_PARQUET_BUFFER_BYTES: Final = 1 << 20
# Takes a third of the time of Python's own, and refuses some that it takes (NaN, lone surrogates); what it takes is the
# same, to the type of each number (tests/test_corpus_reading.py).
_DECODE: Final = msgspec.json.Decoder().decode
# How a file begins that is one JSON array of rows, on one line or on many.
_ARRAY_OF_OBJECTS: Final = re.compile(rb"\[\s*(\{|$)")


def read_rows(
    shard: ObservedShard, *, source: Source, fields: DocumentFields, keys: RowKeys
) -> Iterator[Document | Rejected]:
    """Go through the rows of a shard in file order. Blank lines of JSONL are no rows.

    Args:
        shard: the corpus file.
        source: what kind of file it is.
        fields: which fields of a row are read.
        keys: takes note of the fields that rows have.

    Raises:
        CorpusError: if a file cannot be read, a Parquet file has no text column, or a file is a JSON array and no
            JSON lines; the message names it.
    """
    domain = default_domain(shard.name, source)
    if isinstance(source, TextSource):
        yield from _read_texts(shard.files, file_names(shard.name, shard.files, source), domain, fields)
        return
    (url,), name = shard.files, shard.name
    is_parquet = name.lower().endswith(PARQUET_ENDINGS) or source.type == "parquet"
    read = _read_parquet if is_parquet else _read_jsonl
    with explained(url):
        yield from read(url, name, domain, fields, keys)


def _read_jsonl(
    url: str, file: str, folder: str, fields: DocumentFields, keys: RowKeys
) -> Iterator[Document | Rejected]:
    max_bytes = _JSON_BYTES_PER_TEXT_BYTE * fields.max_document_bytes + _OTHER_FIELDS_BYTES
    with open_bytes(url) as opened:
        for line, (content, is_whole) in enumerate(bounded_lines(opened, max_bytes=max_bytes), start=1):
            if line == 1 and _ARRAY_OF_OBJECTS.match(content.removeprefix(BYTE_ORDER_MARK).strip()):
                raise CorpusError(
                    f"{url}: this file is one JSON array, and JSON lines were expected: an object on each line. Turn "
                    "it into them, for example with jq -c '.[]', or take the file out of the corpus."
                )
            if not is_whole:
                yield Rejected(file, line, "too_long", excerpt_of(content))
                continue
            if not content.strip():
                continue
            row = _parse(content.removeprefix(BYTE_ORDER_MARK) if line == 1 else content)
            if not isinstance(row, dict):
                yield Rejected(file, line, row, excerpt_of(content))
                continue
            keys.note(row)
            text = value_at(row, fields.text_field)
            domain = folder if fields.domain_field is None else domain_of(value_at(row, fields.domain_field))
            yield _checked(text, content, file=file, line=line, domain=domain, fields=fields)


def _parse(content: bytes) -> dict[str, Any] | Reason:
    """Return the object on a line, or why there is none."""
    try:
        row = _DECODE(content)
    except (ValueError, RecursionError):  # of what it refuses, Python's own decoder has the last word
        try:
            row = json.loads(content.decode())
        except UnicodeDecodeError:
            return "not_utf8"
        except (ValueError, RecursionError):
            return "not_json"
    return row if isinstance(row, dict) else "not_an_object"


def _read_parquet(
    url: str, file: str, folder: str, fields: DocumentFields, keys: RowKeys
) -> Iterator[Document | Rejected]:
    with open_raw(url) as opened:
        parquet = pq.ParquetFile(
            opened, pre_buffer=False, buffer_size=_PARQUET_BUFFER_BYTES, page_checksum_verification=True
        )
        schema = parquet.schema_arrow
        keys.note_all(_field_names(schema))
        if not _has_field(schema, fields.text_field):
            raise CorpusError(
                f"{url}: no column {fields.text_field!r}; its columns: {', '.join(_field_names(schema))}. Set "
                "corpus.fields.text_field to the one that holds the text."
            )
        has_domain = fields.domain_field is not None and _has_field(schema, fields.domain_field)
        columns = [fields.text_field, *([fields.domain_field] if has_domain else [])]
        line = 0
        for batch in parquet.iter_batches(batch_size=_PARQUET_ROWS, columns=columns):
            texts = _values(batch, fields.text_field)
            if fields.domain_field is None:
                domains = [folder] * len(texts)
            elif has_domain:
                domains = [domain_of(_decoded(value)) for value in _values(batch, fields.domain_field)]
            else:
                domains = [UNKNOWN_DOMAIN] * len(texts)
            for value, domain in zip(texts, domains, strict=True):
                line += 1
                text = _decoded(value)
                if isinstance(text, bytes):
                    yield Rejected(file, line, "not_utf8", excerpt_of(text))
                else:
                    yield _checked(text, None, file=file, line=line, domain=domain, fields=fields)


def _has_field(schema: pa.Schema, path: str) -> bool:
    if path in schema.names:
        return True
    fields: Any = schema
    for name in path.split("."):
        is_struct = isinstance(fields, pa.Schema) or pa.types.is_struct(fields)
        if not is_struct or name not in fields.names:
            return False
        fields = fields.field(name).type
    return True


def _field_names(fields: Any, prefix: str = "") -> Iterator[str]:
    """Yield the fields of a schema or struct, nested ones with dots."""
    for name in fields.names:
        inner = fields.field(name).type
        if pa.types.is_struct(inner):
            yield from _field_names(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _values(batch: pa.RecordBatch, path: str) -> list[Any]:
    """Return the values of a column; strings as bytes, for Parquet does not promise that they are UTF-8."""
    name, *inner = [path] if path in batch.schema.names else path.split(".")
    column = batch.column(name)
    if inner:
        column = pc.struct_field(column, inner)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string_view(column.type):
        column = column.cast(pa.binary_view())
    elif pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    return list(column.to_pylist())


def _decoded(value: Any) -> Any:
    """Return bytes as text where they are UTF-8; everything else as it is."""
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _read_texts(
    files: tuple[str, ...], names: tuple[str, ...], domain: str, fields: DocumentFields
) -> Iterator[Document | Rejected]:
    """Read one document a file; its line is the file's place in the shard."""
    for line, (url, name) in enumerate(zip(files, names, strict=True), start=1):
        with explained(url), open_bytes(url) as opened:
            content = opened.read(fields.max_document_bytes + 1)
        if len(content) > fields.max_document_bytes:
            yield Rejected(name, line, "too_long", excerpt_of(content))
            continue
        text = _decoded(content)
        if isinstance(text, bytes):
            yield Rejected(name, line, "not_utf8", excerpt_of(text))
        else:
            yield _checked(text, None, file=name, line=line, domain=domain, fields=fields)


def _checked(
    text: object, row: bytes | None, *, file: str, line: int, domain: str, fields: DocumentFields
) -> Document | Rejected:
    reason, num_bytes = check_text(text, max_document_bytes=fields.max_document_bytes)
    if reason is not None:
        return Rejected(file, line, reason, excerpt_of(text if row is None else row))
    return Document(line, domain, str(text), num_bytes)
