"""Telling of a run that failed and could not say so itself: its process was killed, or it never began.

What an asset fails with, the run tells itself; see `assets.failure_hook`.
"""

import dagster as dg

from miniplm_assets.assets.build import asset_key, named
from miniplm_assets.assets.failure_hook import tell_of_run
from miniplm_assets.automation.own_job import Job
from miniplm_assets.lineage.pipeline import Pipeline

# Dagster's job of all assets of a code location, whosever they are.
_EVERYTHING = "__ASSET_JOB"
_WILL_RETRY = "dagster/will_retry"


def failed_runs_sensors(pipeline: Pipeline, job: Job) -> list[dg.SensorDefinition]:
    """Return the sensor that tells of failed runs of an experiment's assets; none where the experiment names nobody.

    Args:
        pipeline: the experiment.
        job: that holds its assets.
    """
    variables = pipeline.automation.on_failure
    if not variables:
        return []
    keys = {asset_key(key, pipeline.key_prefix) for key in pipeline.graph}

    @dg.run_failure_sensor(
        name=named(pipeline, "failed_runs"),
        default_status=dg.DefaultSensorStatus.RUNNING,  # it costs nothing, and was asked for
        description="Tells those whom automation.on_failure names of runs that failed and have not said so themselves. "
        "A run that is tried again by itself is told of when the last try has failed.",
    )
    def failed_runs(context: dg.RunFailureSensorContext) -> None:
        run = context.dagster_run
        is_ours = keys & run.asset_selection if run.asset_selection else run.job_name in (job.name, _EVERYTHING)
        if is_ours and run.tags.get(_WILL_RETRY) != "true":
            tell_of_run(context.instance, run.run_id, variables, context.failure_event.message or "nothing says why")

    return [failed_runs]
