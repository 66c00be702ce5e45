"""`documents`: the texts of each corpus file, read, checked and split."""

from collections.abc import Iterator
from typing import ClassVar

from miniplm_assets.corpus.documents import write_documents
from miniplm_assets.experiment import DemoSource, DocumentFields, Source, Splits
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.lineage.fingerprints import RAW_CORPUS
from miniplm_assets.lineage.kind import Blueprint, Kind, Node
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage import tables
from miniplm_assets.storage.store import Draft, Result


class Reading(Settings):
    """How the rows of a corpus file become documents.

    Attributes:
        source: where the files are. Their content is an input; of the source only the format counts.
        format: of the files.
        fields: which of a row's are read.
        splits: shares of the documents.
        seed: of the split.
    """

    runtime_only: ClassVar[frozenset[str]] = frozenset({"source"})

    source: Source
    format: str
    fields: DocumentFields
    splits: Splits
    seed: int


def _nodes(blueprint: Blueprint) -> Iterator[Node[Reading]]:
    corpus = blueprint.experiment.corpus
    yield Node(
        kind=DOCUMENTS,
        inputs={RAW_CORPUS: RAW_CORPUS},
        settings=Reading(
            source=corpus.source,
            format="jsonl" if isinstance(corpus.source, DemoSource) else corpus.source.type,
            fields=corpus.fields,
            splits=corpus.splits,
            seed=blueprint.experiment.seed,
        ),
    )


def _make(work: Work[Reading]) -> Result:
    """Read, check and split the documents of each corpus file."""
    settings = work.settings
    observed = {shard.name: shard for shard in work.run.snapshot().shards}

    def write(shard: str, draft: Draft) -> None:
        draft.facts = write_documents(
            observed[shard],
            source=settings.source,
            fields=settings.fields,
            shares=settings.splits.shares,
            seed=settings.seed,
            shard_fingerprint=draft.recipe.fingerprint,
            folder=draft.path,
            report=work.report,
        )

    return work.make_pieces(write)


DOCUMENTS = Kind(
    name="documents",
    code_version="1",
    section="corpus",
    technologies=frozenset({"parquet"}),
    description="""One row for each document: its text, its domain, and its split, which the text alone decides.

Rows that are no document (not JSON, no text, not UTF-8, empty, too long) lie in `rejected.parquet` beside them, each
with its file, line and reason.""",
    nodes=_nodes,
    make=_make,
    pieces="shard",
    table=tables.DOCUMENTS,
    is_view=True,
    columns={
        "document_id": "unique over the corpus",
        "shard": "the corpus file",
        "line": "line or row in the file, from 1",
        "domain": "where the text comes from",
        "split": "candidate, reference, validation or teacher; equal texts are in the same one",
        "text": "the whole text",
        "num_bytes": "of the text in UTF-8",
    },
)
