"""The code location: what Dagster loads.

``MINIPLM_EXPERIMENT`` names the experiment file, ``MINIPLM_WAREHOUSE`` a warehouse in place of the file's own.
"""

import atexit
import warnings
from typing import clear_overloads

import click
import dagster as dg

from miniplm_assets.assets.build import build_assets
from miniplm_assets.assets.failures import console_logger
from miniplm_assets.assets.ray_cluster import ray_resources
from miniplm_assets.assets.stopping import in_process_executor
from miniplm_assets.automation.corpus_sensor import corpus_sensor
from miniplm_assets.automation.nightly import nightly_schedule
from miniplm_assets.core.errors import MiniplmError
from miniplm_assets.kinds.registry import open_chosen

# torch never lets go of the kernels that its Python half registers, nor these, through the globals of torch.fx, of
# typing and of every overload there is: Dagster's, and through their modules all that is loaded here. The module of
# DuckDB would outlive the interpreter, and complain at the end of every good run that its own functions leak.
atexit.register(clear_overloads)

# Dagster's own parser of selections passes it; there is nothing here that could.
warnings.filterwarnings("ignore", r"Parameter `include_sources` of function `AssetSelection\.all`", dg.BetaWarning)

try:
    pipeline = open_chosen()
except (
    MiniplmError
) as error:  # which the commands of Dagster, all of click, tell without a trace; and the UI as any other
    raise click.ClickException(str(error)) from None

defs = dg.Definitions(
    assets=build_assets(pipeline),
    sensors=[corpus_sensor(pipeline)],
    schedules=[nightly_schedule(pipeline.automation)],
    resources=ray_resources(pipeline.graph),
    # In one process an asset costs 0.1 s, in its own 1.2 to 2.5 s: too much for a graph that is mostly stored.
    executor=in_process_executor,
    # Progress is told at INFO; what Dagster says of its own steps is in the UI.
    loggers={"console": console_logger.configured({"log_level": "INFO"})},
)
