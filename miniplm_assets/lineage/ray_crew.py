"""A crew of a Ray cluster: each task runs where there is a core for it, and again where that is lost."""

import os
import pickle
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from miniplm_assets.core.errors import CorpusError, StoreError
from miniplm_assets.corpus.cores import NUM_THREADS
from miniplm_assets.corpus.progress import Report
from miniplm_assets.lineage.crew import MAX_LOSSES, Task, empty
from miniplm_assets.lineage.crew_process import portable

# Ray's own: a cluster that somebody else has started, and answers for.
ADDRESS: Final = "RAY_ADDRESS"


def is_cluster_named() -> bool:
    """Whether RAY_ADDRESS names a cluster; else Ray is started on this machine, for one run."""
    return os.environ.get(ADDRESS, "local") != "local"


def cores_of_cluster() -> int:
    """Return how many cores the cluster has, which must be connected."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1)))


class RayCrew:
    """Tasks of Ray, which must be connected.

    Args:
        num_at_once: how many.
        parts: as in `Crew`.
    """

    def __init__(self, num_at_once: int, parts: Mapping[str, int]) -> None:
        import ray

        self.num_at_once = num_at_once
        self.parts = parts
        self._remote = ray.remote(num_cpus=1, max_retries=MAX_LOSSES - 1)(do_task)
        self._lock = threading.Lock()
        self._under_way: set[Any] = set()
        self._is_closed = False

    def do(self, task: Task, piece: str, folder: Path, report: Report) -> Any:
        """Do a task on some node."""
        import ray

        with self._lock:
            if self._is_closed:
                raise CorpusError(f"shard {piece}: the work on it was stopped")
            asked = self._remote.remote(pickle.dumps(task), folder)
            self._under_way.add(asked)
        try:
            content, has_raised, lines = ray.get(asked)
        except ray.exceptions.RayError as loss:
            raise CorpusError(
                f"shard {piece}: {MAX_LOSSES} processes of the Ray cluster in a row were lost that worked on it. They "
                f"may need more memory than a node has. The last was lost so: {type(loss).__name__}: {loss}"
            ) from None
        finally:
            with self._lock:
                self._under_way.discard(asked)
        for line in lines:
            report(line)
        answer = pickle.loads(content)  # noqa: S301 - of our own task
        if has_raised:
            raise answer
        return answer

    def close(self, *, is_at_once: bool = False) -> None:
        """End what is under way."""
        import ray

        with self._lock:
            self._is_closed = True
            under_way = list(self._under_way)
        if is_at_once:
            for asked in under_way:
                ray.cancel(asked, force=True)


def do_task(content: bytes, folder: Path) -> tuple[bytes, bool, list[str]]:
    """Do a task on a node.

    Args:
        content: the task, pickled.
        folder: the draft's.

    Returns:
        What it returns or raises, pickled; whether it raised; its lines.
    """
    os.environ.setdefault(NUM_THREADS, "1")  # a task asks Ray for one core
    lines: list[str] = []
    try:
        if not folder.is_dir():
            raise StoreError(
                f"{folder} is not there on node {os.uname().nodename}; the nodes of a Ray cluster write results into "
                "the warehouse, which must lie at the same path on each, on a shared file system"
            )
        empty(folder)  # of one that was lost
        task: Task = pickle.loads(content)  # noqa: S301 - of our own run
        return pickle.dumps(task(report=lines.append)), False, lines
    except Exception as error:  # noqa: BLE001 - the run raises it
        return portable(error), True, lines
