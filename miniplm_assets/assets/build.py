"""From a node of the graph to a Dagster asset, and from its result to what Dagster keeps of it."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

import dagster as dg

from miniplm_assets.assets.asset_page import describe
from miniplm_assets.assets.checks import check_results, check_specs
from miniplm_assets.assets.dagster_run import RAY_RESOURCE, DagsterRun
from miniplm_assets.assets.failure_hook import failure_hooks
from miniplm_assets.assets.failures import explained
from miniplm_assets.assets.pages import behind_a_button, markdown_behind_a_button
from miniplm_assets.assets.run_tags import DEFINITION_TAG
from miniplm_assets.assets.stopping import RunStoppedError
from miniplm_assets.core.errors import CorpusChangedError, MiniplmError
from miniplm_assets.lineage.forget import forget, in_words
from miniplm_assets.lineage.freshness import fresh_within_hours
from miniplm_assets.lineage.graph import definition_digests
from miniplm_assets.lineage.kind import Node
from miniplm_assets.lineage.latest import link_latest
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.work import Work

# Selects all assets of a kind: tag:kind=student_checkpoint.
KIND_TAG = "kind"
# Of the steps that are ready, Dagster starts the one with the highest. Without it, by name: a student that no pilot
# gates would be trained before the pilot has spoken.
PRIORITY_TAG = "dagster/priority"
# What a run may be asked of an asset that has a result for each corpus file.
SHARDS: Final = "shards"
SHARDS_AGAIN: Final = {
    SHARDS: dg.Field([str], default_value=[], description="corpus files to do again, though they are stored")
}


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
        config_schema=SHARDS_AGAIN if kind.pieces == "shard" else None,
        required_resource_keys={RAY_RESOURCE} if kind.needs_ray(node.settings) else None,
        freshness_policy=_freshness_policy(fresh_within_hours),
        hooks=set(hooks),
        op_tags={PRIORITY_TAG: str(-node.rank), DEFINITION_TAG: definition},
        metadata={
            **({"SQL": markdown_behind_a_button(f"```sql\n{kind.sql}\n```")} if kind.sql else {}),
            "settings": behind_a_button(node.settings.model_dump(mode="json", exclude_none=True)),
            "dagster/column_lineage": _column_lineage(node, prefix),
        },
        check_specs=check_specs(kind, key),
    )
    def materialize(context: dg.AssetExecutionContext) -> dg.MaterializeResult:  # type: ignore[type-arg]  # Dagster reads the annotation, and takes only the bare one
        run = DagsterRun(pipeline, context)
        work = Work(pipeline, node, run)
        try:
            run.require_as_asked(node.key, definition)
            if kind.pieces == "shard":
                _forget(work, context.op_execution_context.op_config[SHARDS])
            with run.stoppable(node.key), pipeline.store.in_use(work.report):
                if node.inputs:
                    work.bring_back()
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
            check_results=check_results(kind, outcomes),
        )

    return materialize


def _freshness_policy(hours: float | None) -> dg.FreshnessPolicy | None:
    return None if hours is None else dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=hours))


def _forget(work: Work[Any], shards: Sequence[str]) -> None:
    """Set aside the corpus files that a run is asked to do again."""
    if shards:
        with work.pipeline.store.unused():
            done = forget(work.pipeline, work.fingerprints, work.node.key, shards, made_by=work.run.run_id)
        work.report(in_words(done))


def _column_lineage(node: Node[Any], prefix: Sequence[str]) -> dg.TableColumnLineage:
    return dg.TableColumnLineage(
        {
            column: [
                dg.TableColumnDep(asset_key(node.inputs[role], prefix), source)
                for role, source in sources
                if role in node.inputs
            ]
            for column, sources in node.kind.column_sources().items()
        }
    )
