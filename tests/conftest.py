"""What holds for all tests: they write into memory, their processes leave each other alone, long files begin first."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# Where OpenMP's threads wait for one another they spin, and so keep the cores from the threads that they wait for as
# soon as another process computes too: both are then up to thirty times slower. Read as torch is loaded, and by the
# processes that tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Else Ray's processes give way to all others, and wait for the tests beside them.
os.environ.setdefault("RAY_worker_niceness", "0")

# Every result is flushed to the disk, as it must be, and a test of a warehouse then waits for the disk for a third of
# its time. In memory a flush costs nothing; what a killed process leaves is the same.
MEMORY = Path("/dev/shm")
MEMORY_BYTES = 8 * 2**30
if (
    MEMORY.is_dir()
    and os.access(MEMORY, os.W_OK)
    and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES
    and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC  # compilers load what they have written
):
    os.environ.setdefault("TMPDIR", str(MEMORY))
    tempfile.tempdir = None  # pytest has asked before

# How long an example takes, the machine decides.
settings.register_profile("no deadline", settings(deadline=None))
settings.load_profile("no deadline")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the files that are marked as long begin: one that began last would go on alone, beside an idle process."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
