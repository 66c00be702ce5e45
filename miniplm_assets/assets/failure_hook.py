"""Telling of a run that fails, from within it: no daemon need be there. See `automation.failed_runs` for the rest."""

import socket
from collections.abc import Sequence

import dagster as dg

from miniplm_assets.assets.messages import NotToldError, require_messages, send
from miniplm_assets.assets.run_tags import TOLD_TAG
from miniplm_assets.lineage.pipeline import Pipeline


def failure_hooks(pipeline: Pipeline) -> frozenset[dg.HookDefinition]:
    """Return what tells of the first asset of a run that fails; nothing where the experiment names nobody.

    Raises:
        ExperimentError: if nobody could be told.
    """
    variables = pipeline.automation.on_failure
    if not variables:
        return frozenset()
    require_messages(variables)

    @dg.failure_hook(name="tell_of_failure")
    def tell_of_failure(context: dg.HookContext) -> None:
        error = context.op_exception
        asset = context.step_key.replace("__", "/")
        why = getattr(error, "description", None) or str(error)
        try:
            tell_of_run(context.instance, context.run_id, variables, f"{asset}: {why}")
        except NotToldError as problem:
            context.log.error(f"{problem}; a daemon that runs the sensor of failed runs tries once more")

    return frozenset({tell_of_failure})


def tell_of_run(instance: dg.DagsterInstance, run_id: str, variables: Sequence[str], why: str) -> None:
    """Tell of a run that fails, once.

    Args:
        instance: Dagster's.
        run_id: of the run.
        variables: see `messages.send`.
        why: it fails.

    Raises:
        NotToldError: if somebody did not take it.
    """
    run = instance.get_run_by_id(run_id)
    if run is None or run.tags.get(TOLD_TAG) == run_id:
        return
    text = f"{why}\n\nRun {run_id} of {run.job_name}, on {socket.gethostname()}."
    send(variables, title="miniplm_assets: a run failed", text=text)
    instance.add_run_tags(run_id, {TOLD_TAG: run_id})
