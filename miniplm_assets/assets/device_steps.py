"""Which steps of a run have a model trained or run for them, on how many devices, and which of them wait for a gate."""

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import dagster as dg
from dagster._core.storage.tags import PRIORITY_TAG

from miniplm_assets.assets.pinning import snapshot_of_run
from miniplm_assets.assets.step_keys import keys_of_steps
from miniplm_assets.core.errors import MiniplmError
from miniplm_assets.lineage.fingerprints import Fingerprints
from miniplm_assets.lineage.kind import Node
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.ray_crew import is_cluster_named


class DeviceSteps:
    """The steps of one run, as far as they make assets of the experiment.

    Args:
        pipeline: the experiment.
        instance: where the run is recorded.
        run: the run.
        step_keys: of all its steps.
    """

    def __init__(
        self, pipeline: Pipeline, instance: dg.DagsterInstance, run: dg.DagsterRun, step_keys: Iterable[str]
    ) -> None:
        self._pipeline, self._instance, self._run = pipeline, instance, run
        keys = keys_of_steps(pipeline)
        self._keys = {step: keys[step] for step in step_keys if step in keys}
        # Of each gate that keeps a model from being paid for, and has not spoken: itself, and all that it needs.
        gated = [node for node in pipeline.graph.values() if _has_model(node)]
        gates = {gate for node in gated for gate in node.gates} & set(self._keys.values())
        self._before = {gate: self._all_before(gate) for gate in gates}

    @property
    def gates(self) -> frozenset[str]:
        """The gates that have not spoken."""
        return frozenset(self._before)

    def key_of(self, step: str) -> str:
        """Return the key of the asset that a step makes."""
        return self._keys.get(step, step)

    def num_devices(self, step: str) -> int:
        """Return how many devices a step needs; 0 where no model is run for it, it is all stored, or it is alone."""
        node = self._pipeline.graph.get(self._keys.get(step, ""))
        if node is None or not _num_devices(node) or self._is_asked_again(step) or not self._is_missing(node):
            return 0
        return _num_devices(node)

    def is_clusters(self, step: str) -> bool:
        """Whether a cluster trains or runs a model for what a step makes, and something of that is still to be made."""
        node = self._pipeline.graph.get(self._keys.get(step, ""))
        return node is not None and _has_model(node) and not _num_devices(node) and self._is_missing(node)

    def is_alone(self, step: str) -> bool:
        """Whether nothing else may be made beside what a step makes.

        What is to be done again is put aside first, while nobody reads the warehouse. A Ray that is started on this
        machine has all of its devices; SQL has none of it.
        """
        node = self._pipeline.graph.get(self._keys.get(step, ""))
        return self._is_asked_again(step) or (
            node is not None and not is_cluster_named() and _is_rays(node) and self._is_missing(node)
        )

    def _is_missing(self, node: Node[Any]) -> bool:
        """Whether something of an asset is still to be made; not where nobody can say, and making it says why."""
        try:
            return not all(map(self._pipeline.store.holds, self._fingerprints.stored(node.key)))
        except (MiniplmError, OSError):
            return False

    def _is_asked_again(self, step: str) -> bool:
        operations: Any = self._run.run_config.get("ops", {})
        return bool(operations.get(step, {}).get("config", {}).get("shards"))

    def is_held(self, step: str) -> bool:
        """Whether a gate before a model speaks first: what is ranked after it does not begin beside what it needs.

        One after the other, the rank alone sees to that: no student is trained before the pilot has spoken.
        """
        key = self._keys[step]
        if any(key in before for before in self._before.values()):
            return False
        graph = self._pipeline.graph
        return any(graph[gate].rank < graph[key].rank for gate in self._before)

    def end(self, step: str, *, is_failed: bool) -> None:
        """Take that a step is over."""
        key = self.key_of(step)
        self._before.pop(key, None)
        if is_failed:  # what needs it is not made
            self._before = {gate: before for gate, before in self._before.items() if key not in before}

    def _all_before(self, key: str) -> set[str]:
        before: set[str] = set()
        more = {key}
        while more:
            before |= more
            more = {needed for one in more for needed in self._pipeline.graph[one].needs} - before
        return before

    @cached_property
    def _fingerprints(self) -> Fingerprints:
        return self._pipeline.fingerprints(snapshot_of_run(self._pipeline, self._instance, self._run))


class ReadyStep:
    """A step that nothing keeps from being executed, but what the machine has room for.

    Attributes:
        key: of the step.
        rank: of two, the lower one begins.
        num_devices: that its model needs; 0 where this process executes it.
        is_clusters: whether its model is a cluster's.
        is_alone: whether nothing else may be executed meanwhile.
    """

    def __init__(self, steps: DeviceSteps, step: Any) -> None:
        """Look at a step of Dagster's plan.

        Args:
            steps: of the run.
            step: of them.
        """
        self.key: str = step.key
        self.rank = -int(step.tags.get(PRIORITY_TAG, 0))
        self.num_devices = steps.num_devices(step.key)
        self.is_clusters = steps.is_clusters(step.key)
        self.is_alone = steps.is_alone(step.key)


def _has_model(node: Node[Any]) -> bool:
    """Whether a model is trained or run for an asset, on this machine or by Ray."""
    return bool(_num_devices(node)) or _is_rays(node)


def _is_rays(node: Node[Any]) -> bool:
    """Whether Ray makes an asset, wherever it is; SQL is run by a cluster alone, with no model and beside others."""
    return node.kind.needs_ray(node.settings) and not node.kind.sql


def _num_devices(node: Node[Any]) -> int:
    return node.kind.num_devices(node.settings)
