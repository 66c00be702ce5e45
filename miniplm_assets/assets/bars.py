"""Bars in a terminal: how far the run is, and how far the asset that is being made.

Where nobody looks (a pipe, CI, a daemon) there are none, and the lines of the log say the same now and then. While
bars are up, whatever is printed stands above them, by this process or by those that it starts: Dagster keeps a copy
of all output by a process of its own. The bars are in no such copy.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column
from rich.text import Text

from miniplm_assets.core.progressed import Progressed

# Of lines in a log: often enough to see that it moves, seldom enough to read.
SECONDS_BETWEEN_LINES: Final = 10.0
STDOUT: Final = 1
STDERR: Final = 2
# Whoever holds the other end of the pipe by then, its last lines are not waited for.
SECONDS_FOR_LAST_LINES: Final = 2.0


class Bars:
    """A bar for the assets of a run, and one for the steps or parts of one of them."""

    def __init__(self, progress: Progress, num_assets: int) -> None:
        """Draw the first bar.

        Args:
            progress: of rich.
            num_assets: of the run.
        """
        self._progress = progress
        self._run = progress.add_task("", total=num_assets)
        self._asset = progress.add_task("", total=1, visible=False)
        self._line_of_run = self._line_of_asset = ""

    def begin(self, line: str, *, num_done: int) -> None:
        """Show which asset is made now."""
        self._line_of_run = line
        self._progress.update(self._run, description=line, completed=num_done)
        self._progress.update(self._asset, visible=False)

    def show(self, line: Progressed) -> None:
        """Show how far that asset is."""
        self._line_of_asset = str(line)
        self._progress.update(self._asset, description=line, completed=line.done, total=line.total, visible=True)

    def has(self, line: str) -> bool:
        """Whether a line stands beside a bar."""
        return line in (self._line_of_run, self._line_of_asset)


_up: list[Bars] = []


def bars_that_are_up() -> Bars | None:
    """Return the bars of the run that this process executes; None where there are none."""
    return _up[-1] if _up else None


@contextmanager
def bars(num_assets: int) -> Iterator[None]:
    """Draw bars while a run goes on, where somebody looks.

    Args:
        num_assets: of the run.
    """
    if not _is_watched():
        yield
        return
    columns = (BarColumn(bar_width=20), MofNCompleteColumn(), _description())
    with os.fdopen(os.dup(STDERR), "w", encoding="utf-8", errors="replace") as terminal:
        console = Console(file=terminal)
        printing = Progress(
            *columns,
            console=console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            refresh_per_second=4,
        )
        with printing as progress, _everything_above(console):
            _up.append(Bars(progress, num_assets))
            try:
                yield
            finally:
                _up.pop()


def _description() -> TextColumn:
    return TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))


def _is_watched() -> bool:
    is_dumb = os.environ.get("TERM", "dumb") in ("dumb", "unknown")
    return os.isatty(STDERR) and not is_dumb and not os.environ.get("CI")


@contextmanager
def _everything_above(console: Console) -> Iterator[None]:
    """Let what is written to the terminal come out above the bars, a line at a time."""
    kept = {stream: os.dup(stream) for stream in (STDOUT, STDERR) if os.isatty(stream)}
    reading, writing = os.pipe()
    _flush()
    for stream in kept:
        os.dup2(writing, stream)
    os.close(writing)
    reader = threading.Thread(target=_pass_on, args=(reading, console), name="lines above the bars", daemon=True)
    reader.start()
    try:
        yield
    finally:
        _flush()
        for stream, terminal in kept.items():
            os.dup2(terminal, stream)
            os.close(terminal)
        reader.join(SECONDS_FOR_LAST_LINES)


def _pass_on(reading: int, console: Console) -> None:
    with os.fdopen(reading, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            console.print(Text.from_ansi(line.rstrip("\n")), soft_wrap=True)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
