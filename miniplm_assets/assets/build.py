"""From a node of the graph to a Dagster asset, and from its result to what Dagster keeps of it."""

from collections.abc import Sequence
from typing import Any, Final

import dagster as dg

from miniplm_assets.assets.asset_page import describe
from miniplm_assets.assets.checks import check_results, check_specs
from miniplm_assets.assets.dagster_run import RAY_RESOURCE, DagsterRun
from miniplm_assets.assets.failures import explained
from miniplm_assets.assets.pages import behind_a_button
from miniplm_assets.assets.run_tags import DEFINITION_TAG
from miniplm_assets.assets.stopping import RunStoppedError
from miniplm_assets.core.errors import CorpusChangedError, MiniplmError
from miniplm_assets.lineage.forget import forget, in_words
from miniplm_assets.lineage.graph import definition_digests
from miniplm_assets.lineage.kind import Node
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.leases import in_use, unused

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
    return [build_asset(pipeline, node, digests[node.key]) for node in pipeline.graph.values()]


def asset_key(key: str) -> dg.AssetKey:
    """Return Dagster's form of a key."""
    return dg.AssetKey(key.split("/"))


def build_asset(pipeline: Pipeline, node: Node[Any], definition: str) -> dg.AssetsDefinition:
    """Return the Dagster asset of one node.

    Args:
        pipeline: the experiment.
        node: of its graph.
        definition: digest of what defines it; see `lineage.graph.definition_digests`.
    """
    kind, key = node.kind, asset_key(node.key)

    @dg.asset(
        key=key,
        deps=[asset_key(needed) for needed in node.needs],
        group_name=node.group,
        tags={KIND_TAG: kind.name},
        kinds=set(kind.technologies),
        owners=list(node.owners),
        description=kind.description,
        code_version=kind.code_version,
        config_schema=SHARDS_AGAIN if kind.pieces == "shard" else None,
        required_resource_keys={RAY_RESOURCE} if kind.needs_ray(node.settings) else None,
        op_tags={PRIORITY_TAG: str(-node.rank), DEFINITION_TAG: definition},
        metadata={
            "settings": behind_a_button(node.settings.model_dump(mode="json", exclude_none=True)),
            "dagster/column_lineage": _column_lineage(node),
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
            with run.stoppable(node.key), in_use(pipeline.store.root, work.report):
                if node.inputs:
                    work.bring_back()
                result = kind.make(work)
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


def _forget(work: Work[Any], shards: Sequence[str]) -> None:
    """Set aside the corpus files that a run is asked to do again."""
    if shards:
        with unused(work.pipeline.store.root):
            done = forget(work.pipeline, work.fingerprints, work.node.key, shards, made_by=work.run.run_id)
        work.report(in_words(done))


def _column_lineage(node: Node[Any]) -> dg.TableColumnLineage:
    return dg.TableColumnLineage(
        {
            column: [
                dg.TableColumnDep(asset_key(node.inputs[role]), source)
                for role, source in sources
                if role in node.inputs
            ]
            for column, sources in node.kind.column_sources.items()
        }
    )
