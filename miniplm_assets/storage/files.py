"""Files that are complete or invisible: written beside, flushed to the disk, renamed."""

import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Final

# A process that waits in the system's own call for a lock hears of nothing, not even an interrupt.
LOCK_POLL_SECONDS: Final = 0.5
_WILDCARD: Final = re.compile(r"([*?[])")


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


def path_for_duckdb(path: Path) -> str:
    """Return a path as DuckDB's readers take it: they read ``[1]`` and ``*`` in it as a pattern unless told not to."""
    return _WILDCARD.sub(r"[\1]", str(path))


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file in one step: readers see the old one or the new one, never a half."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    flush_to_disk(beside)
    beside.replace(path)
    flush_to_disk(path.parent)


def take_lock(path: Path, on_wait: Callable[[], None]) -> IO[str]:
    """Lock a file for this process alone, after whoever has it now; closing it, or dying, lets go.

    Args:
        path: the file; it is made where it is missing, with its folder. Its holder may remove it.
        on_wait: called where somebody has it.

    Returns:
        The file, open and locked.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("a")
        if not try_lock(lock):
            on_wait()
            while not try_lock(lock):
                time.sleep(LOCK_POLL_SECONDS)
        if _is_still_there(lock, path):
            return lock
        lock.close()  # whoever had it has removed it, so that others would lock another file


def try_lock(file: IO[str]) -> bool:
    """Lock an open file for this process alone; return False where somebody else has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still_there(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
