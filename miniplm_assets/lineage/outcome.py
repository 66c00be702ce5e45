"""The outcome of an experiment in plain words, and where to look further."""

from typing import Final

import polars as pl

from miniplm_assets.lineage.pipeline import Pipeline

COMPARISON: Final = "comparison"
STUDENTS: Final = "students.parquet"
CATALOG: Final = "warehouse.duckdb"


def outcome(pipeline: Pipeline) -> str:
    """Return the comparison of an experiment as text.

    Raises:
        MissingResultError: if it has not been materialised.
    """
    fingerprints = pipeline.latest_fingerprints()
    if COMPARISON not in pipeline.graph:
        return f"The experiment compares no students. Results: {pipeline.store.root}"
    result = pipeline.store.require(fingerprints.recipe(COMPARISON))
    with pl.Config(
        tbl_rows=-1, tbl_cols=-1, tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True, tbl_width_chars=160
    ):
        table = str(pl.read_parquet(result.file(STUDENTS), glob=False))
    return (
        f"{result.facts['verdict']}\n\n{table}\n\n"
        f"Plots:      {result.folder}\n"
        f"Warehouse:  {pipeline.store.root / CATALOG} (any DuckDB client)\n"
        "Graph:      make ui, then http://localhost:3000"
    )
