"""`contaminated_documents`: which documents share a run of words with what models are measured by.

Where they are only counted, they are looked for here, so that nothing else is made anew; where they are removed,
`documents` has done so, and this is its list. A corpus file is held against the validation split of itself and of the
files whose names come before, and so a new file costs itself alone.
"""

import shutil
from collections import deque
from collections.abc import Iterator
from typing import Final

import polars as pl
import pyarrow.parquet as pq

from miniplm_assets.core.splits import VALIDATION
from miniplm_assets.corpus.cleaning import Document
from miniplm_assets.corpus.tables import CONTAMINATED, RowGroupWriter
from miniplm_assets.experiment.decontamination import Runs
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.documents import DOCUMENTS
from miniplm_assets.kinds.protected_ngrams import open_protected, protected_by
from miniplm_assets.lineage.kind import Blueprint, Kind, Node
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage import tables
from miniplm_assets.storage.store import Draft, Result

# Some ten megabytes of text at once.
DOCUMENTS_AT_ONCE: Final = 4_096
COUNTS: Final = (
    "num_held_against_protected",
    "num_contaminated",
    "contaminated_per_source",
    "contaminated_per_domain",
)


class Listing(Settings):
    """What is listed.

    Attributes:
        runs: what documents are held against; None where `documents` has done that, and dropped what it found.
    """

    runs: Runs | None


def _nodes(blueprint: Blueprint) -> Iterator[Node[Listing]]:
    settings = blueprint.experiment.corpus.decontamination
    if settings is None:
        return
    counted = None if settings.removes else settings
    yield Node(
        kind=CONTAMINATED_DOCUMENTS,
        inputs={DOCUMENTS.name: DOCUMENTS.name} | protected_by(counted),
        settings=Listing(runs=counted and counted.runs),
        reads_earlier_pieces=counted is not None and counted.runs.against_validation,
    )


def _make(work: Work[Listing]) -> Result:
    """List the documents of each corpus file."""
    documents = work.input_pieces(DOCUMENTS.name)
    search = None if work.settings.runs is None else _Search(work, work.settings.runs)

    def write(shard: str, draft: Draft) -> None:
        if search is not None:
            search.list_of(shard, documents[shard], draft)
            return
        shutil.copyfile(documents[shard].file(tables.CONTAMINATED), draft.path / tables.CONTAMINATED)
        draft.facts = {name: documents[shard].facts[name] for name in COUNTS}

    return work.make_pieces(write, finish=_add_share)


def _add_share(draft: Draft) -> None:
    looked_at = draft.facts["num_held_against_protected"]
    draft.facts["contaminated_share"] = draft.facts["num_contaminated"] / max(1, looked_at)


class _Search:
    """Looks for them in one corpus file after the other."""

    def __init__(self, work: Work[Listing], runs: Runs) -> None:
        self._work = work
        self._decontaminator = open_protected(work, runs)
        self._shards = deque(sorted(work.piece_recipes))

    def list_of(self, shard: str, documents: Result, draft: Draft) -> None:
        """Write the list of a corpus file, and what of it is protected from those after it."""
        against_validation = self._decontaminator.runs.against_validation
        while against_validation and (earlier := self._shards.popleft()) != shard:
            self._work.run.stop.look()
            stored = self._work.pipeline.store.require(self._work.piece_recipes[earlier])
            self._decontaminator.protected.read(stored.file(tables.VALIDATION_NGRAMS))
        path = documents.file(DOCUMENTS.table or "")
        held_out = pl.scan_parquet(path, glob=False).filter(pl.col("split") == VALIDATION).select("text")
        alone = self._decontaminator.begin_shard(held_out.collect()["text"] if against_validation else ())
        alone.write(draft.path / tables.VALIDATION_NGRAMS)
        columns = ["document_id", "line", "domain", "split", "text", "num_bytes"]
        with (
            pq.ParquetFile(path) as file,
            RowGroupWriter(draft.path / tables.CONTAMINATED, CONTAMINATED) as writer,
        ):
            for batch in file.iter_batches(DOCUMENTS_AT_ONCE, columns=columns):
                self._work.run.stop.look()
                rows = batch.to_pylist()
                some = [
                    Document(**{name: row[name] for name in ("line", "domain", "text", "num_bytes")}) for row in rows
                ]
                splits, ids = [row["split"] for row in rows], [row["document_id"] for row in rows]
                _, found = self._decontaminator.listed(some, splits, ids, shard=shard)
                writer.write(found)
        draft.facts = self._decontaminator.facts()


CONTAMINATED_DOCUMENTS = Kind(
    name="contaminated_documents",
    code_version="1",
    section="corpus",
    technologies=frozenset({"parquet"}),
    description="""One row for each document that shares a run of words with what models are measured by.

Of every split but validation, against `corpus.decontamination.against`. With `action: remove` they are dropped before
anything is learnt from them or scored, and stand among the rejected rows too.""",
    nodes=_nodes,
    make=_make,
    pieces="shard",
    table=tables.CONTAMINATED,
    columns={
        "shard": "the corpus file",
        "line": "line or row in the file, from 1",
        "document_id": "NULL where it is dropped",
        "domain": "of the document",
        "split": "that it is in, or would be",
        "found_in": "what holds the first run of words that is shared: validation, or a file",
        "ngram": "the words of that run",
        "num_ngrams": "runs of the document that are shared with any protected text",
    },
)
