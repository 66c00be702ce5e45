"""The processes that make assets beside one another: started as they are needed, each with a share of the machine.

They are sessions of their own, so that a Ctrl-C reaches the run alone, which asks each of them to put its work down.
They end with the run, however that ends.
"""

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, Final

import dagster as dg
from dagster_shared.serdes import deserialize_value

from miniplm_assets.assets.devices import Share, Shares
from miniplm_assets.assets.step_process import Step
from miniplm_assets.lm.engine_process import EngineFailure, EngineProcess

WORKER: Final = "miniplm_assets.assets.step_process"
# What is there is read whole; it does not come in halves that are waited for.
SILENCE_SECONDS: Final = 600.0
# What is idle ends in a moment.
END_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Ended:
    """A step that a process is done with.

    Attributes:
        key: of the step.
        loss: how its process was lost, where it was.
        is_stopped: whether it was interrupted.
    """

    key: str
    loss: str | None = None
    is_stopped: bool = False


class StepProcesses:
    """Who executes steps beside one another."""

    def __init__(self, shares: Shares) -> None:
        """Begin with no process.

        Args:
            shares: of the machine.
        """
        self._shares = shares
        self._busy: dict[str, tuple[EngineProcess, Share]] = {}
        # On a CPU, one that has loaded its libraries takes the next step. One that has a device lets go of its memory.
        self._idle: dict[Share, EngineProcess] = {}
        self._lost: list[Ended] = []

    @property
    def step_keys(self) -> list[str]:
        """The steps that are executed now."""
        return [*self._busy, *(ended.key for ended in self._lost)]

    def begin(self, step: Step, num_devices: int) -> bool:
        """Let a process execute a step; return False where there is no room for it yet.

        Args:
            step: of the run.
            num_devices: of its model.
        """
        share = self._shares.take(num_devices)
        if share is None:
            return False
        try:
            process = self._idle.pop(share, None) or EngineProcess(
                WORKER, {"cores": share.cores}, environment=share.environment(), called="the process", is_heard=True
            )
            process.send({"step": step.key}, pickle.dumps(step))
        except EngineFailure as loss:
            self._shares.give_back(share)
            self._lost.append(Ended(step.key, loss=str(loss)))
        else:
            self._busy[step.key] = process, share
        return True

    def events(self, *, patience_seconds: float) -> Iterator[dg.DagsterEvent | Ended]:
        """Go through what has happened, and return when there is nothing more to read.

        Args:
            patience_seconds: how long to wait where nothing has.
        """
        while self._lost:
            yield self._lost.pop()
        if not self._busy:
            return
        wait([process.connection for process, _ in self._busy.values()], patience_seconds)
        for key, (process, share) in list(self._busy.items()):
            while key in self._busy and process.connection.poll():
                try:
                    message = process.receive(silence_seconds=SILENCE_SECONDS)
                except EngineFailure as loss:
                    self._let_go(key, share)
                    yield Ended(key, loss=str(loss))
                    break
                if "event" in message:
                    yield deserialize_value(message["event"], dg.DagsterEvent)
                    continue
                self._let_go(key, share)
                if share.devices:
                    process.end(patience_seconds=END_SECONDS)
                else:
                    self._idle[share] = process
                yield Ended(key, is_stopped=message["is_stopped"])

    def _let_go(self, key: str, share: Share) -> None:
        del self._busy[key]
        self._shares.give_back(share)

    def interrupt(self) -> None:
        """Ask each to put its step down, where nothing is lost."""
        for process, _ in self._busy.values():
            process.interrupt()

    def end(self) -> None:
        """End them all; those that have something to do at once."""
        for process in self._idle.values():
            process.end(patience_seconds=END_SECONDS)
        for process, _ in self._busy.values():
            process.end(patience_seconds=0.0)
        self._idle, self._busy = {}, {}


def is_sendable(job: Any, instance: dg.DagsterInstance) -> bool:
    """Whether another process can load a job, and record what it does where this one does."""
    from dagster._core.definitions.reconstruct import ReconstructableJob

    return isinstance(job, ReconstructableJob) and not instance.is_ephemeral
