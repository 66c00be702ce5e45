"""The runs that the sensor asked for: which is the last, what it is making, how it ended."""

from collections.abc import Iterator
from typing import Final

import dagster as dg

from miniplm_assets.assets.build import asset_key
from miniplm_assets.assets.run_tags import SNAPSHOT_TAG, STATE_TAG, put_down
from miniplm_assets.automation.corpus_watch import Wanted
from miniplm_assets.core.errors import MissingResultError
from miniplm_assets.lineage.fingerprints import RAW_CORPUS
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.plan import missing_recipes
from miniplm_assets.lineage.snapshot import load_snapshot

_SENSOR_TAG: Final = "dagster/sensor_name"
_REPOSITORY_TAG: Final = ".dagster/repository"
_IN_PROGRESS: Final = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_MAX_REASON_CHARACTERS: Final = 1_000


class OwnRuns:
    """The runs of one sensor of one code location.

    Args:
        instance: Dagster's.
        sensor: its name.
        repository: name@location, as Dagster tags runs with it; None where the sensor is tried without a location.
    """

    def __init__(self, instance: dg.DagsterInstance, *, sensor: str, repository: str | None) -> None:
        self._instance = instance
        self._tags = {_SENSOR_TAG: sensor} | ({} if repository is None else {_REPOSITORY_TAG: repository})

    def last(self) -> dg.DagsterRun | None:
        """Return the one that was asked for last."""
        return next(iter(self._instance.get_runs(dg.RunsFilter(tags=self._tags), limit=1)), None)

    def newest(self) -> list[list[str]]:
        """Return id and status of the run that was asked for last by the sensor, and of that by anybody."""
        anybodys = next(iter(self._instance.get_runs(limit=1)), None)
        return [[run.run_id, run.status.value] for run in (self.last(), anybodys) if run is not None]

    def of_older_states(self, state: str) -> list[dg.DagsterRun]:
        """Return those that are not over, and work on another state than that."""
        under_way = self._instance.get_runs(dg.RunsFilter(tags=self._tags, statuses=_IN_PROGRESS))
        return [run for run in under_way if run.tags.get(STATE_TAG) != state]

    def supersede(self, run: dg.DagsterRun, wanted: Wanted, pipeline: Pipeline) -> str:
        """Stop a run on an older state, unless what it is making now is wanted on the newer one too.

        Returns:
            What was done, and why.
        """
        name = f"run {run.run_id}, which works on an older state of the corpus,"
        if run.status == dg.DagsterRunStatus.CANCELING:
            return f"{name} is ending"
        if run.status == dg.DagsterRunStatus.STARTING:
            # A process that is ended while it loads its code has failed, as far as Dagster knows, and is tried again.
            return f"{name} is told to stop when it has started"
        making = self._making(run) if run.status == dg.DagsterRunStatus.STARTED else None
        if making is not None:
            useful = next((key for key in making if _is_wanted(key, run, wanted, pipeline)), None)
            if useful is not None or not making:
                return f"{name} goes on: {useful or 'what comes next'} may be wanted on the newer one too"
        self._instance.add_run_tags(run.run_id, put_down(run.run_id, f"a newer state, {wanted.state}, is wanted"))
        is_told = self._instance.run_coordinator.cancel_run(run.run_id)
        return f"{name} {'was told to stop' if is_told else 'cannot be told to stop; it ends by itself, or by hand'}"

    def _making(self, run: dg.DagsterRun) -> list[str]:
        """Return the names of the operations that a run is executing."""
        stats = self._instance.get_run_step_stats(run.run_id)
        return [one.step_key for one in stats if one.start_time is not None and one.end_time is None]

    def failure(self, run: dg.DagsterRun) -> str:
        """Say at which asset a run failed, and why."""
        for kind in (dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE):
            for entry in self._instance.all_logs(run.run_id, of_type=kind):
                return ": ".join(_sentences(entry))[:_MAX_REASON_CHARACTERS]
        return "nothing says why"


def _sentences(entry: dg.EventLogEntry) -> Iterator[str]:
    event = entry.get_dagster_event()
    if event.step_key is not None:
        yield event.step_key.replace("__", "/")
    failure = event.step_failure_data if event.is_step_failure else None
    if failure is not None and failure.user_failure_data is not None:
        yield str(failure.user_failure_data.description)
    elif failure is not None and failure.error is not None:
        yield failure.error.message.strip()
    elif event.message:
        yield event.message


def _is_wanted(step: str, run: dg.DagsterRun, wanted: Wanted, pipeline: Pipeline) -> bool:
    """Whether what a step makes on the state of its run is wanted on the newer one too."""
    prefix = pipeline.key_prefix
    key = next((key for key in pipeline.graph if asset_key(key, prefix).to_python_identifier() == step), None)
    seen = run.tags.get(SNAPSHOT_TAG)
    if key is None or seen is None:
        return False
    try:
        older = load_snapshot(pipeline.graph[RAW_CORPUS], pipeline.store, seen, seen_ns=0)
    except MissingResultError:
        return False
    still_wanted = {recipe.fingerprint for recipe in wanted.fingerprints.stored(key)}
    missing = missing_recipes(pipeline.store, pipeline.fingerprints(older), key)
    return any(recipe.fingerprint in still_wanted for recipe in missing)
