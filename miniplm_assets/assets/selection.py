"""Stage `selection`: Difference Sampling, in the SQL of dbt_like_sql."""

import dagster as dg

from miniplm_assets.assets.build import Check, Kind, asset_key
from miniplm_assets.assets.step import Made, Step
from miniplm_assets.lineage.graph import Node
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.storage.sql_run import run_model
from miniplm_assets.storage.store import Draft

GROUP = "selection"


def make_selection(step: Step) -> Made:
    """Run one SQL model over its inputs."""

    def write(draft: Draft) -> None:
        draft.checks = run_model(
            step.pipeline.sql,
            step.node.step,
            inputs={role: step.input_tables(role) for role in step.node.inputs},
            parameters=step.node.settings,
            target=draft.path,
        )

    return step.make(write)


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
