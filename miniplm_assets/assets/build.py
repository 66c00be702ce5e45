"""From a node of the graph to a Dagster asset, and from its result to what its page shows."""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import dagster as dg

from miniplm_assets.assets.dagster_run import RAY_RESOURCE, DagsterRun
from miniplm_assets.assets.failure_hook import failure_hooks
from miniplm_assets.assets.failures import explained
from miniplm_assets.assets.run_tags import DEFINITION_TAG
from miniplm_assets.assets.stopping import RunStoppedError
from miniplm_assets.core.errors import CorpusChangedError, MiniplmError
from miniplm_assets.lineage.freshness import fresh_within_hours
from miniplm_assets.lineage.graph import definition_digests
from miniplm_assets.lineage.kind import Kind, Node
from miniplm_assets.lineage.latest import link_latest
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.leases import in_use
from miniplm_assets.storage.manifest import CheckOutcome
from miniplm_assets.storage.store import Result

# Selects all assets of a kind: tag:kind=student_checkpoint.
KIND_TAG = "kind"
# Of the steps that are ready, Dagster starts the one with the highest. Without it, by name: a student that no pilot
# gates would be trained before the pilot has spoken.
PRIORITY_TAG = "dagster/priority"
# What Markdown takes for more than itself; an underscore inside a word it does not.
MARKUP = re.compile(r"[\\`*\[\]<>|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
# As much as a page shows well; every event of a run carries it. The manifest has all, whatever the corpus has of
# files and domains.
MAX_SHOWN_ROWS = 200
MAX_SHOWN_CHARACTERS = 50_000
MAX_CELL_CHARACTERS = 500


def build_assets(pipeline: Pipeline) -> list[dg.AssetsDefinition]:
    """Return the Dagster asset of every node of an experiment."""
    digests = definition_digests(pipeline.graph)
    hours, hooks = fresh_within_hours(pipeline.graph, pipeline.automation), failure_hooks(pipeline)
    return [
        build_asset(pipeline, node, digests[node.key], fresh_within_hours=hours.get(node.key), hooks=hooks)
        for node in pipeline.graph.values()
    ]


def asset_key(key: str, prefix: Sequence[str] = ()) -> dg.AssetKey:
    """Return Dagster's form of a key, with what it begins with there; see `Pipeline.key_prefix`."""
    return dg.AssetKey([*prefix, *key.split("/")])


def named(pipeline: Pipeline, name: str) -> str:
    """Return the name in Dagster of what there is once for each experiment: a job, a sensor, a group."""
    return "_".join([*pipeline.key_prefix, name])


def build_asset(
    pipeline: Pipeline,
    node: Node[Any],
    definition: str,
    *,
    fresh_within_hours: float | None = None,
    hooks: frozenset[dg.HookDefinition] = frozenset(),
) -> dg.AssetsDefinition:
    """Return the Dagster asset of one node.

    Args:
        pipeline: the experiment.
        node: of its graph.
        definition: digest of what defines it; see `lineage.graph.definition_digests`.
        fresh_within_hours: how long ago it may have been made or found before Dagster shows it as late; None: for ever.
        hooks: what is called when it fails.
    """
    kind, prefix = node.kind, pipeline.key_prefix
    key = asset_key(node.key, prefix)

    @dg.asset(
        key=key,
        deps=[asset_key(needed, prefix) for needed in node.needs],
        group_name=named(pipeline, node.group),
        tags={KIND_TAG: kind.name},
        kinds=set(kind.technologies),
        owners=list(node.owners),
        description=kind.description,
        code_version=kind.code_version,
        required_resource_keys={RAY_RESOURCE} if kind.needs_ray(node.settings) else None,
        freshness_policy=_freshness_policy(fresh_within_hours),
        hooks=set(hooks),
        op_tags={PRIORITY_TAG: str(-node.rank), DEFINITION_TAG: definition},
        metadata={
            "settings": dg.MetadataValue.json(node.settings.model_dump(mode="json", exclude_none=True)),
            "dagster/column_lineage": _column_lineage(node, prefix),
        },
        check_specs=[
            dg.AssetCheckSpec(check.name, asset=key, description=check.description, blocking=check.is_blocking)
            for check in kind.checks
        ],
    )
    def materialize(context: dg.AssetExecutionContext) -> dg.MaterializeResult:  # type: ignore[type-arg]  # Dagster reads the annotation, and takes only the bare one
        run = DagsterRun(pipeline, context)
        work = Work(pipeline, node, run)
        try:
            run.require_as_asked(node.key, definition)
            with run.stoppable(node.key), in_use(pipeline.store.root, work.report):
                result = kind.make(work)
                link_latest(work, result)
        except (OSError, MiniplmError) as error:
            if isinstance(error, CorpusChangedError) and run.is_asked_by_the_sensor:
                run.note_put_down(str(error))
                raise RunStoppedError(node.key, f"{error} The sensor asks again when they rest") from None
            raise explained(error, context.log, num_tries=context.retry_number) from None
        outcomes = (*result.manifest.checks, *work.tally.checks)
        for outcome in outcomes:
            if not outcome.passed:
                context.log.error(f"check {outcome.name} of {node.key} failed. {outcome.description}")
        return dg.MaterializeResult(
            asset_key=key,
            data_version=dg.DataVersion(result.manifest.fingerprint),
            metadata=describe(work, result),
            check_results=[_check_result(kind, outcome) for outcome in outcomes],
        )

    return materialize


def _freshness_policy(hours: float | None) -> dg.FreshnessPolicy | None:
    return None if hours is None else dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=hours))


def _column_lineage(node: Node[Any], prefix: Sequence[str]) -> dg.TableColumnLineage:
    return dg.TableColumnLineage(
        {
            column: [
                dg.TableColumnDep(asset_key(node.inputs[role], prefix), source)
                for role, source in sources
                if role in node.inputs
            ]
            for column, sources in node.kind.column_sources.items()
        }
    )


def _check_result(kind: Kind[Any], outcome: CheckOutcome) -> dg.AssetCheckResult:
    is_blocking = next(check.is_blocking for check in kind.checks if check.name == outcome.name)
    return dg.AssetCheckResult(
        check_name=outcome.name,
        passed=outcome.passed,
        severity=dg.AssetCheckSeverity.ERROR if is_blocking and not outcome.is_warning else dg.AssetCheckSeverity.WARN,
        description=outcome.description or None,
        metadata={name: _shown(value) for name, value in outcome.facts.items()},
    )


def describe(work: Work[Any], result: Result) -> dict[str, Any]:
    """Return what the page of an asset shows of its result; reads the manifest and its pictures alone."""
    manifest, tally, columns = result.manifest, work.tally, work.node.kind.columns
    facts = dict(manifest.facts)
    pieces = facts.pop("pieces", None)
    table = work.node.kind.table_of(result)
    types = facts.pop("columns", table.columns)
    parts = pieces or [{"num_rows": table.num_rows, "num_bytes": manifest.num_bytes}]
    num_rows = sum(part["num_rows"] for part in parts)
    shown: dict[str, Any] = {name: _shown(value) for name, value in facts.items()}
    for file in manifest.files:
        if file.name.endswith(".png"):
            picture = base64.b64encode((result.folder / file.name).read_bytes()).decode()
            title = file.name.removesuffix(".png").replace("_", " ")
            shown[title] = dg.MetadataValue.md(f"![{title}](data:image/png;base64,{picture})")
    if types:
        shown["dagster/column_schema"] = dg.TableSchema(
            columns=[dg.TableColumn(name, type=type_, description=columns.get(name)) for name, type_ in types.items()]
        )
    if num_rows:
        shown["dagster/row_count"] = num_rows
    folder = result.folder
    if pieces is not None:
        rows = [{work.node.kind.pieces: piece.pop("piece"), **piece} for piece in map(dict, pieces)]
        if work.node.kind.pieces == "seed":
            folders = [work.pipeline.store.require(recipe).folder for recipe in work.piece_recipes.values()]
            rows = [{**row, "folder": str(place)} for row, place in zip(rows, folders, strict=True)]
            folder = folders[0]
        shown[f"{work.node.kind.pieces}s"] = dg.MetadataValue.md(_markdown_table(rows))
    return shown | {
        "fingerprint": manifest.fingerprint,
        "folder": dg.MetadataValue.path(str(folder)),
        "num_stored_bytes": sum(part["num_bytes"] for part in parts),
        "num_results_computed": tally.num_computed,
        "num_results_reused": tally.num_reused,
        "seconds_computing": round(tally.seconds_computing, 2),
        "seconds_saved": round(tally.seconds_saved, 2),
        "tokens_saved": tally.tokens_saved,
        **{name: _shown(note) for name, note in tally.notes.items()},
    }


def _shown(value: Any) -> Any:
    match value:
        case [{}, *_]:
            return dg.MetadataValue.md(_markdown_table(value))
        case dict() | list() if len(json.dumps(value)) > MAX_SHOWN_CHARACTERS:
            return dg.MetadataValue.text(
                f"{len(value):,} entries, too long to be shown: see manifest.json in the folder"
            )
        case dict() | list():
            return dg.MetadataValue.json(value)
        case str() if "\n" in value or "**" in value:
            return dg.MetadataValue.md(value)
        case None:
            return dg.MetadataValue.text("none")
        case _:
            return value


def _markdown_table(rows: Sequence[Mapping[Any, Any]]) -> str:
    names = list(rows[0]) if rows else []
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    lines += ["| " + " | ".join(_cell(row.get(name)) for name in names) + " |" for row in rows[:MAX_SHOWN_ROWS]]
    if len(rows) > MAX_SHOWN_ROWS:
        lines += ["", f"{len(rows) - MAX_SHOWN_ROWS:,} more rows are in manifest.json in the folder."]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    text = str(value).replace("\n", " ")
    shown = text if len(text) <= MAX_CELL_CHARACTERS else f"{text[:MAX_CELL_CHARACTERS]} …"
    return MARKUP.sub(r"\\\g<0>", shown)
