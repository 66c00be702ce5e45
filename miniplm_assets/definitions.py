"""The code location: what Dagster loads.

``MINIPLM_EXPERIMENT`` names the experiment file, ``MINIPLM_WAREHOUSE`` a warehouse in place of the file's own.
"""

import os
from pathlib import Path

import dagster as dg

from miniplm_assets.assets.factory import build_assets
from miniplm_assets.assets.ray_cluster import ray_resources
from miniplm_assets.automation import corpus_sensor, nightly_schedule
from miniplm_assets.lineage.pipeline import EXPERIMENT_VARIABLE, WAREHOUSE_VARIABLE, Pipeline

pipeline = Pipeline.open(
    Path(os.environ.get(EXPERIMENT_VARIABLE, Pipeline.DEMO)), warehouse=os.environ.get(WAREHOUSE_VARIABLE)
)

defs = dg.Definitions(
    assets=build_assets(pipeline),
    sensors=[corpus_sensor(pipeline)],
    schedules=[nightly_schedule()],
    resources=ray_resources(pipeline.experiment),
    # In one process an asset costs 0.1 s, in its own 1.2 to 2.5 s: too much for a graph that is mostly stored.
    executor=dg.in_process_executor,
    # Progress is told at INFO; what Dagster says of its own steps is in the UI.
    loggers={"console": dg.colored_console_logger.configured({"log_level": "INFO"})},
)
