"""Documents that are dropped though nothing is wrong with them: those that are there twice."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from miniplm_assets.corpus.cleaning import Document, Rejected, excerpt_of
from miniplm_assets.corpus.duplicates import NO_TWIN, KeptDocuments
from miniplm_assets.corpus.hashes import SCHEMA, Hashes
from miniplm_assets.corpus.listing import file_names
from miniplm_assets.corpus.shards import ObservedShard
from miniplm_assets.corpus.tables import RowGroupWriter
from miniplm_assets.experiment.sources import Source
from miniplm_assets.storage.tables import HASHES as HASHES_FILE


class Dropping(AbstractContextManager["Dropping"]):
    """Drops the documents of a shard that have a twin, and keeps the hashes of the others."""

    def __init__(
        self, kept: KeptDocuments, shard: ObservedShard, source: Source, first_document_id: int, folder: Path
    ) -> None:
        self._kept = kept
        self._files = file_names(shard.name, shard.files, source)
        self._writer = RowGroupWriter(folder / HASHES_FILE, SCHEMA)
        self.per_reason: Counter[str] = Counter()
        self._per_domain: Counter[str] = Counter()
        kept.begin_shard(first_document_id)

    def drop(self, documents: list[Document]) -> Iterator[Rejected]:
        """Take those that have a twin out of the next documents, and go through them."""
        hashes = Hashes.of([document.text for document in documents])
        twins = self._kept.twins(hashes)
        stay = twins.document_id == NO_TWIN
        self._writer.write(hashes.taking(np.flatnonzero(stay)).columns())
        dropped = [(place, documents[place]) for place in np.flatnonzero(~stay).tolist()]
        documents[:] = [document for document, stays in zip(documents, stay.tolist(), strict=True) if stays]
        for place, document in dropped:
            self.per_reason["exact_duplicate"] += 1
            self._per_domain[document.domain] += 1
            yield Rejected(
                # Of a folder of texts, each file is a line.
                file=self._files[document.line - 1 if len(self._files) > 1 else 0],
                line=document.line,
                reason="exact_duplicate",
                excerpt=excerpt_of(document.text),
                twin_id=int(twins.document_id[place]),
                similarity=float(twins.similarity[place]),
            )

    @staticmethod
    def columns(rejected: Sequence[Rejected]) -> dict[str, Any]:
        """Return the columns of rejected.parquet that speak of twins."""
        return {
            "twin_id": [row.twin_id for row in rejected],
            "similarity": [row.similarity for row in rejected],
        }

    def facts(self) -> dict[str, Any]:
        """Return how many were dropped: in all, and by reason and by domain."""
        return {
            "num_duplicates": self.per_reason.total(),
            "duplicates_per_reason": dict(sorted(self.per_reason.items())),
            "duplicates_per_domain": dict(sorted(self._per_domain.items())),
        }

    def __exit__(self, *error: Any) -> None:
        self._writer.__exit__(*error)
