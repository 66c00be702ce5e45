"""What Dagster loads of one experiment: assets, job, sensor, schedule, resources.

The one place where they are put together, for `definitions` and for the component.
"""

import atexit
import warnings
from typing import clear_overloads

import dagster as dg

from miniplm_assets.assets.build import build_assets
from miniplm_assets.assets.failures import console_logger
from miniplm_assets.assets.ray_cluster import ray_resources
from miniplm_assets.automation.corpus_sensor import corpus_sensor
from miniplm_assets.automation.failed_runs import failed_runs_sensors
from miniplm_assets.automation.nightly import nightly_schedule
from miniplm_assets.automation.own_job import own_job
from miniplm_assets.lineage.pipeline import Pipeline

# torch never lets go of the kernels that its Python half registers, nor these, through the globals of torch.fx, of
# typing and of every overload there is: Dagster's, and through their modules all that is loaded here. The module of
# DuckDB would outlive the interpreter, and complain at the end of every good run that its own functions leak.
atexit.register(clear_overloads)

# Dagster's own parser of selections passes it; there is nothing here that could.
warnings.filterwarnings("ignore", r"Parameter `include_sources` of function `AssetSelection\.all`", dg.BetaWarning)

# Progress is told at INFO; what Dagster says of its own steps is in the UI. One object: Dagster refuses to merge two.
_CONSOLE = console_logger.configured({"log_level": "INFO"})


def build_definitions(pipeline: Pipeline, *, is_whole: bool = True) -> dg.Definitions:
    """Return the definitions of an experiment.

    Args:
        pipeline: the experiment.
        is_whole: whether nobody else's definitions are in the code location, so that its executor and its console log
            may be set. Dagster has one of each for all that is merged, and refuses a second one that differs.
    """
    job = own_job(pipeline)
    # In one process an asset costs 0.1 s, in its own 1.2 to 2.5 s: too much for a graph that is mostly stored.
    own = {"executor": job.executor_def, "loggers": {"console": _CONSOLE}} if is_whole else {}
    return dg.Definitions(
        assets=build_assets(pipeline),
        jobs=[job],
        sensors=[corpus_sensor(pipeline, job), *failed_runs_sensors(pipeline, job)],
        schedules=[nightly_schedule(pipeline, job)],
        resources=ray_resources(pipeline.graph),
        **own,  # type: ignore[arg-type]
    )
