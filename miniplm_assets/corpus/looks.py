"""What is found out about documents before any is dropped: the language of each, a hash of its text, its twin.

Languages and hashes are found for each file by itself, in any process, and cost nearly all of the time. Twins go by the
order of files: they are found from the hashes alone, by one process. So several files can be looked at at once: their
documents are looked at first (`look_at_documents`), then the twins among them are found, file after file
(`find_twins`), then the files are written, each by what was found (`LookedAt`).
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from miniplm_assets.corpus.cleaning import Document
from miniplm_assets.corpus.duplicates import KeptDocuments, Twins
from miniplm_assets.corpus.hashes import Hashes, hashes_schema
from miniplm_assets.corpus.languages import languages_of
from miniplm_assets.corpus.progress import Progress, Report
from miniplm_assets.corpus.readers import read_rows
from miniplm_assets.corpus.row_keys import RowKeys
from miniplm_assets.corpus.shards import ObservedShard, unchanged_while_read
from miniplm_assets.experiment.cleaning import EVERY_LANGUAGE, Cleaning, NearDuplicates
from miniplm_assets.experiment.sources import DocumentFields, Source

# Text and rows that are looked at together: twins within a batch are found another way than those before it, and the
# pages of a file end with it.
_BATCH_BYTES = 4 << 20
_BATCH_ROWS = 4_096
_TWINS = pa.schema([("document_id", pa.int64()), ("similarity", pa.float32()), ("is_exact", pa.bool_())])


class Looks(Protocol):
    """Finds out about the next documents of a corpus file.

    Attributes:
        near: when two texts are as good as the same; None where only the same text is.
    """

    near: NearDuplicates | None

    def languages(self, documents: Sequence[Document]) -> list[str]:
        """Return the language of each."""

    def twins(self, documents: Sequence[Document]) -> tuple[Hashes, Twins]:
        """Return the hashes of those that no other reason drops, and their twins."""


class LookingNow:
    """Finds out as it is asked.

    Args:
        kept: the documents that stay, which those without a twin are added to; None where duplicates stay.
    """

    def __init__(self, kept: KeptDocuments | None) -> None:
        self._kept = kept
        self.near = None if kept is None else kept.near

    def languages(self, documents: Sequence[Document]) -> list[str]:
        """Return the language of each."""
        return languages_of(document.text for document in documents)

    def twins(self, documents: Sequence[Document]) -> tuple[Hashes, Twins]:
        """Return their hashes and twins, and keep those that have none."""
        assert self._kept is not None, "somebody asks for twins where duplicates stay"
        hashes = Hashes.of([document.text for document in documents], self.near)
        return hashes, self._kept.twins(hashes)


@dataclass(frozen=True, kw_only=True)
class LooksFiles:
    """Where it lies what was found of the documents of one corpus file.

    Attributes:
        folder: files of it.
        cleaning: what was looked for.
        num_parts: in which it was looked for: of so many batches after each other, one each.
    """

    folder: Path
    cleaning: Cleaning
    num_parts: int = 1

    def found(self, part: int) -> Path:
        """Languages and hashes."""
        return self.folder / f"looks-{part}.arrow"

    @property
    def twins(self) -> Path:
        """Twins."""
        return self.folder / "twins.arrow"

    @property
    def schema(self) -> pa.Schema:
        """The columns of `found`: a row for each document, a record batch for each batch of them."""
        return pa.schema([("language", pa.string()), *hashes_schema(self.cleaning.alike)])

    def batches(self) -> Iterator[tuple[list[str], Hashes]]:
        """Go through the batches: the languages, and the hashes of those whose language is wanted."""
        with ExitStack() as opened:
            files = [opened.enter_context(pa.OSFile(str(self.found(part)))) for part in range(self.num_parts)]
            readers = [opened.enter_context(pa.ipc.open_file(file)) for file in files]
            for number in range(sum(reader.num_record_batches for reader in readers)):
                batch = readers[number % self.num_parts].get_batch(number // self.num_parts)
                languages = batch["language"].to_pylist()
                yield (
                    languages,
                    Hashes.of_columns(batch, self.cleaning.alike).taking(
                        np.flatnonzero(stay_by_language(languages, self.cleaning))
                    ),
                )

    def twins_of_batches(self) -> Iterator[Twins]:
        """Go through the twins of each batch."""
        with pa.OSFile(str(self.twins)) as file, pa.ipc.open_file(file) as reader:
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                columns = {name: batch[name].to_numpy(zero_copy_only=False) for name in _TWINS.names}
                yield Twins(**columns)


class LookedAt:
    """Tells what was found of the documents of a corpus file, batch after batch of the same ones."""

    def __init__(self, files: LooksFiles) -> None:
        self.near = files.cleaning.alike
        self._batches, self._twins = files.batches(), files.twins_of_batches()
        self._hashes: Hashes | None = None
        self._names_languages = files.cleaning.names_languages

    def languages(self, documents: Sequence[Document]) -> list[str]:
        """Return the language of each."""
        languages, self._hashes = next(self._batches)
        assert len(languages) == len(documents), (len(languages), len(documents))
        return languages

    def twins(self, documents: Sequence[Document]) -> tuple[Hashes, Twins]:
        """Return their hashes and twins."""
        if not self._names_languages:
            _, self._hashes = next(self._batches)
        assert self._hashes is not None and len(self._hashes) == len(documents)
        return self._hashes, next(self._twins)


def batches_of(rows: Iterator[Any]) -> Iterator[tuple[list[Document], list[Any]]]:
    """Go through rows some megabytes at a time: the documents among them, and the others. The last ones may be none."""
    documents: list[Document] = []
    others: list[Any] = []
    num_bytes = 0
    for row in rows:
        if isinstance(row, Document):
            documents.append(row)
            num_bytes += row.num_bytes
        else:
            others.append(row)
        if num_bytes >= _BATCH_BYTES or len(documents) + len(others) >= _BATCH_ROWS:
            yield documents, others
            documents, others, num_bytes = [], [], 0
    yield documents, others


def stay_by_language(languages: Sequence[str], cleaning: Cleaning) -> NDArray[np.bool_]:
    """Say of each document whether its language is wanted."""
    wanted = cleaning.languages
    if not wanted or wanted == EVERY_LANGUAGE:
        return np.ones(len(languages), dtype=np.bool_)
    return np.array([language in wanted for language in languages], dtype=np.bool_)


def look_at_documents(
    shard: ObservedShard, *, source: Source, fields: DocumentFields, files: LooksFiles, part: int = 0, report: Report
) -> None:
    """Find the languages of the documents of a corpus file, and the hashes of those whose language is wanted.

    Args:
        shard: the corpus file, as observed.
        source: what kind of file it is.
        fields: which fields of a row are read.
        files: gets them.
        part: which batches are looked at. Reading all of them is little beside: so any format can be parted, and the
            batches are those of one process.
        report: called with a sentence every few seconds.

    Raises:
        CorpusError: as `write_documents`.
        CorpusChangedError: if it is another file now than it was when it was observed.
    """
    cleaning, progress, num_documents = files.cleaning, Progress(report), 0
    with (
        unchanged_while_read(shard, source=source),
        pa.OSFile(str(files.found(part)), "wb") as file,
        pa.ipc.new_file(file, files.schema) as writer,
    ):
        batches = batches_of(read_rows(shard, source=source, fields=fields, keys=RowKeys()))
        for documents, _ in islice(batches, part, None, files.num_parts):
            texts = [document.text for document in documents]
            languages = languages_of(texts) if cleaning.names_languages else [""] * len(texts)
            stay = stay_by_language(languages, cleaning)
            # What is dropped for its language has no hash: an empty text stands for it, and is left out again.
            hashed = [text if stays else "" for text, stays in zip(texts, stay, strict=True)]
            columns = {"language": languages} | Hashes.of(hashed, cleaning.alike).columns()
            writer.write_batch(pa.RecordBatch.from_pydict(columns, schema=files.schema))
            num_documents += len(documents)
            progress.say(f"{shard.name}: looked at {num_documents:,} documents")


def find_twins(files: LooksFiles, kept: KeptDocuments, *, first_document_id: int) -> None:
    """Find the twins of the documents of a corpus file that was looked at, and keep those that have none.

    Args:
        files: hold the hashes, and get the twins.
        kept: the documents that stay of the files before.
        first_document_id: of the file.
    """
    kept.begin_shard(first_document_id)
    with pa.OSFile(str(files.twins), "wb") as file, pa.ipc.new_file(file, _TWINS) as writer:
        for _, hashes in files.batches():
            twins = kept.twins(hashes)
            writer.write_batch(pa.record_batch([twins.document_id, twins.similarity, twins.is_exact], schema=_TWINS))
