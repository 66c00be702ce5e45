"""Run by `launch`, not imported: torchrun's agent, between the process that makes an asset and the workers.

Workers say what they have to say to a socket of this machine, which asks for a key, and this process passes it on.
Where one is lost, the agent ends the others; which was the first, and why, is settled when all have ended.
"""

import json
import secrets
import signal
import sys
import threading
import uuid
from collections.abc import Mapping, Sequence
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Final

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std  # noqa: TID253 - a process of its own
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure  # noqa: TID253
from torch.distributed.launcher.api import LaunchConfig, elastic_launch  # noqa: TID253

from miniplm_assets.lm.engine_process import CAUSE, HARMLESS, LAST_LOG_LINES, Sender, how_it_ended, serve
from miniplm_assets.training.launch import HERE
from miniplm_assets.training.nodes import HAS_ENDED

WORKER: Final = "miniplm_assets.training.worker"
# A worker that has ended has closed its connection.
SECONDS_TO_HEAR: Final = 10.0


class Switchboard:
    """Passes on what workers say, but for why they fail, which it keeps; and tells them to stop.

    Attributes:
        first_trouble: what a worker said first of its failure; None where none has said so.
        key: by which workers connect.
    """

    def __init__(self, to_parent: Sender) -> None:
        """Listen.

        Args:
            to_parent: takes what they say.
        """
        self.first_trouble: Mapping[str, Any] | None = None
        self._to_parent = to_parent
        self.key = secrets.token_bytes()
        self._listener = Listener((HERE, 0), authkey=self.key)
        self._lock = threading.Lock()
        self._workers: list[Sender] = []
        self._threads: list[threading.Thread] = []
        self._is_stopping = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        """Where workers connect to, by `key`."""
        return int(self._listener.address[1])

    def pass_on_stop(self) -> None:
        """Tell all workers to stop, also those to come."""
        with self._lock:
            self._is_stopping = True
            for worker in self._workers:
                _tell_to_stop(worker)

    def hear_all(self) -> None:
        """Wait until all that was said by workers that have ended is passed on."""
        for thread in self._threads:
            thread.join(SECONDS_TO_HEAR)

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except (AuthenticationError, EOFError, OSError):  # somebody else's
                continue
            thread = threading.Thread(target=self._hear, args=(connection,), daemon=True)
            with self._lock:
                self._workers.append(Sender(connection))
                self._threads.append(thread)
                thread.start()
                if self._is_stopping:
                    _tell_to_stop(self._workers[-1])

    def _hear(self, connection: Connection) -> None:
        try:
            while True:
                message = json.loads(connection.recv_bytes())
                if message.keys() & {"error", "failed"}:
                    with self._lock:
                        self.first_trouble = self.first_trouble or message
                else:
                    self._to_parent.send(message)
        except (EOFError, OSError):  # it has ended; how, the agent says
            return


def _tell_to_stop(worker: Sender) -> None:
    try:
        worker.send({"stop": True})
    except OSError:  # it has ended
        return


def _answer(connection: Connection, settings: dict[str, Any]) -> None:
    """Train as the settings say, and tell how it ends."""
    parent = Sender(connection)
    switchboard = Switchboard(parent)
    threading.Thread(target=_obey, args=(connection, switchboard), daemon=True).start()
    folder = Path(gettempdir())
    job = folder / "job.json"
    job.write_text(json.dumps({**settings, "port": switchboard.port, "key": switchboard.key.hex()}))
    logs = folder.parent / "ranks"  # beside the log of this process, which stays after a failure
    number = settings["job"]["training"]["num_processes"]
    config = LaunchConfig(
        **_meeting(settings.get("node"), number),
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=str(logs), redirects=Std.ALL),
    )
    try:
        elastic_launch(config, sys.executable)("-m", WORKER, str(job))
    except ChildFailedError as lost:
        switchboard.hear_all()
        parent.send(why_they_ended(lost.failures, switchboard.first_trouble, number=number, logs=logs))
    else:
        switchboard.hear_all()
        if "node" in settings:
            parent.send({HAS_ENDED: True})


def _meeting(node: Mapping[str, Any] | None, num_processes: int) -> dict[str, Any]:
    """Return how many processes the agent starts, and where it meets those of other nodes.

    Args:
        node: its rank, the number of nodes, and the endpoint, which is the first one's; None where there is one alone.
        num_processes: on all nodes.
    """
    number = 1 if node is None else node["number"]
    nodes = {"min_nodes": number, "max_nodes": number, "nproc_per_node": num_processes // number}
    if node is None:
        alone = {"rdzv_backend": "c10d", "rdzv_endpoint": f"{HERE}:0", "local_addr": HERE}
        return {**nodes, **alone, "run_id": uuid.uuid4().hex}
    # By `static`, the first node has the first ranks.
    together = {"rdzv_backend": "static", "rdzv_endpoint": node["endpoint"], "rdzv_configs": {"rank": node["rank"]}}
    return {**nodes, **together, "run_id": node["endpoint"]}


def _obey(connection: Connection, switchboard: Switchboard) -> None:
    try:
        while True:
            if "stop" in json.loads(connection.recv_bytes()):
                switchboard.pass_on_stop()
    except (EOFError, OSError):  # the parent is gone, which ends this process
        return


def why_they_ended(
    failures: Mapping[int, ProcessFailure], first_trouble: Mapping[str, Any] | None, *, number: int, logs: Path
) -> Mapping[str, Any]:
    """Return the message that says why the workers ended.

    Args:
        failures: by rank, of those that ended by themselves.
        first_trouble: what a worker said first of its own failure. It may follow from the loss of another.
        number: of workers.
        logs: what they printed.
    """
    # The agent ends those that are left by SIGTERM.
    killed = {rank: one for rank, one in failures.items() if one.exitcode < 0 and one.exitcode != -signal.SIGTERM}
    if not killed and first_trouble is not None:
        return first_trouble
    candidates = killed or failures
    rank = min(candidates, key=lambda one: (candidates[one].timestamp, one))
    quoted = _last_lines(logs, failures[rank].local_rank) if failures[rank].exitcode != -signal.SIGKILL else []
    printed = "; it printed:\n" + "\n".join(quoted) if quoted else ""
    return {"failed": f"process {rank} of {number} has ended: {how_it_ended(failures[rank].exitcode)}{printed}"}


def _last_lines(logs: Path, local_rank: int) -> Sequence[str]:
    """Return the cause that a worker printed, else the last that it printed."""
    lines = [
        line
        for path in sorted(logs.glob(f"*/attempt_*/{local_rank}/stderr.log"))
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.strip() and not HARMLESS.search(line)
    ]
    causes = [found.group() for line in lines if (found := CAUSE.search(line))]
    return causes[-1:] or lines[-LAST_LOG_LINES:]


if __name__ == "__main__":
    serve(_answer)
