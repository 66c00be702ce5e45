"""Who uses a warehouse: any number of runs at once, or else one command that deletes.

The system lets go of a lease when its process ends, however it ends.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from miniplm_assets.core.errors import StoreError
from miniplm_assets.storage.faults import NOT_PERMITTED, not_permitted
from miniplm_assets.storage.files import LOCK_POLL_SECONDS, try_lock

# Beside what is stored, hidden from whoever looks for results.
LEASE: Final = ".in-use"


@contextmanager
def in_use(root: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Keep what is stored from being deleted, after whoever deletes now.

    Args:
        root: of the warehouse.
        report: told where somebody deletes, and this one waits.

    Raises:
        StoreError: if this user may not write there, or the file system has no locks.
    """
    with _open(root) as lease:
        if not try_lock(lease, is_shared=True):
            report(f"results of {root} are being deleted; waiting for that")
            while not try_lock(lease, is_shared=True):
                time.sleep(LOCK_POLL_SECONDS)
        yield


@contextmanager
def unused(root: Path) -> Iterator[None]:
    """Have a warehouse for oneself, to delete from it; runs that begin meanwhile wait.

    Raises:
        StoreError: if a run uses it, or this user may not write there.
    """
    with _open(root) as lease:
        if not try_lock(lease):
            raise StoreError(
                f"a run is using the warehouse {root}, and may read what would be deleted; nothing was deleted. Try "
                "again when it has ended."
            )
        yield


def _open(root: Path) -> IO[str]:
    try:
        root.mkdir(parents=True, exist_ok=True)
        return (root / LEASE).open("a")
    except OSError as error:
        if error.errno in NOT_PERMITTED:
            raise not_permitted(root, error) from error
        raise
