"""How many threads and processes there is room for."""

import os
from typing import Final

# The threads that Rayon starts, of which tokenizers' batches are made.
NUM_THREADS: Final = "RAYON_NUM_THREADS"
# And what all libraries read that a process works on a corpus file with.
ALL_NUM_THREADS: Final = (NUM_THREADS, "OMP_NUM_THREADS", "POLARS_MAX_THREADS")


def cores_of_this_process() -> int:
    """Return how many cores this process may use."""
    return len(names_of_cores())


def names_of_cores() -> list[int]:
    """Return the cores that this process may use, by the numbers that the system gives them."""
    affinity = getattr(os, "sched_getaffinity", None)
    return sorted(affinity(0)) if affinity else list(range(os.cpu_count() or 1))
