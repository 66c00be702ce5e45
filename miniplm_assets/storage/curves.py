"""Curves of what is under way, for TensorBoard: event files beside the results, and no part of any.

    <warehouse>/tensorboard/<asset key>/<first digits of the fingerprint>           one run, as TensorBoard calls it
    <warehouse>/tensorboard/<asset key>/seed_<seed>.<first digits of the fingerprint>

An aid alone: nothing reads them, nothing hashes them, and where they cannot be written that is said, once. Work that
goes on after an interruption writes another file into the same folder; its first event lets TensorBoard forget what
the files before it say of the steps from there on.
"""

import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol

from miniplm_assets.core.doors import cause_of
from miniplm_assets.core.recipe import Recipe

if TYPE_CHECKING:
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordWriter

CURVES: Final = "tensorboard"
# Of the 32 of a fingerprint: enough to tell the curves of one asset apart, and short enough for a legend.
SHOWN_DIGITS: Final = 8
# The format's, as TensorFlow calls it.
FILE_VERSION: Final = "brain.Event:2"
# The writer lets the disk sync whatever it flushes.
SECONDS_BETWEEN_FLUSHES: Final = 5.0


class Curves(Protocol):
    """Takes the values of a step."""

    def begin(self, first_step: int) -> None:
        """Let what an earlier try has said of this step, and of those after it, be forgotten."""

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of a step, by the name of their curve; a name in a name's folder: `held_out/nll`."""


class NoCurves:
    """Takes the values of a step, and leaves it at that."""

    def begin(self, first_step: int) -> None:
        """Do nothing."""

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Do nothing."""


def curves_folder(root: Path, recipe: Recipe) -> Path:
    """Return where the curves of a result in the making are.

    Args:
        root: the warehouse.
        recipe: of the result.
    """
    seed = recipe.settings.get("seed")
    run = recipe.fingerprint[:SHOWN_DIGITS]
    return root / CURVES / recipe.key / (run if seed is None else f"seed_{seed}.{run}")


class EventFile:
    """An event file in a folder; it is made with the first event. What fails is reported once, and ends it."""

    def __init__(self, folder: Path, report: Callable[[str], None]) -> None:
        """Write nothing yet.

        Args:
            folder: of one run, as TensorBoard calls it; it is made.
            report: takes a line where the file cannot be written.
        """
        self._folder, self._report = folder, report
        self._writer: RecordWriter | None = None
        self._flushed = time.monotonic()
        self._is_given_up = False

    def __enter__(self) -> "EventFile":
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._try(self._close)

    def begin(self, first_step: int) -> None:
        """Let what an earlier try has said of this step, and of those after it, be forgotten."""
        self._try(lambda: self._begin(first_step))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of a step, by the name of their curve."""
        self._try(lambda: self._add(step, values))

    def _try(self, do: Callable[[], None]) -> None:
        if self._is_given_up:
            return
        try:
            do()
        except (OSError, ImportError) as error:
            self._is_given_up = True
            with suppress(OSError):  # the same, of what is left to be written
                self._close()
            why = cause_of(error) if isinstance(error, OSError) else str(error)
            self._report(f"no more curves for TensorBoard in {self._folder}: {why}. The work itself goes on.")

    def _begin(self, first_step: int) -> None:
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.record_writer import RecordWriter

        self._close()
        self._folder.mkdir(parents=True, exist_ok=True)
        now, number = time.time(), sum(1 for _ in self._folder.iterdir())
        # They are read in the order of their names.
        name = f"events.out.tfevents.{int(now):010d}.{number:05d}.{socket.gethostname()}"
        self._writer = RecordWriter(str(self._folder / name))
        self._write(Event(wall_time=now, file_version=FILE_VERSION))
        started = SessionLog(status=SessionLog.START)
        self._write(Event(wall_time=now, step=first_step, session_log=started))

    def _add(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        if self._writer is None:
            self._begin(step)
        for name, value in values.items():
            self._write(Event(wall_time=time.time(), step=step, summary=scalar(name, value)))
        if self._writer is not None and time.monotonic() - self._flushed >= SECONDS_BETWEEN_FLUSHES:
            self._writer.flush()
            self._flushed = time.monotonic()

    def _write(self, event: "Event") -> None:
        assert self._writer is not None, "it has begun"
        self._writer.write(event.SerializeToString())

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
