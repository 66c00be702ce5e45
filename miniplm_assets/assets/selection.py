"""Stage `selection`: Difference Sampling, in the SQL of dbt_like_sql."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import polars.selectors as cs
import pyarrow.parquet as pq

from miniplm_assets.assets.build import Check, Kind, asset_key
from miniplm_assets.assets.step import Made, Step
from miniplm_assets.evaluation.plots import plot_difference_distribution, plot_domain_shares
from miniplm_assets.lineage.graph import Node
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.storage.sql_run import run_model
from miniplm_assets.storage.store import Draft

GROUP = "selection"
# As much of a table, and of a text in it, as a page of the UI shows well.
MAX_SHOWN_ROWS = 60
MAX_SHOWN_CHARACTERS = 160


def make_selection(step: Step) -> Made:
    """Run one SQL model over its inputs; draw what is best seen in a picture."""

    def write(draft: Draft) -> None:
        draft.checks = run_model(
            step.pipeline.sql,
            step.node.step,
            inputs={role: step.input_tables(role) for role in step.node.inputs},
            parameters=step.node.settings,
            target=draft.path,
        )
        tables = sorted(draft.path.glob("*.parquet"))
        if sum(pq.read_metadata(table).num_rows for table in tables) <= MAX_SHOWN_ROWS:
            draft.facts = _shown(pl.read_parquet(tables))
        for name, picture in _pictures(step, tables):
            (draft.path / name).write_bytes(picture)

    return step.make(write)


def _shown(rows: pl.DataFrame) -> dict[str, Any]:
    """Return a small table as facts: the columns of its only row, or its rows without what is too long to read."""
    if len(rows) == 1:
        return rows.row(0, named=True)
    readable = rows.select(cs.exclude(cs.list(), cs.ends_with("_id"))).with_columns(
        cs.string().str.slice(0, MAX_SHOWN_CHARACTERS)
    )
    return {"rows": readable.to_dicts()}


def _pictures(step: Step, tables: list[Path]) -> Iterator[tuple[str, bytes]]:
    selection = step.node.name
    if step.node.step == "score_distribution":
        cutoff = pl.read_parquet(step.input_tables("selection_cutoff")).row(0, named=True)
        yield (
            "difference_distribution.png",
            plot_difference_distribution(
                pl.read_parquet(tables),
                cutoff=cutoff["cutoff_difference"],
                unit=cutoff["rank_by"].replace("_", " "),
                selection=selection,
            ),
        )
    if step.node.step == "domain_shift":
        yield "domain_shares.png", plot_domain_shares(pl.read_parquet(tables), selection=selection)


def selection_kind(pipeline: Pipeline, node: Node) -> Kind:
    """Return the kind of one SQL model's assets: its descriptions, checks and column lineage come from the SQL."""
    model = pipeline.sql.model(node.step)
    lineage = dg.TableColumnLineage(
        {
            column: [
                dg.TableColumnDep(asset_key(node.inputs[table]), source)
                for table, source in sources
                if table in node.inputs
            ]
            for column, sources in model.column_lineage.items()
        }
    )
    return Kind(
        group=GROUP,
        technologies=frozenset({"duckdb", "sql"}),
        description=f"{model.description}\n\n```sql\n{model.sql}\n```",
        make=make_selection,
        columns={column.name: column.description for column in model.columns},
        checks=[Check(check.name, check.description, check.severity != "warn") for check in model.checks],
        metadata={"dagster/column_lineage": lineage},
    )
