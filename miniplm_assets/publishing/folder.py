"""A folder that is complete or not there: written beside its place, and renamed into it."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from miniplm_assets.core.errors import PublishingError
from miniplm_assets.storage.faults import NOT_PERMITTED
from miniplm_assets.storage.files import beside, flush_to_disk

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder to write into; it gets its name once all of it is there and on the disk.

    A process that is killed leaves a hidden folder beside it, `.<name>.<random>`, and nothing under the name itself.

    Args:
        folder: its name; nothing is there yet, or an empty folder.

    Raises:
        PublishingError: if something is there, or nothing can be written there.
    """
    target = folder.resolve()
    require_free(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = beside(target)
        draft.mkdir()
    except OSError as error:
        raise PublishingError(
            f"{folder} cannot be made ({error.strerror}: {error.filename}); name a folder in a place that this user "
            "can write to"
        ) from error
    try:
        yield draft
        _flush(draft)
        _rename(draft, target)
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in _FULL:
            raise PublishingError(
                f"{folder}: the disk is full, and nothing is left of what was written; free some space, or name a "
                "folder on another disk"
            ) from error
        raise


def require_free(folder: Path, *, apart_from: Path | None = None) -> None:
    """Make sure that nothing lies in a place but perhaps an empty folder.

    Args:
        folder: the place.
        apart_from: a folder that it must not lie in: the warehouse.

    Raises:
        PublishingError: if something does, or it lies there.
    """
    if apart_from is not None and folder.resolve().is_relative_to(apart_from.resolve()):
        raise PublishingError(
            f"{folder} lies in the warehouse {apart_from}, which holds results alone; name a folder elsewhere"
        )
    try:
        found = next(folder.iterdir(), None) if folder.is_dir() else None
    except OSError as error:
        if error.errno not in NOT_PERMITTED:
            raise
        raise PublishingError(f"{folder} cannot be looked into ({error.strerror}); name another folder") from error
    if found is not None:
        raise PublishingError(
            f"{folder} is not empty: it holds {found.name}; nothing was written. Name a folder that does not exist "
            "yet, or empty it"
        )
    if folder.exists() and not folder.is_dir():
        raise PublishingError(f"{folder} is a file; name a folder that does not exist yet")


def _rename(draft: Path, target: Path) -> None:
    try:
        draft.rename(target)  # takes the place of an empty folder, and of nothing else
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise PublishingError(f"{target}: somebody else has written there meanwhile; name another folder") from error
    flush_to_disk(target.parent)


def _flush(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        flush_to_disk(path)
    flush_to_disk(folder)
