"""An executor that has models trained and run beside one another, each by a process with a device of its own.

All other steps, and what is stored, are executed in the process of the run, one after the other: that takes 0.1 s. What
is Dagster's own of this is the state machine of a plan (`ActiveExecution`) and the execution of a single step.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cached_property
from typing import Any, Final, Literal

import dagster as dg
from dagster._core.execution.api import ExecuteRunWithPlanIterable
from dagster._core.execution.compute_logs import create_compute_log_file_key
from dagster._core.execution.context_creation_job import PlanExecutionContextManager
from dagster._core.execution.plan.execute_plan import (
    _handle_compute_log_setup_error,
    _trigger_hook,
    dagster_event_sequence_for_step,
)
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from dagster._core.execution.plan.objects import StepFailureData, StepRetryData, UserFailureData
from dagster._core.execution.retries import RetryMode

from miniplm_assets.assets.device_steps import DeviceSteps, ReadyStep
from miniplm_assets.assets.devices import Shares, visible_devices
from miniplm_assets.assets.failures import MAX_RETRIES, SECONDS_BEFORE_RETRY, StepFailedError, StepRetriedError
from miniplm_assets.assets.step_process import Step
from miniplm_assets.assets.step_processes import StepProcesses
from miniplm_assets.assets.stopping import RunStoppedError, Signals
from miniplm_assets.corpus.cores import names_of_cores
from miniplm_assets.lineage.pipeline import Pipeline

# How long a signal, or a step that is tried again, waits to be seen.
POLL_SECONDS: Final = 0.2
# The setting, of the experiment and of a single run.
AT_ONCE: Final = "models_at_once"


class ModelsAtOnce(dg.Executor):
    """Executes a plan; see the module."""

    def __init__(self, pipeline: Pipeline, models_at_once: int | Literal["auto"], retries: RetryMode) -> None:
        """Know what to do.

        Args:
            pipeline: the experiment.
            models_at_once: how many models are wanted; see `Experiment`.
            retries: whether steps are tried again.
        """
        self._pipeline, self._models_at_once, self._retries = pipeline, models_at_once, retries

    @property
    def retries(self) -> RetryMode:
        """Whether steps are tried again."""
        return self._retries

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[dg.DagsterEvent]:
        """Execute a plan, in one context for all of its steps that this process executes."""

        def execute_in(job_context: Any, execution_plan: Any) -> Iterator[dg.DagsterEvent]:
            yield from Execution(self._pipeline, self._models_at_once, job_context, execution_plan).events()

        manager = PlanExecutionContextManager(
            job=plan_context.job,
            retry_mode=plan_context.retry_mode,
            execution_plan=execution_plan,
            run_config=plan_context.run_config,
            dagster_run=plan_context.dagster_run,
            instance=plan_context.instance,
            raise_on_error=plan_context.raise_on_error,
            output_capture=plan_context.output_capture,
            step_dependency_config=self.step_dependency_config,
        )
        yield from ExecuteRunWithPlanIterable(execution_plan, execute_in, manager)


class Execution:
    """The execution of one plan."""

    def __init__(
        self, pipeline: Pipeline, models_at_once: int | Literal["auto"], job_context: Any, execution_plan: Any
    ) -> None:
        """Begin with nothing done.

        Args:
            pipeline: the experiment.
            models_at_once: how many models are wanted.
            job_context: of Dagster, for all steps.
            execution_plan: the steps.
        """
        self._models_at_once, self._context, self._plan = models_at_once, job_context, execution_plan
        self._instance: dg.DagsterInstance = job_context.instance
        self._steps = DeviceSteps(
            pipeline, self._instance, job_context.dagster_run, execution_plan.step_keys_to_execute
        )
        self._ready: list[ReadyStep] = []
        self._has_processes = False

    @cached_property
    def _shares(self) -> Shares:
        return Shares(self._models_at_once, devices=visible_devices(), cores=names_of_cores())

    @cached_property
    def _processes(self) -> StepProcesses:
        self._has_processes = True
        return StepProcesses(self._shares)

    def events(self) -> Iterator[dg.DagsterEvent]:
        """Execute all steps, and go through what happens."""
        context = self._context
        with ExitStack() as stack:
            concurrency = stack.enter_context(InstanceConcurrencyContext(self._instance, context.dagster_run))
            self._active = stack.enter_context(
                self._plan.start(
                    retry_mode=context.retry_mode,
                    instance_concurrency_context=concurrency,
                    step_dependency_config=context.step_dependency_config,
                )
            )
            yield from self._captured(stack)
            try:
                yield from self._rounds()
            except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
                yield from self._put_down()
                raise
            finally:
                if self._has_processes:
                    self._processes.end()

    def _captured(self, stack: ExitStack) -> Iterator[dg.DagsterEvent]:
        """Let Dagster keep what this process prints; a run goes on where it cannot be kept."""
        logs = self._instance.compute_log_manager
        file = create_compute_log_file_key()  # type: ignore[no-untyped-call]
        log_key = logs.build_log_key_for_run(self._context.run_id, file)
        try:
            log = stack.enter_context(logs.capture_logs(log_key))
        except Exception:  # noqa: BLE001 - as Dagster's own executors
            yield from _handle_compute_log_setup_error(self._context, sys.exc_info())
        else:
            yield dg.DagsterEvent.capture_logs(self._context, self._plan.step_keys_to_execute, log_key, log)

    def _rounds(self) -> Iterator[dg.DagsterEvent]:
        while not self._active.is_complete:
            if Signals.number:
                raise RunStoppedError(self._what_is_stopped())
            for step in self._active.get_steps_to_execute():
                self._ready.append(ReadyStep(self._steps, step))
            self._ready.sort(key=lambda step: step.rank)
            yield from self._active.concurrency_event_iterator(self._context)
            here = self._begin_what_has_room()
            if here is not None:
                yield from self._execute(here)
            elif not self._running and not self._active.is_complete:
                time.sleep(min(POLL_SECONDS, self._active.sleep_interval()))
            yield from self._follow(patience_seconds=POLL_SECONDS if here is None else 0.0)

    @property
    def _running(self) -> list[str]:
        """The steps that other processes execute."""
        return self._processes.step_keys if self._has_processes else []

    def _what_is_stopped(self) -> str:
        steps = self._running or [step.key for step in self._ready[:1]]
        return ", ".join(map(self._steps.key_of, steps)) or "the run"

    def _begin_what_has_room(self) -> str | None:
        """Let other processes begin what has room; return the first step that this one is to execute, if there is one.

        A step that waits for a device, or for the others to end, is not overtaken by one of a lower priority.
        """
        has_room = True
        for step in list(self._ready):
            if step.is_alone and self._running:
                has_room = False
            elif step.is_clusters and self._shares.at_once > 1 and self._steps.is_held(step.key):
                continue
            elif not step.num_devices or self._shares.at_once == 1:
                self._ready.remove(step)
                return step.key
            elif has_room and not self._steps.is_held(step.key):
                has_room = self._processes.begin(self._sent(step.key), step.num_devices)
                if has_room:
                    self._ready.remove(step)
        return None

    def _sent(self, key: str) -> Step:
        context = self._context
        return Step(
            job=context.job,
            run=context.dagster_run,
            key=key,
            instance=self._instance.get_ref(),
            retry_mode=context.retry_mode,
            known_state=self._active.get_known_state(),
        )

    def _execute(self, key: str) -> Iterator[dg.DagsterEvent]:
        """Execute a step in this process."""
        context = self._context_of(key)
        events: list[dg.DagsterEvent] = []
        for event in dagster_event_sequence_for_step(context):
            events.append(event)
            yield event
            self._take(event)
        for event in self._complete(key):
            events.append(event)
            yield event
        yield from _trigger_hook(context, events)

    def _context_of(self, key: str) -> Any:
        return self._context.for_step(self._active.get_step_by_key(key), self._active.get_known_state())

    def _take(self, event: dg.DagsterEvent) -> None:
        self._active.handle_event(event)
        if event.step_key is not None and (event.is_step_success or event.is_step_failure):
            self._steps.end(event.step_key, is_failed=event.is_step_failure)

    def _complete(self, key: str) -> Iterator[dg.DagsterEvent]:
        """Go on after a step: what needs it is skipped where it has failed."""
        self._active.verify_complete(self._context, key)
        yield from self._active.plan_events_iterator(self._context)

    def _follow(self, *, patience_seconds: float) -> Iterator[dg.DagsterEvent]:
        """Go through what the other processes do."""
        if not self._has_processes:
            return
        for happened in self._processes.events(patience_seconds=patience_seconds):
            if isinstance(happened, dg.DagsterEvent):
                yield happened
                self._take(happened)
                continue
            if happened.is_stopped:  # by itself, or by somebody: so is the run, as in one process
                raise RunStoppedError(self._steps.key_of(happened.key))
            if happened.loss is not None:
                yield from self._lose(happened.key, happened.loss)
            yield from self._complete(happened.key)

    def _lose(self, key: str, loss: str) -> Iterator[dg.DagsterEvent]:
        """Let a step whose process was lost be tried again, or fail: there may have been too little memory for all."""
        context = self._context_of(key)
        num_tries, asset = context.previous_attempt_count, self._steps.key_of(key)
        error: StepRetriedError | StepFailedError
        message = f"{asset}: {loss}. What was finished is kept; fewer at once need less memory ({AT_ONCE})."
        if context.retry_mode.disabled or num_tries >= MAX_RETRIES:
            error = StepFailedError(message, trace=loss)
            [info] = error.user_code_process_error_infos
            told = UserFailureData("lost process", message, error.metadata)  # type: ignore[no-untyped-call]
            failure = StepFailureData(info, told)  # type: ignore[no-untyped-call]
            event = dg.DagsterEvent.step_failure_event(context, failure)
        else:
            seconds = SECONDS_BEFORE_RETRY * 2**num_tries
            error = StepRetriedError(message, seconds_to_wait=seconds)
            [info] = error.user_code_process_error_infos
            event = dg.DagsterEvent.step_retry_event(context, StepRetryData(info, seconds))  # type: ignore[no-untyped-call]
        context.capture_step_exception(error)
        yield event
        self._take(event)
        yield from _trigger_hook(context, [event])

    def _put_down(self) -> Iterator[dg.DagsterEvent]:
        """Ask the other processes to end, as often as this one is asked, and wait for them."""
        num_told = -1
        while self._running:
            if Signals.number > num_told:
                num_told = Signals.number
                self._processes.interrupt()
            for happened in self._processes.events(patience_seconds=POLL_SECONDS):
                if isinstance(happened, dg.DagsterEvent):
                    yield happened
