"""One model at a time on a machine's devices, whichever runs, Dagster instances and warehouses there are.

The system lets go of the lock when a process ends, however it ends. A pool of Dagster's would keep the place of a run
that was killed, until a daemon frees it; and a run that finds everything stored would wait in it for nothing.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from miniplm_assets.storage.files import take_lock


@contextmanager
def device_lock(report: Callable[[str], None]) -> Iterator[None]:
    """Have the devices that this process sees for itself, after those who have them now.

    Args:
        report: told where somebody has them, and this one waits.
    """
    # Processes that see other devices do not meet.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all").replace("/", "-").replace(",", "-")
    path = Path(tempfile.gettempdir()) / f"miniplm-devices-{os.getuid()}-{visible}.lock"
    waiting = f"another run has a model on the device; waiting for it ({path} is locked)"
    with take_lock(path, lambda: report(waiting)):
        yield
