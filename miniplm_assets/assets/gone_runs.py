"""Runs whose process is gone: killed by hand, or ended with its machine.

Of a run that a code server has started, that server tells Dagster, as long as it lives itself. Of a run from the
command line nobody does: it would stay "started" for ever. So each run notes its process, and whoever comes later
looks.
"""

import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import dagster as dg
import psutil

from miniplm_assets.assets.run_tags import PROCESS_TAG

# Process ids mean something in their own namespace alone: two containers may have one name.
_NAMESPACE: Final = Path("/proc/self/ns/pid")
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_IN_PROGRESS: Final = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


def note_process(instance: dg.DagsterInstance, run_id: str) -> None:
    """Note that this process executes a run."""
    pid = os.getpid()
    # Dagster gives a run's tags to the run that tries again: the note says whose it is.
    noted = {"run": run_id, "place": _place(), "pid": pid, "began": _began(pid)}
    instance.add_run_tags(run_id, {PROCESS_TAG: json.dumps(noted)})


def report_gone_runs(instance: dg.DagsterInstance) -> None:
    """Let runs that are not over, and whose process was on this machine and is gone, read as failed or cancelled."""
    for run in instance.get_runs(dg.RunsFilter(statuses=_IN_PROGRESS)):
        noted = json.loads(run.tags.get(PROCESS_TAG, "{}"))
        is_told_here = noted.get("run") == run.run_id and noted["place"] == _place()
        if not is_told_here or _is_alive(noted):
            continue
        told = instance.get_run_by_id(run.run_id)  # it may have ended meanwhile, as processes do
        why = f"Its process {noted['pid']} is gone: killed, or ended with the machine. What was finished is kept."
        if told is not None and told.status == dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(told, why)
        elif told is not None and told.status == dg.DagsterRunStatus.STARTED:
            instance.report_run_failed(told, why)


def _place() -> str:
    namespace = _NAMESPACE.readlink() if _NAMESPACE.exists() else ""
    return f"{socket.gethostname()} {namespace}".strip()


def _is_alive(noted: dict[str, Any]) -> bool:
    try:  # process ids are given out again
        is_same = _began(noted["pid"]) == noted["began"]
        return is_same and bool(psutil.Process(noted["pid"]).status() != psutil.STATUS_ZOMBIE)
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return _exists_unseen(noted["pid"])


def _exists_unseen(pid: int) -> bool:
    """Whether there is a process that cannot be looked at: a machine may hide those of other users (hidepid)."""
    with suppress(PermissionError):  # it is there, and another user's
        try:
            os.kill(pid, 0)  # sends nothing
        except ProcessLookupError:
            return False
    return True


def _began(pid: int) -> str:
    """Say when a process began: in ticks since the machine did where it can be known, which no clock can step."""
    if not _BOOT.exists():
        return str(psutil.Process(pid).create_time())
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{_BOOT.read_text().strip()} {ticks}"
