"""Errors as people read them, in the terminal and in the UI: the sentence, first and once, without a trace.

What our own errors say is what there is to do; where in the code they arose helps nobody but us, so that the trace is
told at DEBUG and kept with the failed step. Errors that are not ours are mistakes of the program, and keep theirs.
"""

import errno
import logging
import traceback
from typing import Any, Final

import dagster as dg
from dagster._core.errors import DagsterUserCodeProcessError
from dagster_shared.error import SerializableErrorInfo

from miniplm_assets.assets.bars import bars_that_are_up
from miniplm_assets.core.doors import cause_of
from miniplm_assets.core.errors import MiniplmError, TransientError

# For what may pass. Bad input, a full disk and mistakes of the code are not tried again.
MAX_RETRIES: Final = 2
SECONDS_BEFORE_RETRY: Final = 10
# What a network file system says of a server or a connection that is gone; of a local disk, nothing here passes.
PASSING: Final = frozenset(
    {
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETRESET,
        errno.ENETUNREACH,
        errno.EREMOTEIO,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)


class WithoutTraceError(DagsterUserCodeProcessError):
    """Mixed into an error of Dagster: it is shown as its sentence alone, as if another process had told of it."""

    def __init__(self, *arguments: object) -> None:
        """Say nothing yet; it is called by the error that this is mixed into."""
        super().__init__(*arguments, user_code_process_error_infos=[])  # type: ignore[no-untyped-call]

    def tell(self, message: str) -> None:
        """Say what is shown."""
        self.user_code_process_error_infos = [SerializableErrorInfo(message, stack=[], cls_name=type(self).__name__)]


class StepFailedError(dg.Failure, WithoutTraceError):
    """A step that failed over something that a person can mend."""

    def __init__(self, message: str, *, trace: str) -> None:
        metadata = {"trace": dg.MetadataValue.md(f"```\n{trace}\n```")}
        dg.Failure.__init__(self, description=message, metadata=metadata, allow_retries=False)
        self.tell(message)


class StepRetriedError(dg.RetryRequested, WithoutTraceError):
    """A step that is tried again after some time."""

    def __init__(self, message: str, *, seconds_to_wait: float) -> None:
        dg.RetryRequested.__init__(self, max_retries=MAX_RETRIES, seconds_to_wait=seconds_to_wait)
        self.tell(f"{message}\nIt is tried again in {seconds_to_wait:,.0f} s, {MAX_RETRIES} times at most.")


def explained(error: MiniplmError | OSError, log: Any, *, num_tries: int) -> StepFailedError | StepRetriedError:
    """Return an error as Dagster is to raise it, and tell its trace at DEBUG.

    Args:
        error: ours, or of a disk or a network.
        log: of the step.
        num_tries: how often it has been tried again.
    """
    trace = "".join(traceback.format_exception(error))
    log.debug(trace)
    words = str(error) if isinstance(error, MiniplmError) else cause_of(error)
    message = "\n".join([words, *getattr(error, "__notes__", ())])
    if may_pass(error):
        return StepRetriedError(message, seconds_to_wait=SECONDS_BEFORE_RETRY * 2**num_tries)
    return StepFailedError(message, trace=trace)


def may_pass(error: BaseException) -> bool:
    """Whether another try may succeed: a network or a server failed, not what was asked of it."""
    if isinstance(error, MiniplmError):
        return isinstance(error, TransientError)
    is_lost = isinstance(error, ConnectionError | TimeoutError) and not isinstance(error, BrokenPipeError)
    return is_lost or (isinstance(error, OSError) and error.errno in PASSING)


@dg.logger(dg.colored_console_logger.config_schema, description="Progress, and each error once.")  # type: ignore[untyped-decorator]
def console_logger(context: dg.InitLoggerContext) -> logging.Logger:
    """Log to the terminal as Dagster does; a run that failed does not repeat the error of its step."""
    create = dg.colored_console_logger.logger_fn
    logger: logging.Logger = create(context)
    logger.addFilter(_without_repetition)
    return logger


def _without_repetition(record: logging.LogRecord) -> bool:
    told = getattr(record, "dagster_meta", {})
    if str(told.get("orig_message")).startswith("Dependencies for step"):
        return False  # a line for each asset behind the one that failed; the UI shows them
    up = bars_that_are_up()
    if up is not None and up.has(str(told.get("orig_message"))):
        return False
    event = told.get("dagster_event")
    if event is not None and event.event_type == dg.DagsterEventType.RUN_FAILURE:
        record.msg = str(record.msg).partition("\n\n")[0]  # the error stands behind an empty line
    return True
