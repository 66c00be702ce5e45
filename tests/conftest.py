"""What holds for all tests: several processes of them do not stand in each other's way, and long files begin first."""

import os

import pytest
from hypothesis import settings

# Where OpenMP's threads wait for one another they spin, and so keep the cores from the threads that they wait for as
# soon as another process computes too: both are then up to thirty times slower. Read as torch is loaded, and by the
# processes that tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes, the machine decides.
settings.register_profile("no deadline", settings(deadline=None))
settings.load_profile("no deadline")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the files that are marked as long begin: one that began last would go on alone, beside an idle process."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
