"""Which fields the rows of a corpus file have: what a message names where the field that was asked for is in none."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from miniplm_assets.corpus.cleaning import storable

# Rows of a file are alike; and of those that are not, nobody reads a longer list.
_ROWS_LOOKED_AT: Final = 200
_MAX_KEYS: Final = 100
_MAX_DEPTH: Final = 4


class RowKeys:
    """The fields of the first rows of a file, nested ones with dots."""

    def __init__(self) -> None:
        self._seen: dict[str, None] = {}
        self._num_rows = 0

    @property
    def names(self) -> list[str]:
        """All that were seen, in the order of the rows."""
        return list(self._seen)

    def note(self, row: Mapping[str, Any]) -> None:
        """Take note of the fields of a row."""
        if self._num_rows < _ROWS_LOOKED_AT:
            self._num_rows += 1
            self.note_all(_fields(row, "", 1))

    def note_all(self, names: Iterable[str]) -> None:
        """Take note of fields."""
        for name in names:
            if len(self._seen) >= _MAX_KEYS:
                return
            self._seen[storable(name)] = None


def _fields(row: Mapping[str, Any], prefix: str, depth: int) -> Iterator[str]:
    for name, value in row.items():
        if isinstance(value, Mapping) and value and depth < _MAX_DEPTH:
            yield from _fields(value, f"{prefix}{name}.", depth + 1)
        else:
            yield f"{prefix}{name}"
