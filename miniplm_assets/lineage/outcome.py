"""The outcome of an experiment in plain words, and where to look further."""

from typing import Final

import polars as pl

from miniplm_assets.lineage.fingerprints import RAW_CORPUS, Fingerprints
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.snapshot import complete_snapshot

COMPARISON: Final = "comparison"
BREAK_EVEN: Final = "break_even"
STUDENTS: Final = "students.parquet"
CATALOG: Final = "warehouse.duckdb"


def outcome(pipeline: Pipeline) -> str:
    """Return the comparison of an experiment as text, and what each student cost.

    While the latest state of the corpus is in the making, it is that of the last one on which everything was made.

    Raises:
        MissingResultError: if it has not been materialised.
    """
    fingerprints, caution = pipeline.latest_fingerprints(), ""
    if COMPARISON not in pipeline.graph:
        return f"The experiment compares no students. Results: {pipeline.store.root}"
    result = pipeline.store.find(fingerprints.recipe(COMPARISON))
    if result is None and (before := complete_snapshot(pipeline.graph[RAW_CORPUS], pipeline.store)) is not None:
        earlier = pipeline.fingerprints(before)
        result = pipeline.store.find(earlier.recipe(COMPARISON))
        if result is not None:
            fingerprints = earlier
            caution = (
                "The corpus has changed since: this is the outcome on its state before, raw_corpus "
                f"{before.recipe.fingerprint}. On the latest it is still to be made.\n\n"
            )
    result = result or pipeline.store.require(fingerprints.recipe(COMPARISON))
    with pl.Config(
        tbl_rows=-1, tbl_cols=-1, tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True, tbl_width_chars=160
    ):
        table = str(pl.read_parquet(result.file(STUDENTS), glob=False))
    return (
        f"{caution}{result.facts['verdict']}\n\n{table}\n\n{_cost(pipeline, fingerprints)}"
        f"Plots:      {result.folder}\n"
        f"Warehouse:  {pipeline.store.root / CATALOG} (any DuckDB client)\n"
        "Graph:      make ui, then http://localhost:3000"
    )


def _cost(pipeline: Pipeline, fingerprints: Fingerprints) -> str:
    """Return what each student cost, where students are held against a baseline."""
    if BREAK_EVEN not in pipeline.graph:
        return ""
    result = pipeline.store.find(fingerprints.recipe(BREAK_EVEN))
    told = f"not made yet; materialise {BREAK_EVEN}" if result is None else result.facts["verdict"]
    return f"What it cost:\n{told}\n\n"
