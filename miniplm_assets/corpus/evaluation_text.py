"""Text beside the corpus that students are measured on: read whole, by the readers of the corpus."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import polars as pl

from miniplm_assets.core.errors import CorpusError
from miniplm_assets.core.facts import counts_in_words
from miniplm_assets.corpus.cleaning import Document
from miniplm_assets.corpus.listing import PARQUET_ENDINGS, TOP_FOLDER
from miniplm_assets.corpus.readers import read_rows
from miniplm_assets.corpus.row_keys import RowKeys
from miniplm_assets.corpus.shards import ObservedShard
from miniplm_assets.experiment.sources import EvaluationText, JsonlSource, ParquetSource, Source, TextSource

TEXT: Final = ".txt"
ENDINGS: Final = (".jsonl", ".jsonl.gz", ".jsonl.zst", *PARQUET_ENDINGS, TEXT)
SCHEMA: Final = {"document_id": pl.Int64, "domain": pl.String, "text": pl.String}


def evaluation_files(place: Path) -> list[Path]:
    """Return a file, or the files of a folder (not of those in it) that can be read, by name."""
    files = [place] if place.is_file() else sorted(place.glob("*"))
    return [path for path in files if path.is_file() and path.name.lower().endswith(ENDINGS)]


def read_evaluation_text(settings: EvaluationText, files: list[Path]) -> tuple[pl.DataFrame, Mapping[str, Any]]:
    """Read all documents.

    Args:
        settings: which fields are read.
        files: as `evaluation_files` returns them.

    Returns:
        The documents, columns as in `SCHEMA`, numbered in the order of the files and rows; and the facts:
        num_documents, num_bytes, num_rejected and rejected_per_reason of the rows that are no documents.

    Raises:
        CorpusError: if a file cannot be read, or no row is a document; names the fields that rows have.
    """
    rows: list[tuple[int, str, str]] = []
    per_reason: Counter[str] = Counter()
    keys = RowKeys()
    for source, name, paths in _shards(files):
        shard = ObservedShard(name=name, files=tuple(map(str, paths)), num_bytes=0, fingerprint="", stamp=None)
        for row in read_rows(shard, source=source, fields=settings.fields, keys=keys):
            if isinstance(row, Document):
                rows.append((len(rows), row.domain, row.text))
            else:
                per_reason[row.reason] += 1
    if not rows:
        reasons = counts_in_words(dict(per_reason.most_common())) or "no rows at all"
        known = f"; its rows have the fields {', '.join(keys.names)}" if keys.names else ""
        raise CorpusError(
            f"{settings.path}: none of its rows is a document ({reasons}){known}. The text is looked for in "
            f"{settings.fields.text_field!r}: correct the path or its fields"
        )
    table = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    return table, {
        "num_documents": table.height,
        "num_bytes": int(table["text"].str.len_bytes().sum()),
        "num_rejected": per_reason.total(),
        "rejected_per_reason": dict(per_reason.most_common()),
    }


def _shards(files: list[Path]) -> Iterator[tuple[Source, str, list[Path]]]:
    """Go through what is read at once: all files of plain text, and each other file."""
    texts = [path for path in files if path.name.lower().endswith(TEXT)]
    for path in files:
        if path not in texts:
            source: Source = JsonlSource(type="jsonl", path=str(path))
            if path.name.lower().endswith(PARQUET_ENDINGS):
                source = ParquetSource(type="parquet", path=str(path))
            yield source, path.name, [path]
    if texts:
        yield TextSource(type="text", path=str(texts[0].parent)), TOP_FOLDER, texts
