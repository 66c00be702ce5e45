"""The outcome of an experiment in plain words, and where to look further."""

from typing import Final

import polars as pl

from miniplm_assets.lineage.fingerprints import RAW_CORPUS, Fingerprints
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.snapshot import complete_snapshot

COMPARISON: Final = "comparison"
BREAK_EVEN: Final = "break_even"
TASK_COMPARISON: Final = "task_comparison"
STUDENTS: Final = "students.parquet"
CATALOG: Final = "warehouse.duckdb"
REPORT: Final = "report"
REPORT_FILE: Final = "report.html"


def outcome(pipeline: Pipeline) -> str:
    """Return the comparison of an experiment as text, that on tasks, and what each student cost.

    While the latest state of the corpus is in the making, it is that of the last one on which everything was made.

    Raises:
        MissingResultError: if it has not been materialised.
    """
    if COMPARISON not in pipeline.graph:
        pipeline.latest_fingerprints()  # else a warehouse that cannot be read would be taken for an empty one
        return f"The experiment compares no students. Results: {pipeline.store.root}{_report(pipeline)}"
    fingerprints, caution = last_made(pipeline, COMPARISON, called="the outcome")
    caution = f"{caution}\n\n" if caution else ""
    result = pipeline.store.require(fingerprints.recipe(COMPARISON))
    with pl.Config(
        tbl_rows=-1, tbl_cols=-1, tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True, tbl_width_chars=160
    ):
        table = str(pl.read_parquet(result.file(STUDENTS), glob=False))
    return (
        f"{caution}{result.facts['verdict']}\n\n{table}\n\n"
        f"{_beside(pipeline, fingerprints, TASK_COMPARISON, 'On tasks:')}"
        f"{_beside(pipeline, fingerprints, BREAK_EVEN, 'What it cost:')}"
        f"Plots:      {result.folder}\n"
        f"Warehouse:  {pipeline.store.root / CATALOG} (any DuckDB client)\n"
        "Graph:      make ui, then http://localhost:3000"
        f"{_report(pipeline)}"
    )


def _report(pipeline: Pipeline) -> str:
    """Return where the report is: a line after those of an outcome."""
    if REPORT not in pipeline.graph:
        return ""
    fingerprints, _ = last_made(pipeline, REPORT, called=REPORT)
    if pipeline.store.find(fingerprints.recipe(REPORT)) is None:
        return f"\nReport:     not made yet; materialise {REPORT}"
    return f"\nReport:     {pipeline.store.root / REPORT_FILE} (any browser; one file, to be sent to somebody)"


def last_made(pipeline: Pipeline, key: str, seed: int | None = None, *, called: str) -> tuple[Fingerprints, str]:
    """Return the fingerprints on the state of the corpus to show an asset of, and what to say of that state.

    That is the latest, and nothing is to be said; or, where it is not made on that as yet and was on the last one on
    which everything was made, that one.

    Args:
        pipeline: the experiment.
        key: of the asset.
        seed: the result of one seed; None: the whole.
        called: what it is called in that.
    """

    def is_stored(fingerprints: Fingerprints) -> bool:
        recipe = fingerprints.recipe(key) if seed is None else fingerprints.pieces(key)[str(seed)]
        return pipeline.store.find(recipe) is not None

    latest = pipeline.latest_fingerprints()
    if is_stored(latest) or (before := complete_snapshot(pipeline.graph[RAW_CORPUS], pipeline.store)) is None:
        return latest, ""
    earlier = pipeline.fingerprints(before)
    if not is_stored(earlier):
        return latest, ""
    return earlier, (
        f"The corpus has changed since: this is {called} on its state before, raw_corpus {before.recipe.fingerprint}. "
        "On the latest it is still to be made."
    )


def _beside(pipeline: Pipeline, fingerprints: Fingerprints, key: str, title: str) -> str:
    """Return the words of another report, where the experiment has it."""
    if key not in pipeline.graph:
        return ""
    result = pipeline.store.find(fingerprints.recipe(key))
    told = f"not made yet; materialise {key}" if result is None else result.facts["verdict"]
    return f"{title}\n{told}\n\n"
