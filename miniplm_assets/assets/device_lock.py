"""One model at a time on each of a machine's accelerators, whichever runs, Dagster instances and warehouses there are.

The system lets go of the lock when a process ends, however it ends. A pool of Dagster's would keep the place of a run
that was killed, until a daemon frees it; and a run that finds everything stored would wait in it for nothing. On a CPU
there is nothing to lock: models share its cores as everything else does.
"""

import os
import platform
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from miniplm_assets.storage.files import runtime_folder, take_lock, try_lock


@contextmanager
def device_lock(owner: str, report: Callable[[str], None], devices: Iterable[str]) -> Iterator[None]:
    """Have accelerators for this process alone, after those who have them now.

    Args:
        owner: what those are told who wait meanwhile.
        report: told who has one, where somebody has.
        devices: by name; see `devices.visible_devices`.

    Raises:
        StoreError: if there is nowhere to lock.
    """
    with ExitStack() as held:
        for device in sorted(devices):  # all in one order: two that want the same two do not wait for one another
            held.enter_context(_locked(lock_path(device), owner, report))
        yield


def is_free(device: str) -> bool:
    """Whether nobody has an accelerator just now."""
    path = lock_path(device)
    if not path.exists():
        return True
    with path.open("a") as lock:
        return try_lock(lock)


@contextmanager
def _locked(path: Path, owner: str, report: Callable[[str], None]) -> Iterator[None]:
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


def lock_path(device: str) -> Path:
    """Return the lock of an accelerator."""
    # The folder may be one that several machines share.
    return runtime_folder() / f"device-{platform.node()}-{device.replace('/', '-')}.lock"
