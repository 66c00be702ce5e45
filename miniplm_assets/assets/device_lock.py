"""One model at a time on a machine's accelerators, whichever runs, Dagster instances and warehouses there are.

The system lets go of the lock when a process ends, however it ends. A pool of Dagster's would keep the place of a run
that was killed, until a daemon frees it; and a run that finds everything stored would wait in it for nothing. On a CPU
there is nothing to lock: models share its cores as everything else does.
"""

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from miniplm_assets.storage.files import runtime_folder, take_lock


@contextmanager
def device_lock(owner: str, report: Callable[[str], None]) -> Iterator[None]:
    """Have the accelerators that this process sees for itself, after those who have them now.

    Args:
        owner: what those are told who wait meanwhile.
        report: told who has them, where somebody has.

    Raises:
        StoreError: if there is nowhere to lock.
    """
    path = lock_path()

    def tell() -> None:
        holder = path.read_text(encoding="utf-8", errors="replace").strip() or "another run"
        report(f"waiting for the device, which {holder} has; end that run to go on at once ({path} is locked)")

    with take_lock(path, tell) as lock:
        lock.truncate(0)
        now = datetime.now(UTC).isoformat(sep=" ", timespec="seconds")
        lock.write(f"{owner} (process {os.getpid()}, since {now})\n")
        lock.flush()
        try:
            yield
        finally:
            lock.truncate(0)


def lock_path() -> Path:
    """Return the lock of the accelerators that this process sees; processes that see others do not meet."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all").replace("/", "-").replace(",", "-")
    # The folder may be one that several machines share.
    return runtime_folder() / f"devices-{platform.node()}-{visible}.lock"
