"""Stage `corpus`: the raw files, their documents, the tokenizers, the packed sequences."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from miniplm_assets.assets.build import Check, Kind
from miniplm_assets.assets.step import Made, Step
from miniplm_assets.core.splits import REFERENCE
from miniplm_assets.corpus.documents import write_documents
from miniplm_assets.corpus.sequences import write_sequences
from miniplm_assets.corpus.tokenizer import fetch_tokenizer, train_tokenizer
from miniplm_assets.experiment import TrainedTokenizer
from miniplm_assets.lineage.folders import require_copied
from miniplm_assets.lineage.plan import PlannedStep, plan_on
from miniplm_assets.lineage.snapshot import look, make_latest, write_listing
from miniplm_assets.storage.manifest import CheckOutcome
from miniplm_assets.storage.store import Draft
from miniplm_assets.storage.tables import DOCUMENTS

GROUP = "corpus"

EVERY_DOCUMENT_IS_PACKED = Check(
    "every_document_is_packed", "A failure means that documents of the corpus are in no sequence."
)


def make_raw_corpus(step: Step) -> Made:
    """Look at the corpus files and let the rest of the run work on what is seen."""
    snapshot = look(step.pipeline.experiment.corpus.source, step.node, step.store, step.report)
    made = step.make_as(snapshot.recipe, partial(write_listing, snapshot))
    make_latest(snapshot, step.node, step.store)
    step.pin(snapshot)
    return replace(made, notes={"plan": _plan_table(plan_on(step.pipeline, snapshot))})


def _plan_table(steps: Sequence[PlannedStep]) -> list[dict[str, Any]] | str:
    """Return what a run of the whole graph has to do, a row an asset; what is stored is left out."""
    return [
        {
            "asset": step.key,
            "stored": step.num_stored,
            "to do": step.num_missing,
            "why": "; ".join(step.reasons),
            "tokens": step.num_tokens,
            "FLOPs": None if step.flops is None else float(step.flops),
            "seconds": step.seconds,
        }
        for step in steps
        if not step.is_complete
    ] or "everything is stored for the corpus as it is"


def make_documents(step: Step) -> Made:
    """Read, check and split the documents of each corpus file."""
    corpus = step.pipeline.experiment.corpus
    observed = {shard.name: shard for shard in step.snapshot.shards}
    recipes = step.fingerprints.shard_recipes(step.node.key)

    def write(shard: str, draft: Draft) -> None:
        draft.facts = write_documents(
            observed[shard],
            source=corpus.source,
            fields=corpus.fields,
            shares=corpus.splits.shares,
            seed=step.pipeline.experiment.seed,
            shard_fingerprint=recipes[shard].fingerprint,
            folder=draft.path,
            report=step.report,
        )

    return step.make_by_shard(write)


def make_tokenizer(step: Step) -> Made:
    """Fetch a tokenizer, or train one on the reference split."""
    source = step.pipeline.experiment.tokenizers[step.node.name]

    def write(draft: Draft) -> None:
        if isinstance(source, TrainedTokenizer):
            texts = _texts(step.input_tables("documents"), REFERENCE)
            train_tokenizer(texts, vocab_size=source.vocab_size, folder=draft.path)
        else:
            fetch_tokenizer(source, draft.path)
            require_copied(step.node, step.recipe, draft.path)

    return step.make(write)


def make_sequences(step: Step) -> Made:
    """Tokenise and pack the documents of each corpus file."""
    recipes = step.fingerprints.shard_recipes(step.node.key)
    documents = step.input_shards("documents")
    tokenizer = step.input("tokenizer")

    def write(shard: str, draft: Draft) -> None:
        draft.facts = write_sequences(
            documents[shard].file(DOCUMENTS),
            shard=shard,
            tokenizer_folder=tokenizer.verified_folder(),
            sequences=step.pipeline.experiment.sequences,
            shard_fingerprint=recipes[shard].fingerprint,
            folder=draft.path,
            report=step.report,
        )

    def finish(draft: Draft) -> None:
        num_read = sum(result.facts["num_documents"] for result in documents.values())
        num_packed = draft.facts["num_documents"]
        max_tokens = draft.facts["num_sequences"] * (step.pipeline.experiment.sequences.sequence_length + 1)
        draft.facts["fill_share"] = draft.facts["num_tokens"] / max_tokens if max_tokens else 0.0
        draft.checks.append(
            CheckOutcome(
                name=EVERY_DOCUMENT_IS_PACKED.name,
                passed=num_packed == num_read,
                facts={"num_documents_read": num_read, "num_documents_packed": num_packed},
            )
        )

    return step.make_by_shard(write, finish)


RAW_CORPUS_KIND = Kind(
    group=GROUP,
    technologies=frozenset({"file"}),
    description="The corpus files with their sizes and content fingerprints. Nothing is copied.",
    make=make_raw_corpus,
    columns={
        "shard": "name of the corpus file",
        "files": "where it lies; several where a folder of texts is one shard",
        "num_bytes": "size as stored, compressed or not",
        "fingerprint": "of its content",
    },
)
DOCUMENTS_KIND = Kind(
    group=GROUP,
    technologies=frozenset({"parquet"}),
    description="""One row a document: its text, its domain, and its split, which the text alone decides.

Rows that are no document (not JSON, no text, not UTF-8, empty, too long) lie in `rejected.parquet` beside them, each
with its file, line and reason.""",
    make=make_documents,
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
TOKENIZER_KIND = Kind(
    group=GROUP,
    technologies=frozenset({"huggingface"}),
    description="A tokenizer: from a hub, from a folder, or trained here on the reference split (byte-level BPE).",
    make=make_tokenizer,
)
SEQUENCES_KIND = Kind(
    group=GROUP,
    technologies=frozenset({"parquet"}),
    description="""One row a sequence: the tokens that a model is given at once, the unit of scoring and of selection.

Documents of one domain and split are joined with the end-of-document token and cut at the last sentence end that fits;
what is cut off begins the next sequence, so that nothing is lost.""",
    make=make_sequences,
    checks=[EVERY_DOCUMENT_IS_PACKED],
    columns={
        "sequence_id": "unique over the corpus and over tokenizers; stable while the file is unchanged",
        "shard": "the corpus file",
        "domain": "the domain of all its documents",
        "split": "the split of all its documents",
        "num_tokens": "length in tokens, end-of-document tokens included",
        "num_bytes": "of its texts in UTF-8",
        "token_ids": "the tokens",
        "spans": "its documents, with the characters of each that it holds",
        "texts": "the text of each span",
    },
)


def _texts(tables: list[Path], split: str) -> Iterator[str]:
    for table in tables:
        yield from pl.scan_parquet(table).filter(pl.col("split") == split).select("text").collect()["text"]
