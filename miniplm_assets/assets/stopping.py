"""What ends a run from outside: SIGINT and SIGTERM become a request to stop, and a stopped run reads as cancelled.

Dagster raises an exception in its handler of signals. Where Python drops it, as it does in the callback of a weak
reference, the run would go on and hold its device. So the request is kept, and looked at; see `core.stop`.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, ClassVar, Final, TypeVar

import dagster as dg

from miniplm_assets.assets.failures import WithoutTraceError
from miniplm_assets.assets.gone_runs import note_process, report_gone_runs
from miniplm_assets.assets.run_progress import RunProgress
from miniplm_assets.assets.run_tags import is_put_down, put_down
from miniplm_assets.core.stop import Stop, Stopped
from miniplm_assets.lineage.pipeline import Pipeline

Handler = Callable[[int, FrameType | None], None]
Event = TypeVar("Event")
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
# One Ctrl-C may come twice: from the terminal, and from a parent that hands it on.
ECHO_SECONDS: Final = 1.0


class Signals:
    """Those that came where no asset was made in this process, while it executes a run.

    Attributes:
        number: of them.
    """

    number: ClassVar[int] = 0


class RunStoppedError(dg.DagsterExecutionInterruptedError, WithoutTraceError):
    """Dagster's own interruption, without a trace: where the work was put down is nothing to mend."""

    def __init__(self, key: str, why: str = "told to stop") -> None:
        message = f"{key}: {why}. What was finished is kept; run again to go on from there."
        super().__init__(message)
        self.tell(message)


@contextmanager
def stopped_by_signals(stop: Stop, *, key: str, wake: Callable[[], None]) -> Iterator[None]:
    """Let a signal ask for a stop while an asset is made, and a second one not wait for it.

    Only a process's main thread can handle signals; elsewhere nobody can ask.

    Args:
        stop: is asked.
        key: of the asset.
        wake: called before that, so that who waits for other threads looks too.

    Raises:
        RunStoppedError: if a signal came.
    """
    first_asked: float | None = None

    def told(_number: int, _frame: FrameType | None) -> None:
        nonlocal first_asked
        now = time.monotonic()
        if first_asked is not None and now - first_asked < ECHO_SECONDS:
            return
        first_asked = first_asked or now
        wake()
        stop.ask()

    try:
        if Signals.number:
            raise Stopped
        with _handlers(told):
            yield
        stop.look()  # the last of what it raised may have been dropped
    except (Stopped, KeyboardInterrupt):
        raise RunStoppedError(key) from None


@contextmanager
def _handlers(told: Handler) -> Iterator[None]:
    before = _handle(told)
    try:
        yield
    finally:
        _put_back(before)


@contextmanager
def kept_handlers() -> Iterator[None]:
    """Let what a library does with the signals while it starts hold no longer than that."""
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in SIGNALS} if is_main else {}
    try:
        yield
    finally:
        _put_back(before)


def _put_back(before: Mapping[signal.Signals, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler or signal.SIG_DFL)


def _handle(told: Handler) -> dict[signal.Signals, Any]:
    """Handle the signals, in a main thread; return what handled them before."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, told) for number in SIGNALS}


def _note(_number: int, _frame: FrameType | None) -> None:
    Signals.number += 1


def noting_signals(events: Iterable[Event]) -> Iterator[Event]:
    """Go through what happens in a run, or in a part of it, and count the signals that come between two assets."""
    Signals.number = 0
    with _handlers(_note):
        for event in events:
            yield event
            # Dagster's own would raise as the next asset begins, with a trace of its insides.
            _handle(_note)


class CancellingExecutor(dg.Executor):
    """An executor whose interrupted runs read as cancelled: Dagster calls those failed that its UI did not cancel."""

    def __init__(self, inner: dg.Executor, pipeline: Pipeline) -> None:
        """Let `inner` do the work.

        Args:
            inner: of Dagster.
            pipeline: the experiment.
        """
        self._inner, self._pipeline = inner, pipeline

    @property
    def retries(self) -> Any:
        """As the inner one has them."""
        return self._inner.retries

    @property
    def step_dependency_config(self) -> Any:
        """As the inner one has them."""
        return self._inner.step_dependency_config

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[Any]:
        """Execute a plan; say so where it is interrupted."""
        report_gone_runs(plan_context.instance)
        note_process(plan_context.instance, plan_context.run_id)
        progress = RunProgress(self._pipeline, plan_context, execution_plan)
        try:
            with progress.shown():
                for event in noting_signals(self._inner.execute(plan_context, execution_plan)):
                    progress.follow(event)
                    yield event
        except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
            instance = plan_context.instance
            run = instance.get_run_by_id(plan_context.run_id)
            is_unasked = run is not None and run.status == dg.DagsterRunStatus.STARTED
            if is_unasked and not instance.run_will_resume(run.run_id):
                if not is_put_down(run.run_id, run.tags):  # else it has said why itself
                    instance.add_run_tags(run.run_id, put_down(run.run_id, "a signal to its process"))
                instance.report_run_canceling(run, "A signal asks for the end of this run.")
            raise
