"""How far a run is: which of its assets is made now, and about how long the rest takes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import dagster as dg

from miniplm_assets.assets.bars import SECONDS_BETWEEN_LINES, bars, bars_that_are_up
from miniplm_assets.assets.step_keys import keys_of_steps
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.time_left import TimeLeft, about

OVER: Final = (
    dg.DagsterEventType.STEP_SUCCESS,
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.STEP_SKIPPED,
)


class RunProgress:
    """Follows the events of a run."""

    def __init__(self, pipeline: Pipeline, plan_context: Any, execution_plan: Any) -> None:
        """Begin with no asset.

        Args:
            pipeline: the experiment.
            plan_context: of Dagster; takes lines.
            execution_plan: says which assets the run is of.
        """
        self._log = plan_context.log
        keys = keys_of_steps(pipeline)
        self._keys = {step: keys.get(step, step) for step in execution_plan.step_keys_to_execute}
        self._time_left = TimeLeft(pipeline, self._keys.values())
        self._begun: set[str] = set()
        self._over: set[str] = set()
        self._told = time.monotonic()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Draw bars meanwhile, where somebody looks."""
        with bars(len(self._keys)):
            yield

    def follow(self, event: Any) -> None:
        """Take an event."""
        key = self._keys.get(event.step_key)
        if key is None:
            return
        if event.event_type == dg.DagsterEventType.STEP_START and key not in self._begun:
            self._begun.add(key)
            self._tell(key)
        elif event.event_type in OVER:
            self._begun.add(key)  # one that is skipped never began
            self._over.add(key)
            self._time_left.end(key)

    def _tell(self, key: str) -> None:
        seconds = self._time_left.begin(key)
        left = "" if seconds is None else f", about {about(seconds)} left"
        line = f"asset {len(self._begun)} of {len(self._keys)}{left}: {key}"
        up = bars_that_are_up()
        if up is not None:
            up.begin(line, num_done=len(self._over))
        if self._time_left.is_long or time.monotonic() - self._told >= SECONDS_BETWEEN_LINES:
            self._log.info(line)
            self._told = time.monotonic()
