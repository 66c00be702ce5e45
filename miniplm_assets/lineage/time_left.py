"""How long the rest of a run takes, by its plan: what earlier results of the same shape took, these of this run too.

It is asked before each asset. A run that finds everything stored is never planned, and of one that computes, planning
takes a small share.
"""

import time
from collections.abc import Iterable
from functools import cached_property
from typing import Final

from miniplm_assets.core.errors import MiniplmError
from miniplm_assets.lineage.fingerprints import RAW_CORPUS, Fingerprints
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.plan import PlannedAsset, plan_on
from miniplm_assets.lineage.snapshot import Snapshot, latest_snapshot

# Of the time that passes, at most so much is spent on saying how much is left.
PLANNING_SHARE: Final = 0.02


class TimeLeft:
    """The time that some assets of an experiment still take.

    Attributes:
        is_long: whether a model is run or trained for the asset that has begun.

    Args:
        pipeline: the experiment.
        keys: of the assets that are made, or found.
    """

    def __init__(self, pipeline: Pipeline, keys: Iterable[str]) -> None:
        self._pipeline = pipeline
        self._left = dict.fromkeys(keys)
        self._planned: dict[str, PlannedAsset] = {}
        self._may_plan = time.monotonic()
        self._began: dict[str, float] = {}
        # Of models: as many as were made at once will be again.
        self._under_way: set[str] = set()
        self._num_at_once = 1
        self.is_long = False
        # Of models that this run has run: for those that are like none before.
        self._seconds, self._flops = 0.0, 0

    def begin(self, key: str) -> float | None:
        """Return how many seconds are left, as the work on an asset begins; None where nobody knows, or nothing is.

        Args:
            key: of the asset.
        """
        asked = time.monotonic()
        try:
            self.is_long = self._is_missing_and_costly(key)
            if self.is_long and asked >= self._may_plan:
                self._planned = {one.key: one for one in plan_on(self._pipeline, self._snapshot)}
                self._may_plan = time.monotonic() + (time.monotonic() - asked) / PLANNING_SHARE
        except (MiniplmError, OSError):  # whoever makes the asset says what is wrong
            self._planned, self.is_long = {}, False
        if self.is_long:
            self._under_way.add(key)
            self._num_at_once = max(self._num_at_once, len(self._under_way))
        self._began[key] = time.monotonic()
        return self._seconds_left()

    def end(self, key: str) -> None:
        """Take that the work on an asset is over."""
        self._left.pop(key, None)
        self._under_way.discard(key)
        began = self._began.pop(key, None)
        planned = self._planned.get(key)
        if planned is not None and planned.flops and not planned.is_complete and began is not None:
            self._seconds += time.monotonic() - began
            self._flops += planned.flops

    @cached_property
    def _snapshot(self) -> Snapshot:
        return latest_snapshot(self._pipeline.graph[RAW_CORPUS], self._pipeline.store)

    @cached_property
    def _fingerprints(self) -> Fingerprints:
        return self._pipeline.fingerprints(self._snapshot)

    def _is_missing_and_costly(self, key: str) -> bool:
        """Whether a model is run or trained for an asset, and the asset is not there."""
        node = self._pipeline.graph.get(key)
        if node is None or node.kind.cost is None or RAW_CORPUS in self._left:
            return False
        return self._pipeline.store.find(self._fingerprints.recipe(key)) is None

    def _seconds_left(self) -> float | None:
        seconds = [self._seconds_of(key) for key in self._left]
        known = [one for one in seconds if one is not None]
        if len(known) < len(seconds) or not sum(known):
            return None
        return max(sum(known) / self._num_at_once, *known)  # no asset is shared out

    def _seconds_of(self, key: str) -> float | None:
        planned = self._planned.get(key)
        if planned is None or planned.is_complete:
            return None if planned is None else 0.0
        if planned.seconds is not None:
            return planned.seconds
        if planned.flops is not None:
            return self._seconds * planned.flops / self._flops if self._flops else None
        return None if self._pipeline.graph[key].kind.cost is not None else 0.0  # no model: it takes little


def about(seconds: float) -> str:
    """Return a duration as nobody takes at its word: 40 s, 14 min, 5 h, 3 days."""
    if seconds < 90:
        return f"{max(10, 10 * round(seconds / 10))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    hours = round(seconds / 3600)
    return f"{hours} h" if hours < 48 else f"{round(hours / 24)} days"
