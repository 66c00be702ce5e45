"""By the clock: everything, at night. What is stored costs nothing."""

import dagster as dg

from miniplm_assets.assets.build import named
from miniplm_assets.automation.own_job import Job
from miniplm_assets.lineage.pipeline import Pipeline


def nightly_schedule(pipeline: Pipeline, job: Job) -> dg.ScheduleDefinition:
    """Return the schedule that materialises everything; what is stored is found, not computed.

    Args:
        pipeline: the experiment.
        job: that holds its assets.
    """
    return dg.ScheduleDefinition(
        name=named(pipeline, "nightly"),
        job=job,
        cron_schedule=pipeline.automation.nightly,
        execution_timezone=pipeline.automation.timezone,
        description="Materialises the whole graph; what is stored is found, not computed.",
    )
