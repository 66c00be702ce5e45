"""Proof that what is stored is right: every byte against its manifest, every selection against its scores."""

from collections.abc import Callable, Iterator

import polars as pl

from miniplm_assets.core.errors import MiniplmError
from miniplm_assets.core.selection import kept_sequences
from miniplm_assets.core.splits import CANDIDATE
from miniplm_assets.lineage.fingerprints import Fingerprints
from miniplm_assets.lineage.graph import RAW_CORPUS, selection_scores
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.snapshot import latest_snapshot
from miniplm_assets.storage.store import Store


def verify_store(store: Store, report: Callable[[str], None]) -> Iterator[str]:
    """Re-read every stored file and say what differs from its manifest."""
    num_results = num_bytes = 0
    unreadable: list[str] = []
    for result in store.results(on_problem=unreadable.append):
        num_results += 1
        num_bytes += result.manifest.num_bytes
        try:
            yield from result.problems()
        except OSError as error:
            yield f"{result.folder}: cannot be read ({error})"
    yield from unreadable
    report(f"{num_results:,} results, {num_bytes / 1e6:,.1f} MB re-read")


def verify_selections(pipeline: Pipeline, report: Callable[[str], None]) -> Iterator[str]:
    """Derive every selection again from the stored scores, by other means than the SQL, and say what differs."""
    try:
        snapshot = latest_snapshot(pipeline.graph[RAW_CORPUS], pipeline.store)
    except MiniplmError as error:
        yield str(error)
        return
    fingerprints = pipeline.fingerprints(snapshot)
    for name in pipeline.experiment.selections:
        try:
            yield from _selection_problems(pipeline, fingerprints, name, report)
        except (MiniplmError, OSError) as error:
            yield f"refined_corpus/{name} cannot be verified: {error}"


def _selection_problems(
    pipeline: Pipeline, fingerprints: Fingerprints, name: str, report: Callable[[str], None]
) -> Iterator[str]:
    stored = pipeline.store.find(fingerprints.recipe(f"refined_corpus/{name}"))
    if stored is None:
        report(f"refined_corpus/{name}: not stored, nothing to verify")
        return
    kept = {
        sequence_id
        for path in stored.files(".parquet")
        for sequence_id in pl.read_parquet(path, columns=["sequence_id"])["sequence_id"]
    }
    expected = _expected(pipeline, fingerprints, name)
    if kept == expected:
        report(f"refined_corpus/{name}: the {len(kept):,} sequences that its scores ask for")
    else:
        example = next(iter(kept ^ expected))
        yield (
            f"refined_corpus/{name} ({stored.folder}): {len(kept - expected):,} sequences too many, "
            f"{len(expected - kept):,} missing, for example {example}"
        )


def _expected(pipeline: Pipeline, fingerprints: Fingerprints, name: str) -> set[int]:
    selection = pipeline.experiment.selections[name]

    def table(key: str, file: str) -> pl.DataFrame:
        results = [pipeline.store.require(recipe) for recipe in fingerprints.shard_recipes(key).values()]
        columns = ["sequence_id", "split", "num_tokens"] if file == "sequences.parquet" else None
        return pl.concat([pl.read_parquet(result.file(file), columns=columns) for result in results])

    sequences = table(f"sequences/{pipeline.experiment.selection_tokenizer(name)}", "sequences.parquet")
    return kept_sequences(
        sequences.filter(pl.col("split") == CANDIDATE),
        teacher_scores=table(selection_scores(pipeline.experiment, name, "teacher"), "scores.parquet"),
        reference_scores=table(selection_scores(pipeline.experiment, name, "reference"), "scores.parquet"),
        rank_by=selection.rank_by,
        keep_fraction=selection.keep_fraction,
        token_budget=selection.token_budget,
    )
