"""Drops documents though nothing is wrong with them: of other languages, of benchmarks, and those that are twice."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa

from miniplm_assets.corpus.cleaning import Document, Rejected, excerpt_of
from miniplm_assets.corpus.decontaminator import Decontaminator
from miniplm_assets.corpus.duplicates import NO_TWIN
from miniplm_assets.corpus.hashes import hashes_schema
from miniplm_assets.corpus.looks import Looks, stay_by_language
from miniplm_assets.corpus.tables import CONTAMINATED, DOCUMENTS, LANGUAGE, REJECTED, TWIN, RowGroupWriter
from miniplm_assets.experiment.cleaning import Cleaning
from miniplm_assets.storage.tables import CONTAMINATED as CONTAMINATED_FILE
from miniplm_assets.storage.tables import HASHES as HASHES_FILE


class Cleaner:
    """Drops documents of one corpus file.

    Args:
        cleaning: which.
        looks: finds out about documents.
        files: the names of its files: one, or of a folder of texts one for each line.
        shard: the name of the file in the tables.
        folder: gets the hashes of these, where duplicates are dropped; and what shares words with a protected text.
        decontaminator: knows the protected texts; None where none are.
        split_of: gives the split of a text.
    """

    def __init__(
        self,
        cleaning: Cleaning,
        looks: Looks,
        *,
        shard: str,
        files: Sequence[str],
        folder: Path,
        decontaminator: Decontaminator | None,
        split_of: Callable[[str], str],
    ) -> None:
        self._cleaning = cleaning
        self._looks = looks
        self._shard, self._files = shard, files
        self._decontaminator, self._split_of = decontaminator, split_of
        self._folder = folder
        self._languages: list[str] = []  # of the documents that stayed last
        self._per_language: Counter[str] = Counter()
        self._per_other_language: Counter[str] = Counter()
        self._per_twin_reason: Counter[str] = Counter()
        self._per_twin_domain: Counter[str] = Counter()
        self._open = ExitStack()

    def __enter__(self) -> Self:
        if self._cleaning.drops_duplicates:
            self._writer = self._open.enter_context(
                RowGroupWriter(self._folder / HASHES_FILE, hashes_schema(self._looks.near))
            )
        if self._decontaminator is not None:
            self._contaminated = self._open.enter_context(
                RowGroupWriter(self._folder / CONTAMINATED_FILE, CONTAMINATED)
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    @property
    def document_schema(self) -> pa.Schema:
        """The columns of documents.parquet."""
        return pa.schema([*DOCUMENTS, *(LANGUAGE if self._cleaning.names_languages else [])])

    @property
    def rejected_schema(self) -> pa.Schema:
        """The columns of rejected.parquet."""
        return pa.schema([*REJECTED, *(TWIN if self._cleaning.drops_duplicates else [])])

    @property
    def num_dropped(self) -> int:
        """How many documents were dropped."""
        num_contaminated = 0 if self._decontaminator is None else self._decontaminator.num_found
        return self._per_other_language.total() + num_contaminated + self._per_twin_reason.total()

    def drop(self, documents: list[Document]) -> list[Rejected]:
        """Take what is dropped out of the next documents, and return it."""
        return [
            *self._drop_other_languages(documents),
            *self._drop_contaminated(documents),
            *self._drop_twins(documents),
        ]

    def document_columns(self) -> dict[str, Any]:
        """Return the further columns of documents.parquet, for the documents that stayed last."""
        return {"language": self._languages} if self._cleaning.names_languages else {}

    def rejected_columns(self, rejected: Sequence[Rejected]) -> dict[str, Any]:
        """Return the further columns of rejected.parquet."""
        if not self._cleaning.drops_duplicates:
            return {}
        return {"twin_id": [row.twin_id for row in rejected], "similarity": [row.similarity for row in rejected]}

    def facts(self) -> dict[str, Any]:
        """Return what was dropped, and of which language the rest is; nothing where nobody looked."""
        facts: dict[str, Any] = {}
        if self._cleaning.names_languages:
            facts["num_of_other_languages"] = self._per_other_language.total()
            facts["dropped_per_language"] = dict(sorted(self._per_other_language.items()))
            facts["documents_per_language"] = dict(sorted(self._per_language.items()))
        if self._decontaminator is not None:
            facts |= self._decontaminator.facts()
        if self._cleaning.drops_duplicates:
            facts["num_duplicates"] = self._per_twin_reason.total()
            facts["duplicates_per_reason"] = dict(sorted(self._per_twin_reason.items()))
            facts["duplicates_per_domain"] = dict(sorted(self._per_twin_domain.items()))
        return facts

    def _drop_other_languages(self, documents: list[Document]) -> list[Rejected]:
        if not self._cleaning.names_languages:
            return []
        languages = self._looks.languages(documents)
        stay = stay_by_language(languages, self._cleaning).tolist()
        self._languages = [language for language, stays in zip(languages, stay, strict=True) if stays]
        dropped = [place for place, stays in enumerate(stay) if not stays]
        self._per_other_language.update(languages[place] for place in dropped)
        rejected = [self._rejected(documents[place], f"language_{languages[place]}") for place in dropped]
        documents[:] = [document for document, stays in zip(documents, stay, strict=True) if stays]
        self._per_language.update(self._languages)
        return rejected

    def _drop_twins(self, documents: list[Document]) -> list[Rejected]:
        if not self._cleaning.drops_duplicates:
            return []
        hashes, twins = self._looks.twins(documents)
        are_kept = twins.document_id == NO_TWIN
        self._writer.write(hashes.taking(np.flatnonzero(are_kept)).columns())
        rejected = []
        for place in np.flatnonzero(~are_kept).tolist():
            reason = "exact_duplicate" if twins.is_exact[place] else "near_duplicate"
            self._per_twin_reason[reason] += 1
            self._per_twin_domain[documents[place].domain] += 1
            twin_id, similarity = int(twins.document_id[place]), float(twins.similarity[place])
            rejected.append(self._rejected(documents[place], reason, twin_id, similarity))
        self._keep(documents, np.flatnonzero(are_kept).tolist())
        return rejected

    def _drop_contaminated(self, documents: list[Document]) -> list[Rejected]:
        if self._decontaminator is None:
            return []
        splits = [self._split_of(document.text) for document in documents]
        found, columns = self._decontaminator.listed(documents, splits, None, shard=self._shard)
        self._contaminated.write(columns)
        rejected = [self._rejected(documents[place], "contaminated") for place in found]
        self._keep(documents, sorted(set(range(len(documents))) - set(found)))
        return rejected

    def _keep(self, documents: list[Document], places: list[int]) -> None:
        """Leave the documents at some places, after their languages were counted."""
        documents[:] = [documents[place] for place in places]
        if self._cleaning.names_languages:
            self._per_language.subtract(self._languages)
            self._languages = [self._languages[place] for place in places]
            self._per_language.update(self._languages)

    def _rejected(
        self, document: Document, reason: str, twin_id: int | None = None, similarity: float | None = None
    ) -> Rejected:
        return Rejected(
            file=self._files[document.line - 1 if len(self._files) > 1 else 0],
            line=document.line,
            reason=reason,
            excerpt=excerpt_of(document.text),
            twin_id=twin_id,
            similarity=similarity,
        )
