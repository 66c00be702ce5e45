"""A run of Dagster, as the work on an asset sees it."""

import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, cached_property, partial
from typing import Final

import dagster as dg

from miniplm_assets.assets.bars import SECONDS_BETWEEN_LINES, bars_that_are_up
from miniplm_assets.assets.device_lock import device_lock
from miniplm_assets.assets.devices import OTHERS, visible_devices
from miniplm_assets.assets.gone_runs import report_gone_runs
from miniplm_assets.assets.observing import Observing
from miniplm_assets.assets.pinning import pin, pinned_snapshot, snapshot_of_run
from miniplm_assets.assets.run_tags import DEFINITION_TAG, SEEN_TAG, SNAPSHOT_TAG, put_down
from miniplm_assets.assets.stopping import kept_handlers, stopped_by_signals
from miniplm_assets.core.errors import ExperimentError
from miniplm_assets.core.progressed import Progressed
from miniplm_assets.core.stop import Stop
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.snapshot import Snapshot
from miniplm_assets.lineage.tally import Tally

RAY_RESOURCE: Final = "ray"


class DagsterRun:
    """One asset's part of a run; see `lineage.work.Run`.

    Attributes:
        errands: what other threads leave for the one that Dagster calls: its log belongs to that one.
        stop: says whether the run has been told to stop.
        run_id: by which Dagster knows the run.
    """

    def __init__(self, pipeline: Pipeline, context: dg.AssetExecutionContext) -> None:
        self._pipeline = pipeline
        self._context = context
        self._thread = threading.get_ident()
        self.errands: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self.stop = Stop()
        self.run_id: str | None = context.run.run_id
        self._observing = Observing(context)
        self._told = time.monotonic()  # the last line of progress

    @contextmanager
    def stoppable(self, key: str) -> Iterator[None]:
        """Let signals stop the work on an asset; where it ends before it is done, its page says so."""
        stopped = stopped_by_signals(self.stop, key=key, wake=partial(self.errands.put, self._look))
        with self._observing.until_made(), stopped:
            yield

    def report(self, line: str) -> None:
        """Show a line of progress in Dagster's log; that of another thread when this one next looks.

        Raises:
            Stopped: in the run's own thread, if the run was told to stop and what is under way is not held.
        """
        if threading.get_ident() != self._thread:
            self.errands.put(partial(self._context.log.info, line))
            return
        while not self.errands.empty():
            self.errands.get()()
        if not isinstance(line, Progressed) or self._is_told(line):
            self._context.log.info(line)
        self._observing.tell(line)
        self._look()

    def progressed(self, tally: Tally, pieces: Collection[str]) -> None:
        """Show how far an asset in pieces is, as an observation of it."""
        self._observing.see(tally, pieces)

    def _is_told(self, line: Progressed) -> bool:
        """Show a line of progress in the bars, if there are any; say whether it is also one for the log."""
        up = bars_that_are_up()
        if up is not None:
            up.show(line)
        is_told = time.monotonic() - self._told >= SECONDS_BETWEEN_LINES or line.done == line.total > 1
        if is_told:
            self._told = time.monotonic()
        return is_told

    def _look(self) -> None:
        if not self.stop.is_held:
            self.stop.look()

    def snapshot(self) -> Snapshot:
        """Return the state of the corpus that this run works on: the one that its first asset saw."""
        return self._snapshot

    @cached_property
    def _snapshot(self) -> Snapshot:
        return snapshot_of_run(self._pipeline, self._context.instance, self._context.run)

    def asked_snapshot(self) -> Snapshot | None:
        """Return the state of the corpus that the sensor asked for."""
        if not self.is_asked_by_the_sensor:
            return None
        return pinned_snapshot(self._pipeline, self._context.instance, self._context.run)

    @property
    def is_asked_by_the_sensor(self) -> bool:
        """Whether the run is for a state of the corpus that the sensor saw."""
        return SEEN_TAG in self._context.run.tags

    def pin(self, snapshot: Snapshot) -> None:
        """Let all later assets of this run work on this state of the corpus."""
        pin(self._context.instance, self._context.run, snapshot)

    def note_put_down(self, why: str) -> None:
        """Let the sensor ask again for what this run does not make any more."""
        run_id = self._context.run.run_id
        self._context.instance.add_run_tags(run_id, put_down(run_id, why))

    def maker_of(self, key: str) -> str | None:
        """Say which other run is making an asset on the same state of the corpus; None: nobody."""
        report_gone_runs(self._context.instance)
        mine, asset = self._context.run.run_id, dg.AssetKey([*self._pipeline.key_prefix, *key.split("/")])
        under_way = dg.RunsFilter(
            statuses=[dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED],
            tags={SNAPSHOT_TAG: self.snapshot().recipe.fingerprint},
        )
        for run in self._context.instance.get_runs(under_way):
            if run.run_id != mine and self._makes(run, asset):
                return f"run {run.run_id}"
        return None

    def _makes(self, run: dg.DagsterRun, asset: dg.AssetKey) -> bool:
        if run.asset_selection is not None:
            return asset in run.asset_selection
        # All of its job, which may be that of another experiment on the same corpus.
        snapshot = run.job_snapshot_id
        return snapshot is None or asset.to_python_identifier() in _definitions(self._context.instance, snapshot)

    def require_as_asked(self, key: str, definition: str) -> None:
        """Make sure that this process has loaded the asset as it was when the run was asked for.

        Args:
            key: of the asset.
            definition: its digest, as loaded here; see `lineage.graph.definition_digests`.

        Raises:
            ExperimentError: if it was another one.
        """
        run = self._context.run
        if run.job_snapshot_id is None:
            return
        asked = _definitions(self._context.instance, run.job_snapshot_id).get(self._context.op_def.name)
        if asked not in (None, definition):
            raise ExperimentError(
                f"{key}: the experiment file or the code changed after this run was asked for, before it started. "
                "Reload the code location (Deployment, in the UI), and ask again."
            )

    def device(self) -> AbstractContextManager[None]:
        """Have the accelerators of this machine for a model alone; nothing where there are none."""
        import torch

        if not torch.accelerator.is_available():
            return nullcontext()
        context, devices = self._context, visible_devices() or (OTHERS,)
        return device_lock(f"run {context.run.run_id} ({context.asset_key.to_user_string()})", self.report, devices)

    def connect_ray(self) -> None:
        """Connect to the Ray cluster, or start Ray here; the resource disconnects when the asset is made."""
        resource = self._context.resources.ray
        if not resource.connected:
            with kept_handlers():  # Ray would end the process at a SIGTERM
                resource.connect(self._context)


@cache
def _definitions(instance: dg.DagsterInstance, job_snapshot_id: str) -> dict[str, str | None]:
    """Return the digest of what defined each asset where a run was asked for, by the name of its operation."""
    operations = instance.get_job_snapshot(job_snapshot_id).node_defs_snapshot.op_def_snaps
    return {operation.name: operation.tags.get(DEFINITION_TAG) for operation in operations}
