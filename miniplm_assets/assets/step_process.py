"""A process that makes assets whose models have a device of their own, one after the other; see `step_processes`."""

import json
import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import dagster as dg
from dagster._core.execution.api import create_execution_plan, execute_plan_iterator
from dagster._core.execution.plan.state import KnownExecutionState
from dagster._core.execution.retries import RetryMode
from dagster._core.instance.ref import InstanceRef
from dagster_shared.serdes import serialize_value

from miniplm_assets.assets.stopping import noting_signals
from miniplm_assets.lm.engine_process import Sender, serve


@dataclass(frozen=True)
class Step:
    """A step of a run, as it is sent to the process that executes it.

    Attributes:
        job: the one to load, with what is selected of it.
        run: that it is a step of.
        key: of the step.
        instance: where the run is recorded.
        retry_mode: of the run.
        known_state: what the steps before it have left.
    """

    job: Any
    run: dg.DagsterRun
    key: str
    instance: InstanceRef
    retry_mode: RetryMode
    known_state: KnownExecutionState

    def execute(self) -> Iterator[dg.DagsterEvent]:
        """Execute it; its events are recorded here, and given to whoever goes on from them."""
        with dg.DagsterInstance.from_ref(self.instance) as instance:
            plan = create_execution_plan(
                self.job,
                run_config=self.run.run_config,
                step_keys_to_execute=[self.key],
                known_state=self.known_state,
                repository_load_data=self.job.repository.repository_load_data,
            )
            yield from execute_plan_iterator(
                plan,
                self.job,
                self.run,
                instance,
                run_config=self.run.run_config,
                retry_mode=self.retry_mode.for_inner_plan(),
            )


def work(connection: Connection, settings: dict[str, Any]) -> None:
    """Execute steps until the parent says the end."""
    if settings["cores"]:
        os.sched_setaffinity(0, settings["cores"])
    sender = Sender(connection)
    while "end" not in json.loads(connection.recv_bytes()):
        step: Step = pickle.loads(connection.recv_bytes())  # noqa: S301 - of our own parent
        is_stopped = False
        try:
            for event in noting_signals(step.execute()):
                sender.send({"event": serialize_value(event)})
        except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
            is_stopped = True
        sender.send({"is_stopped": is_stopped})


if __name__ == "__main__":
    serve(work)
