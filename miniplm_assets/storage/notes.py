"""Small notes of a warehouse: which state of the corpus is the latest, and which is complete."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from miniplm_assets.storage.files import read_note, take_lock, write_note


class Notes(Protocol):
    """The notes of a warehouse, each a JSON value under a name."""

    def read(self, name: str) -> Any:
        """Return a note; None where there is none, or it is damaged."""

    def change(self, name: str, change: Callable[[Any], Any]) -> bool:
        """Write a note in place of the one that is there; nobody writes between its reading and its writing.

        Args:
            name: of the note: a path of the warehouse.
            change: is given the note as `read` returns it, perhaps more than once; returns the new one, None to leave
                it as it is.

        Returns:
            Whether it was written.
        """


class LocalNotes:
    """The notes of a warehouse that is a folder.

    Args:
        root: of the warehouse.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, name: str) -> Any:
        """Return a note; see `Notes`."""
        return read_note(self._root / name)

    def change(self, name: str, change: Callable[[Any], Any]) -> bool:
        """Write a note; see `Notes`."""
        path = self._root / name
        with take_lock(path.with_suffix(".lock"), lambda: None):
            new = change(read_note(path))
            if new is None:
                return False
            write_note(path, new)
        return True
