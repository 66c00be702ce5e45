"""From a node of the graph to a Dagster asset, and from a result to what its page shows."""

import base64
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import dagster as dg

from miniplm_assets.assets.device_lock import device_lock
from miniplm_assets.assets.step import Made, Step
from miniplm_assets.core.errors import MiniplmError, TransientError
from miniplm_assets.lineage.graph import RAW_CORPUS
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.storage.manifest import CheckOutcome

RAY_RESOURCE = "ray"
# For what may pass: a network or a file system that fails. Bad input and mistakes of the code are not tried again.
MAX_RETRIES = 2
SECONDS_BEFORE_RETRY = 10


@dataclass(frozen=True)
class Check:
    """An asset check, declared before anything runs.

    Attributes:
        name: unique within the asset.
        description: what a failure means.
        is_blocking: whether it stops what comes after; else it warns.
    """

    name: str
    description: str
    is_blocking: bool = True


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What all assets of one kind have in common.

    Attributes:
        group: the stage of the graph.
        technologies: shown as icons.
        description: in Markdown; the first line is the summary.
        make: makes the result of one asset.
        columns: descriptions of its columns.
        checks: its asset checks.
        uses_device: whether it runs a model on this machine.
        uses_ray: whether it runs on a Ray cluster: the resource `ray`.
        metadata: what is known before anything runs.
    """

    group: str
    technologies: frozenset[str]
    description: str
    make: Callable[[Step], Made]
    columns: Mapping[str, str] | None = None
    checks: Sequence[Check] = ()
    uses_device: bool = False
    uses_ray: bool = False
    metadata: Mapping[str, Any] | None = None


def asset_key(key: str) -> dg.AssetKey:
    """Return Dagster's form of a key."""
    return dg.AssetKey(key.split("/"))


def build_asset(pipeline: Pipeline, key: str, kind: Kind) -> dg.AssetsDefinition:
    """Return the Dagster asset of one node."""
    node = pipeline.graph[key]

    @dg.asset(
        key=asset_key(key),
        deps=[asset_key(needed) for needed in dict.fromkeys([*node.inputs.values(), *node.gates])],
        group_name=kind.group,
        kinds=set(kind.technologies),
        description=kind.description,
        code_version=node.code_version,
        automation_condition=None if key == RAW_CORPUS else _when_content_changed(),
        required_resource_keys={RAY_RESOURCE} if kind.uses_ray else None,
        metadata={**(kind.metadata or {}), "settings": dg.MetadataValue.json(dict(node.settings))},
        check_specs=[
            dg.AssetCheckSpec(
                check.name, asset=asset_key(key), description=check.description, blocking=check.is_blocking
            )
            for check in kind.checks
        ],
    )
    def materialize(context: dg.AssetExecutionContext) -> dg.MaterializeResult:  # type: ignore[type-arg]  # Dagster reads the annotation, and takes only the bare one
        try:
            step = Step(pipeline, key, context)
            # Of two runs the second waits here, and then finds what the first has made.
            with device_lock(step.report) if kind.uses_device and not step.is_stored else nullcontext():
                made = kind.make(step)
        except (OSError, TransientError) as error:
            seconds = SECONDS_BEFORE_RETRY * 2**context.retry_number
            raise dg.RetryRequested(max_retries=MAX_RETRIES, seconds_to_wait=seconds) from error
        except MiniplmError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from error
        return dg.MaterializeResult(
            asset_key=asset_key(key),
            data_version=dg.DataVersion(made.result.manifest.fingerprint),
            metadata=describe(made, kind.columns or {}),
            check_results=[_check_result(kind, outcome) for outcome in made.result.manifest.checks],
        )

    return materialize


def _when_content_changed() -> Any:
    """A dependency that was materialised with the same data version, as one that was found stored, changes nothing."""
    when: Any = dg.AutomationCondition  # its own types do not agree on what the keys may be
    is_stale = when.missing() | when.code_version_changed() | when.any_deps_match(when.data_version_changed())
    return is_stale.since_last_handled() & ~when.any_deps_missing() & ~when.any_deps_in_progress() & ~when.in_progress()


def _check_result(kind: Kind, outcome: CheckOutcome) -> dg.AssetCheckResult:
    is_blocking = next(check.is_blocking for check in kind.checks if check.name == outcome.name)
    return dg.AssetCheckResult(
        check_name=outcome.name,
        passed=outcome.passed,
        severity=dg.AssetCheckSeverity.ERROR if is_blocking else dg.AssetCheckSeverity.WARN,
        description=outcome.description or None,
        metadata={name: _shown(value) for name, value in outcome.facts.items()},
    )


def describe(made: Made, columns: Mapping[str, str]) -> dict[str, Any]:
    """Return what the page of an asset shows of its result; reads the manifest and its pictures alone."""
    manifest = made.result.manifest
    facts = dict(manifest.facts)
    shards = facts.pop("shards", None)
    types = facts.pop("columns", made.result.columns)
    parts = shards or [{"num_rows": manifest.num_rows, "num_bytes": manifest.num_bytes}]
    num_rows = sum(part["num_rows"] for part in parts)
    shown: dict[str, Any] = {name: _shown(value) for name, value in facts.items()}
    for file in manifest.files:
        if file.name.endswith(".png"):
            picture = base64.b64encode((made.result.folder / file.name).read_bytes()).decode()
            title = file.name.removesuffix(".png").replace("_", " ")
            shown[title] = dg.MetadataValue.md(f"![{title}](data:image/png;base64,{picture})")
    if types:
        shown["dagster/column_schema"] = dg.TableSchema(
            columns=[dg.TableColumn(name, type=type_, description=columns.get(name)) for name, type_ in types.items()]
        )
    if num_rows:
        shown["dagster/row_count"] = num_rows
    if shards is not None:
        shown["shards"] = dg.MetadataValue.md(_markdown_table(shards))
    return shown | {
        "fingerprint": manifest.fingerprint,
        "folder": dg.MetadataValue.path(str(made.result.folder)),
        "num_stored_bytes": sum(part["num_bytes"] for part in parts),
        "num_results_computed": made.num_computed,
        "num_results_reused": made.num_reused,
        "seconds_computing": round(made.seconds_computing, 2),
        "seconds_saved": round(made.seconds_saved, 2),
        "tokens_saved": made.tokens_saved,
        **{name: _shown(note) for name, note in made.notes.items()},
    }


def _shown(value: Any) -> Any:
    match value:
        case [{}, *_]:
            return dg.MetadataValue.md(_markdown_table(value))
        case dict() | list():
            return dg.MetadataValue.json(value)
        case str() if "\n" in value or "**" in value:
            return dg.MetadataValue.md(value)
        case None:
            return dg.MetadataValue.text("none")
        case _:
            return value


def _markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(rows[0]) if rows else []
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    lines += ["| " + " | ".join(_cell(row.get(name)) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value).replace("|", "\\|").replace("\n", " ")
