"""Who works on corpus files, several at once: processes of this machine, or tasks of a Ray cluster.

Starting a process that has imported what reads and packs takes a second or so of a core. So nobody is asked where
there is one file that cannot be parted, or little to do: then the run's own process does it, file after file.
"""

import os
import pickle
import shutil
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from miniplm_assets.core.errors import CorpusError
from miniplm_assets.corpus.cores import ALL_NUM_THREADS, cores_of_this_process
from miniplm_assets.corpus.progress import Report
from miniplm_assets.experiment import Processing
from miniplm_assets.lineage.work import Work
from miniplm_assets.lm.engine_process import EngineFailure, EngineProcess

# A task that has ended so many processes will end the next one too.
MAX_LOSSES: Final = 2
# A task that waits for a disk or a network says nothing, and nobody ends it: as in the run's own process.
SILENCE_SECONDS: Final = 1e6
# What it does is of no more use to anybody: it ends in a moment.
END_SECONDS: Final = 5.0
WORKER: Final = "miniplm_assets.lineage.crew_process"


class Task(Protocol):
    """What a process does: a function of a module with its arguments (`functools.partial`), which can be pickled."""

    def __call__(self, *, report: Report) -> Any:
        """Do it; what it returns can be pickled, too."""


class Crew(Protocol):
    """Does tasks, several at once.

    Attributes:
        num_at_once: how many.
        parts: among how many of them each corpus file is parted.
    """

    num_at_once: int
    parts: Mapping[str, int]

    def do(self, task: Task, piece: str, folder: Path, report: Report) -> Any:
        """Do a task and return what it returns; from any thread.

        Args:
            task: what is done.
            piece: which corpus file it is for.
            folder: the draft's, which the task writes into.
            report: takes its lines.

        Raises:
            CorpusError: if those who did it were lost, several times.
            Whatever the task raises.
        """

    def close(self, *, is_at_once: bool = False) -> None:
        """End everybody; at once also those who have something to do."""


def open_crew(
    work: Work[Any],
    processing: Processing,
    *,
    num_bytes: Callable[[str], int],
    little_bytes: int,
    is_parted: bool = False,
) -> Crew | None:
    """Return who makes what is missing of an asset in pieces; None where the run's own process is enough.

    Args:
        work: the asset.
        processing: where, and how many at once.
        num_bytes: of a piece, as it is read.
        little_bytes: of all that is missing, which one process has read before others have started.
        is_parted: whether several may work on one corpus file.
    """
    missing = [piece for piece, recipe in work.piece_recipes.items() if not work.pipeline.store.holds(recipe)]
    if not missing:
        return None
    if is_on_ray := processing.engine == "ray":
        from miniplm_assets.lineage.ray_crew import RayCrew, cores_of_cluster

        work.run.connect_ray()
        num_cores = cores_of_cluster()
    else:
        num_cores = cores_of_this_process()
    num_processes = processing.num_processes or num_cores
    bytes_of = {piece: num_bytes(piece) for piece in missing}
    parts = parts_of(bytes_of, num_processes) if is_parted else dict.fromkeys(missing, 1)
    num_at_once = min(num_processes, sum(parts.values()))
    if is_on_ray:
        return RayCrew(num_at_once, parts)
    is_little = processing.num_processes is None and sum(bytes_of.values()) < little_bytes
    if num_at_once == 1 or is_little:
        return None
    files = "1 corpus file is" if len(missing) == 1 else f"{len(missing)} corpus files are"
    work.report(f"{work.node.key}: {files} made by {num_at_once} processes")
    return LocalCrew(num_at_once, parts, threads_of_each=max(1, num_cores // num_at_once))


def parts_of(num_bytes: Mapping[str, int], num_processes: int) -> dict[str, int]:
    """Return among how many processes each corpus file is best parted: one, but for files larger than a fair share.

    Args:
        num_bytes: of each file.
        num_processes: that there are for all of them.
    """
    fair_share = max(1, sum(num_bytes.values())) / num_processes
    # What is a quarter larger is worth the second reading that another process takes.
    return {piece: max(1, min(num_processes, int(size / fair_share + 0.75))) for piece, size in num_bytes.items()}


class LocalCrew:
    """Processes of this machine, started as they are needed. They end with the run, however that ends.

    Args:
        num_at_once: how many.
        parts: as in `Crew`.
        threads_of_each: what libraries may start in each of them.
    """

    def __init__(self, num_at_once: int, parts: Mapping[str, int], *, threads_of_each: int) -> None:
        self.num_at_once = num_at_once
        self.parts = parts
        self._environment = dict(os.environ) | dict.fromkeys(ALL_NUM_THREADS, str(threads_of_each))
        self._lock = threading.Lock()
        self._free: list[EngineProcess] = []
        self._busy: set[EngineProcess] = set()
        self._is_closed = False

    def do(self, task: Task, piece: str, folder: Path, report: Report) -> Any:
        """Do a task in a process; in a new one where that is lost."""
        content = pickle.dumps(task)
        last_loss: EngineFailure | None = None
        for _ in range(MAX_LOSSES):
            process = self._take()
            try:
                answer = _ask(process, content, report)
            except EngineFailure as loss:
                with self._lock:
                    self._busy.discard(process)
                    if self._is_closed:
                        raise
                report(f"{piece}: the process that worked on it was lost, and it is done again: {loss}")
                empty(folder)
                last_loss = loss
                continue
            with self._lock:
                self._busy.discard(process)
                self._free.append(process)
            return answer()
        raise CorpusError(
            f"shard {piece}: {MAX_LOSSES} processes in a row were lost that worked on it. They may need more memory "
            f"than there is: lower processing.num_processes. The last was lost so: {last_loss}"
        )

    def _take(self) -> EngineProcess:
        with self._lock:
            if self._is_closed:
                raise EngineFailure("the processes have ended, as they were told to")
            process = self._free.pop() if self._free else EngineProcess(WORKER, {}, environment=self._environment)
            self._busy.add(process)
        return process

    def close(self, *, is_at_once: bool = False) -> None:
        """End the processes."""
        with self._lock:
            self._is_closed = True
            free, busy = [*self._free], [*self._busy]
        for process in free:  # has nothing to lose
            process.end(patience_seconds=0.0)
        for process in busy:
            process.end(patience_seconds=0.0 if is_at_once else END_SECONDS)


def _ask(process: EngineProcess, task: bytes, report: Report) -> Callable[[], Any]:
    """Let a process do a task; return what returns what it returned, or raises what it raised.

    Raises:
        EngineFailure: if the process is lost.
    """
    process.send({"task": True}, task)
    while "line" in (message := process.receive(silence_seconds=SILENCE_SECONDS)):
        report(message["line"])
    answer = pickle.loads(process.receive_bytes())  # noqa: S301 - of our own process
    return partial(_raise, answer) if message["has_raised"] else partial(_return, answer)


def _raise(error: BaseException) -> Any:
    raise error


def _return(answer: Any) -> Any:
    return answer


def empty(folder: Path) -> None:
    """Remove the files that a lost process has left in a draft."""
    for path in folder.iterdir():
        if path.is_dir():  # of a DuckDB that had no more room in memory
            shutil.rmtree(path)
        else:
            path.unlink()
