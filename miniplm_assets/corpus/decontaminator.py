"""Holds documents against the texts that models are measured by."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from miniplm_assets.core.splits import VALIDATION
from miniplm_assets.corpus.cleaning import Document
from miniplm_assets.corpus.contamination import Protected, protect_texts
from miniplm_assets.corpus.tables import CONTAMINATED
from miniplm_assets.experiment.decontamination import Runs

# Texts whose runs of words are put together at once.
_TEXTS_AT_ONCE: Final = 4_096


class Decontaminator:
    """Holds documents of one corpus file after the other against protected texts, and counts.

    Args:
        runs: what is looked for.
        protected: the texts of files; those of the validation split are added to it.
    """

    def __init__(self, runs: Runs, protected: Protected) -> None:
        self.runs, self.protected = runs, protected
        self._per_source: Counter[str] = Counter()
        self._per_domain: Counter[str] = Counter()
        self._num_looked_at = 0

    def begin_shard(self, validation_texts: Iterable[str]) -> Protected:
        """Begin with a corpus file, and protect the texts of its validation split; return what these protect alone."""
        self._per_source.clear()
        self._per_domain.clear()
        self._num_looked_at = 0
        num_words, alone = self.runs.ngram, Protected(self.runs.ngram)
        for batch in _batches(validation_texts):
            protect_texts(alone, batch, num_words=num_words, found_in=VALIDATION)
        self.protected.add(alone.hashes, VALIDATION)
        return alone

    def listed(
        self, documents: Sequence[Document], splits: Sequence[str], ids: Sequence[int] | None, *, shard: str
    ) -> tuple[list[int], dict[str, Any]]:
        """Return the places of the documents that share a run of words with a protected text, and their rows.

        Args:
            documents: those of the validation split are not looked at.
            splits: of each.
            ids: of each; None where those that are found are dropped.
            shard: the corpus file.

        Returns:
            places, and the columns of `CONTAMINATED`.
        """
        looked_at = [place for place, split in enumerate(splits) if split != VALIDATION]
        found = self.protected.find([documents[place].text for place in looked_at])
        rows = [(place, shared) for place, shared in zip(looked_at, found, strict=True) if shared is not None]
        self._num_looked_at += len(looked_at)
        self._per_source.update(shared.found_in for _, shared in rows)
        self._per_domain.update(documents[place].domain for place, _ in rows)
        columns: dict[str, list[Any]] = {
            "shard": [shard] * len(rows),
            "line": [documents[place].line for place, _ in rows],
            "document_id": [None if ids is None else ids[place] for place, _ in rows],
            "domain": [documents[place].domain for place, _ in rows],
            "split": [splits[place] for place, _ in rows],
            "found_in": [shared.found_in for _, shared in rows],
            "ngram": [shared.ngram for _, shared in rows],
            "num_ngrams": [shared.num_ngrams for _, shared in rows],
        }
        assert columns.keys() == set(CONTAMINATED.names)
        return [place for place, _ in rows], columns

    @property
    def num_found(self) -> int:
        """How many documents of the corpus file share words with a protected text."""
        return self._per_source.total()

    def facts(self) -> dict[str, Any]:
        """Return how many documents of the corpus file were looked at, and found."""
        return {
            "num_held_against_protected": self._num_looked_at,
            "num_contaminated": self.num_found,
            "contaminated_per_source": dict(sorted(self._per_source.items())),
            "contaminated_per_domain": dict(sorted(self._per_domain.items())),
        }


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == _TEXTS_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch
