"""How many threads and processes there is room for."""

import os
from typing import Final

# The threads that Rayon starts, of which tokenizers' batches are made.
NUM_THREADS: Final = "RAYON_NUM_THREADS"


def cores_of_this_process() -> int:
    """Return how many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
