"""The job of one experiment: all of its assets, and nothing else that the code location holds.

Sensor and schedule start it, so that their runs are executed as this project means it, whatever other definitions they
are merged with: a code location has one executor, a job may have its own.
"""

from typing import TypeAlias

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from miniplm_assets.assets.build import asset_key, named
from miniplm_assets.assets.executor import own_executor
from miniplm_assets.lineage.pipeline import Pipeline

Job: TypeAlias = UnresolvedAssetJobDefinition


def own_job(pipeline: Pipeline) -> Job:
    """Return the job that materialises a whole experiment."""
    keys = [asset_key(key, pipeline.key_prefix) for key in pipeline.graph]
    return dg.define_asset_job(
        named(pipeline, "miniplm"),
        selection=dg.AssetSelection.assets(*keys),
        executor_def=own_executor(pipeline),
        description="Every asset of the experiment; what is stored is found, not computed.",
    )
