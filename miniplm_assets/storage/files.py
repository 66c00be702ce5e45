"""Files that are complete or invisible: written beside, flushed to the disk, renamed."""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Final

# A thread that waits in the system's own call for a lock hears of nothing, not even that its run was stopped.
LOCK_POLL_SECONDS: Final = 0.5


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush_to_disk(path: Path) -> None:
    """Make a file's content, or a folder's names, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file in one step: readers see the old one or the new one, never a half."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    flush_to_disk(beside)
    beside.replace(path)
    flush_to_disk(path.parent)


def wait_for_lock(file: IO[str], on_wait: Callable[[], None], is_stopped: Callable[[], bool] = lambda: False) -> bool:
    """Lock an open file for this process alone, after whoever has it now; closing it, or dying, lets go.

    Args:
        file: to lock.
        on_wait: called once where somebody has it.
        is_stopped: asked again and again while this one waits.

    Returns:
        Whether it is locked; False where this one was stopped.
    """
    if _try_lock(file):
        return True
    on_wait()
    while not _try_lock(file):
        if is_stopped():
            return False
        time.sleep(LOCK_POLL_SECONDS)
    return True


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
