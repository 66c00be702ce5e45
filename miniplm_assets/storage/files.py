"""Files that are complete or invisible: written beside, flushed to the disk, renamed."""

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

from miniplm_assets.core.errors import StoreError
from miniplm_assets.core.recipe import fingerprint_of
from miniplm_assets.storage.faults import not_permitted

# A process that waits in the system's own call for a lock hears of nothing, not even an interrupt.
LOCK_POLL_SECONDS: Final = 0.5
_WILDCARD: Final = re.compile(r"([*?[])")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush_to_disk(path: Path) -> None:
    """Make a file's content survive a power cut; or a folder's names, where the file system can flush those."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # CIFS and some of FUSE know no flush of a folder: its names are on the disk with its files.
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP, errno.EBADF)):
            raise
    finally:
        os.close(descriptor)


def beside(path: Path) -> Path:
    """Return a name in the same folder, hidden and nobody else's: process ids repeat from container to container."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}")


def path_for_duckdb(path: Path) -> str:
    """Return a path as DuckDB's readers take it: they read ``[1]`` and ``*`` in it as a pattern unless told not to."""
    return _WILDCARD.sub(r"[\1]", str(path))


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file in one step: readers see the old one or the new one, never a half."""
    written = beside(path)
    written.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    flush_to_disk(written)
    written.replace(path)
    flush_to_disk(path.parent)


def write_note(path: Path, content: Any) -> None:
    """Write a JSON file that says by a checksum whether it is whole, in a folder that is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, sealed_note(content))


def read_note(path: Path) -> Any:
    """Return what `write_note` wrote; None where it is missing or damaged, in which case its writer makes it anew.

    Raises:
        StoreError: if this user may not read it: there is one, and nobody should go on as if there were none.
    """
    try:
        return content_of_note(path.read_bytes())
    except PermissionError as error:
        raise not_permitted(path, error) from None
    except OSError:
        return None


def sealed_note(content: Any) -> dict[str, Any]:
    """Return a note with the checksum that says whether it is whole."""
    return {"content": content, "checksum": fingerprint_of(content)}


def content_of_note(note_bytes: bytes) -> Any:
    """Return what a note holds, wherever it lies; None where it is damaged."""
    try:
        note = json.loads(note_bytes)
        return note["content"] if fingerprint_of(note["content"]) == note["checksum"] else None
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def runtime_folder() -> Path:
    """Return a folder that only this user can write, for locks and logs: in /tmp, others could make or hold its files.

    Raises:
        StoreError: if there is none and none can be made.
    """
    user = os.getuid()
    given = (os.environ.get("XDG_RUNTIME_DIR"), f"/run/user/{user}")
    places = [Path(place) for place in given if place and Path(place).is_dir()]
    with suppress(RuntimeError):  # of a user without a home, as in a container
        places.append(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"))
    for place in places:
        folder = place / "miniplm_assets"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = folder.lstat()
        except OSError:  # another place may do
            continue
        if stat.S_ISDIR(status.st_mode) and status.st_uid == user and not status.st_mode & 0o022:
            return folder
    raise StoreError(
        f"no folder for locks and logs that only user {user} can write; set XDG_RUNTIME_DIR to one (mode 0700)"
    )


def take_lock(path: Path, on_wait: Callable[[], None]) -> IO[str]:
    """Lock a file for this process alone, after whoever has it now; closing it, or dying, lets go.

    Args:
        path: the file; it is made where it is missing, with its folder. Its holder may remove it.
        on_wait: called where somebody has it.

    Returns:
        The file, open and locked.

    Raises:
        StoreError: if the file system has no locks.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("a")
        try:
            if not try_lock(lock):
                on_wait()
                while not try_lock(lock):
                    time.sleep(LOCK_POLL_SECONDS)
            if _is_still_there(lock, path):
                return lock
        except BaseException:
            lock.close()
            raise
        lock.close()  # whoever had it has removed it, so that others would lock another file


def try_lock(file: IO[str], *, is_shared: bool = False) -> bool:
    """Lock an open file for this process alone, or share it with others; return False where somebody else has it.

    Raises:
        StoreError: if the file system has no locks.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StoreError(
            f"{file.name} cannot be locked ({error.strerror}): the file system has no locks, so that two runs could "
            "write the same result at once. Mount it with locks, or put the warehouse on one that has them."
        ) from error
    return True


def _is_still_there(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
