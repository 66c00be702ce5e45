"""A process of `crew.LocalCrew`: does one task after the other. It imports what a task needs when it is given one."""

import contextlib
import json
import pickle
import sys
import traceback
import warnings
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any

import pyarrow as pa

from miniplm_assets.core.errors import MiniplmError
from miniplm_assets.lm.engine_process import Sender, serve


def work(connection: Connection, _settings: dict[str, Any]) -> None:
    """Do tasks until the parent says the end."""
    keep_pandas_out()
    sender = Sender(connection)

    def report(line: str) -> None:
        sender.send({"line": line})

    while "end" not in json.loads(connection.recv_bytes()):
        task = pickle.loads(connection.recv_bytes())  # noqa: S301 - of our own parent
        try:
            answer, has_raised = pickle.dumps(task(report=report)), False
        except Exception as error:  # noqa: BLE001 - the parent raises it
            answer, has_raised = portable(error), True
        sender.send({"has_raised": has_raised}, answer)


def keep_pandas_out() -> None:
    """Let pyarrow take pandas for too old to be asked whether a list is one of its Series.

    It asks once, and imports pandas for it: half a second of a core, in a process of which no task has a Series.
    """
    if "pandas" in sys.modules:
        return
    old = ModuleType("pandas")
    old.__version__ = "0"  # type: ignore[attr-defined]
    sys.modules["pandas"] = old
    try:
        with warnings.catch_warnings(action="ignore"):
            pa.array([])
    finally:
        del sys.modules["pandas"]


def portable(error: Exception) -> bytes:
    """Return an error as another process can raise it: with its trace as a note, where it is none for people."""
    if not isinstance(error, MiniplmError):
        error.add_note("In the process that worked on a corpus file:\n" + traceback.format_exc())
    with contextlib.suppress(Exception):
        content = pickle.dumps(error)
        pickle.loads(content)  # noqa: S301 - some errors are only pickled, and not made again
        return content
    told = RuntimeError(f"{type(error).__name__}: {error}")
    told.__notes__ = list(getattr(error, "__notes__", ()))
    return pickle.dumps(told)


if __name__ == "__main__":
    serve(work)
