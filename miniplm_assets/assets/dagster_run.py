"""A run of Dagster, as the work on an asset sees it."""

import queue
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from typing import Final

import dagster as dg

from miniplm_assets.assets.device_lock import device_lock
from miniplm_assets.assets.stopping import kept_handlers, stopped_by_signals
from miniplm_assets.core.stop import Stop
from miniplm_assets.lineage.fingerprints import RAW_CORPUS
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.snapshot import Snapshot, latest_snapshot, load_snapshot

RAY_RESOURCE: Final = "ray"
# Every asset of a run works on the same state of the corpus, whatever happens to its files meanwhile.
SNAPSHOT_TAG: Final = "miniplm/raw_corpus"


class DagsterRun:
    """One asset's part of a run; see `lineage.work.Run`.

    Attributes:
        errands: what other threads leave for the one that Dagster calls: its log belongs to that one.
        stop: says whether the run has been told to stop.
    """

    def __init__(self, pipeline: Pipeline, context: dg.AssetExecutionContext) -> None:
        self._pipeline = pipeline
        self._context = context
        self._thread = threading.get_ident()
        self.errands: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self.stop = Stop()

    def stoppable(self, key: str) -> AbstractContextManager[None]:
        """Let signals stop the work on an asset."""
        return stopped_by_signals(self.stop, key=key, wake=partial(self.errands.put, self._look))

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
        self._context.log.info(line)
        self._look()

    def _look(self) -> None:
        if not self.stop.is_held:
            self.stop.look()

    def snapshot(self) -> Snapshot:
        """Return the state of the corpus that this run works on: the one that its first asset saw."""
        return self._snapshot

    @cached_property
    def _snapshot(self) -> Snapshot:
        node, store = self._pipeline.graph[RAW_CORPUS], self._pipeline.store
        run = self._context.instance.get_run_by_id(self._context.run.run_id)
        pinned = run.tags.get(SNAPSHOT_TAG) if run else None
        if pinned is not None:
            return load_snapshot(node, store, pinned)
        snapshot = latest_snapshot(node, store)
        self.pin(snapshot)
        return snapshot

    def pin(self, snapshot: Snapshot) -> None:
        """Let all later assets of this run work on this state of the corpus."""
        self._context.instance.add_run_tags(self._context.run.run_id, {SNAPSHOT_TAG: snapshot.recipe.fingerprint})

    def device(self) -> AbstractContextManager[None]:
        """Have the accelerators of this machine for a model alone; nothing where there are none."""
        import torch

        if not torch.accelerator.is_available():
            return nullcontext()
        context = self._context
        return device_lock(f"run {context.run.run_id} ({context.asset_key.to_user_string()})", self.report)

    def connect_ray(self) -> None:
        """Connect to the Ray cluster, or start Ray here; the resource disconnects when the asset is made."""
        resource = self._context.resources.ray
        if not resource.connected:
            with kept_handlers():  # Ray would end the process at a SIGTERM
                resource.connect(self._context)
