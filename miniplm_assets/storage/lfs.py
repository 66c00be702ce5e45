"""Pointers of git-lfs: what lies in a clone in the place of a large file that was not fetched."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from miniplm_assets.core.errors import ModelError

BEGINNING: Final = b"version https://git-lfs.github.com/spec/"


def refuse_pointers(files: Iterable[Path], named: str) -> None:
    """Make sure that files are there themselves.

    Args:
        files: to look at.
        named: where they came from, for the message.

    Raises:
        ModelError: naming the first that is a pointer.
    """
    for path in files:
        with path.open("rb") as file:
            is_pointer = file.read(len(BEGINNING)) == BEGINNING
        if is_pointer:
            raise ModelError(
                f"{named}: {path.name} is a pointer of git-lfs ({path.stat().st_size} bytes), not the file itself; run "
                "`git lfs pull` in the clone, or download it again with `hf download`"
            )
