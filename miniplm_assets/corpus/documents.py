"""From a corpus file to documents: read, checked, split, numbered."""

from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from miniplm_assets.core.errors import CorpusError
from miniplm_assets.core.facts import counts_in_words
from miniplm_assets.core.splits import SPLITS, VALIDATION, split_of
from miniplm_assets.corpus.cleaner import Cleaner
from miniplm_assets.corpus.cleaning import UNKNOWN_DOMAIN, Document, Rejected
from miniplm_assets.corpus.decontaminator import Decontaminator
from miniplm_assets.corpus.duplicates import KeptDocuments
from miniplm_assets.corpus.listing import file_names
from miniplm_assets.corpus.looks import LookedAt, LookingNow, LooksFiles, batches_of
from miniplm_assets.corpus.progress import Progress, Report
from miniplm_assets.corpus.readers import read_rows
from miniplm_assets.corpus.row_keys import RowKeys
from miniplm_assets.corpus.shards import ObservedShard, unchanged_while_read
from miniplm_assets.corpus.tables import RowGroupWriter, RowNumbers
from miniplm_assets.experiment.cleaning import Cleaning
from miniplm_assets.experiment.sources import DocumentFields, Source
from miniplm_assets.storage.tables import DOCUMENTS as DOCUMENTS_FILE
from miniplm_assets.storage.tables import REJECTED as REJECTED_FILE
from miniplm_assets.storage.tables import VALIDATION_NGRAMS


def write_documents(
    shard: ObservedShard,
    *,
    source: Source,
    fields: DocumentFields,
    shares: Mapping[str, float],
    seed: int,
    shard_fingerprint: str,
    folder: Path,
    report: Report,
    cleaning: Cleaning | None = None,
    kept: KeptDocuments | None = None,
    looked_at: LooksFiles | None = None,
    decontaminator: Decontaminator | None = None,
) -> dict[str, Any]:
    """Write the documents of a shard, and apart from them the rows that are none, or one too many.

    Args:
        shard: the corpus file, as observed.
        source: what kind of file it is.
        fields: which fields of a row are read.
        shares: share of the documents for each split that is held apart.
        seed: of the split.
        shard_fingerprint: fingerprint of this result, where the ids begin.
        folder: gets documents.parquet and rejected.parquet, always both; and hashes.parquet, where duplicates are
            dropped.
        report: called with a sentence every few seconds.
        cleaning: which documents are dropped; absent: none.
        kept: the documents of the shards before, which those that stay of this one are added to; None where
            duplicates stay.
        looked_at: what was found of its documents before, where somebody has looked; then `kept` is not needed.
        decontaminator: those that share words with a protected text, its own validation split included, are dropped and
            listed in contaminated.parquet; validation_ngrams.parquet has what of this file is protected.

    Returns:
        num_documents, num_rejected, num_bytes, documents_per_split, rejected_per_reason, domains, num_without_domain
        (documents that have no domain_field, or an empty one), keys (of its rows); and what `Cleaner.facts`
        says of what is dropped, which is not counted as rejected.

    Raises:
        CorpusError: if a file cannot be read, has no text column, is no JSON lines, or has rows of which none is a
            document.
        CorpusChangedError: if it is another file now than it was when it was observed.
    """
    ids = RowNumbers(shard_fingerprint, shard=shard.name)
    per_split = dict.fromkeys(SPLITS, 0)
    per_reason: Counter[str] = Counter()
    per_domain: Counter[str] = Counter()
    keys = RowKeys()
    total_bytes = 0
    progress = Progress(report)
    if kept is not None and looked_at is None:
        kept.begin_shard(ids.first)
    cleaner = Cleaner(
        cleaning or Cleaning(),
        LookingNow(kept) if looked_at is None else LookedAt(looked_at),
        shard=shard.name,
        files=file_names(shard.name, shard.files, source),
        folder=folder,
        decontaminator=decontaminator,
        split_of=partial(split_of, shares=shares, seed=seed),
    )
    with (
        unchanged_while_read(shard, source=source),
        RowGroupWriter(folder / DOCUMENTS_FILE, cleaner.document_schema) as documents_writer,
        RowGroupWriter(folder / REJECTED_FILE, cleaner.rejected_schema) as rejected_writer,
        cleaner,
    ):
        if decontaminator is not None:
            # The file is read once more: a candidate may stand before the document that it shares words with.
            rows = read_rows(shard, source=source, fields=fields, keys=RowKeys())
            texts = (row.text for row in rows if isinstance(row, Document))
            is_held_out = decontaminator.runs.against_validation
            validation = (text for text in texts if split_of(text, shares=shares, seed=seed) == VALIDATION)
            decontaminator.begin_shard(validation if is_held_out else ()).write(folder / VALIDATION_NGRAMS)

        def write_batch(documents: list[Document], rejected: list[Rejected]) -> None:
            nonlocal total_bytes
            per_reason.update(row.reason for row in rejected)
            rejected.extend(cleaner.drop(documents))
            rejected.sort(key=lambda row: row.line)
            splits = [split_of(document.text, shares=shares, seed=seed) for document in documents]
            for split in splits:
                per_split[split] += 1
            documents_writer.write(
                {
                    "document_id": ids.take(len(documents)),
                    "shard": [shard.name] * len(documents),
                    "line": [document.line for document in documents],
                    "domain": [document.domain for document in documents],
                    "split": splits,
                    "text": [document.text for document in documents],
                    "num_bytes": [document.num_bytes for document in documents],
                }
                | cleaner.document_columns()
            )
            rejected_writer.write(
                {
                    "shard": [shard.name] * len(rejected),
                    "file": [row.file for row in rejected],
                    "line": [row.line for row in rejected],
                    "reason": [row.reason for row in rejected],
                    "excerpt": [row.excerpt for row in rejected],
                }
                | cleaner.rejected_columns(rejected)
            )
            total_bytes += sum(document.num_bytes for document in documents)
            per_domain.update(document.domain for document in documents)

        for documents, rejected in batches_of(read_rows(shard, source=source, fields=fields, keys=keys)):
            write_batch(documents, rejected)
            progress.say(f"{shard.name}: {sum(per_split.values()):,} documents, {total_bytes / 1e6:,.0f} MB of text")
    num_documents = sum(per_split.values())
    if per_reason and not num_documents and not cleaner.num_dropped:
        raise CorpusError(_none_is_a_document(shard.name, per_reason, fields.text_field, keys))
    return {
        "num_documents": num_documents,
        "num_rejected": per_reason.total(),
        "num_bytes": total_bytes,
        "documents_per_split": per_split,
        "rejected_per_reason": dict(sorted(per_reason.items())),
        "domains": sorted(per_domain),
        "num_without_domain": per_domain[UNKNOWN_DOMAIN] if fields.domain_field is not None else 0,
        "keys": keys.names,
        **cleaner.facts(),
    }


def _none_is_a_document(shard: str, per_reason: Counter[str], text_field: str, keys: RowKeys) -> str:
    reasons = counts_in_words(dict(per_reason.most_common()))
    fields = f"Its rows have the fields {', '.join(keys.names)}. " if keys.names else ""
    return (
        f"shard {shard}: none of its {per_reason.total():,} rows is a document ({reasons}). {fields}The text is looked "
        f"for in corpus.fields.text_field: {text_field}. Correct that, or the file, or let corpus.source.path name "
        "only the files that hold the corpus."
    )
