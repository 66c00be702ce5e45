"""What goes wrong with a warehouse, in words that say what to do."""

import errno
import os
from pathlib import Path
from typing import Final

from miniplm_assets.core.errors import StoreError

# The system's word to a user who may not, and on a file system that is mounted for reading alone.
NOT_PERMITTED: Final = (errno.EACCES, errno.EPERM, errno.EROFS)


def not_permitted(path: object, error: OSError) -> StoreError:
    """Return the error of a user who may not read or write something of a warehouse.

    Args:
        path: what was to be read or written.
        error: what the system said of that.
    """
    return StoreError(
        f"{path} cannot be read or written by user {os.getuid()} ({error.strerror}). Give this user the rights, run as "
        "the one who has them, or set MINIPLM_WAREHOUSE to another folder."
    )


def explain_fault(error: BaseException, what: str, root: Path) -> None:
    """Raise a StoreError where an error says that the warehouse cannot be written; else note where it happened.

    Libraries tell of a full disk in errors of their own, in which the system's words stand.

    Args:
        error: that was raised.
        what: was being made.
        root: of the warehouse.

    Raises:
        StoreError: with what to do.
    """
    code = error.errno if isinstance(error, OSError) else None
    words = str(error)
    if code in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in words or "os error 28" in words:
        raise StoreError(
            f"{what}: the disk of the warehouse {root} is full. Free some space (`prune` lists what no "
            "experiment needs) and start again: what is stored stays, and the work goes on where it stopped."
        ) from error
    if isinstance(error, OSError) and code in NOT_PERMITTED:
        raise StoreError(
            f"{what}: the warehouse {root} cannot be written ({error.strerror}: {error.filename}). Give "
            "this user write access, or set MINIPLM_WAREHOUSE to a folder that can be written."
        ) from error
    error.add_note(f"while making {what} in the warehouse {root}; what was stored before stays")
