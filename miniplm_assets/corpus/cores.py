"""How many threads and processes there is room for."""

import os
from pathlib import Path
from typing import Final

import psutil

# The threads that Rayon starts, of which tokenizers' batches are made.
NUM_THREADS: Final = "RAYON_NUM_THREADS"
# And what all libraries read that a process works on a corpus file with.
ALL_NUM_THREADS: Final = (NUM_THREADS, "OMP_NUM_THREADS", "POLARS_MAX_THREADS")
MEMORY_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")


def cores_of_this_process() -> int:
    """Return how many cores this process may use."""
    return len(names_of_cores())


def names_of_cores() -> list[int]:
    """Return the cores that this process may use, by the numbers that the system gives them."""
    affinity = getattr(os, "sched_getaffinity", None)
    return sorted(affinity(0)) if affinity else list(range(os.cpu_count() or 1))


def memory_of_this_machine(limit: Path = MEMORY_LIMIT) -> int:
    """Return the bytes of memory of this machine, or of the container that this process is in, if that has fewer.

    Args:
        limit: the file in which Linux says what a container has.
    """
    said = limit.read_text().strip() if limit.exists() else ""
    total = int(psutil.virtual_memory().total)
    return min(total, int(said)) if said.isdecimal() else total
