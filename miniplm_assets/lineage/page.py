"""What the page of an asset says of its result, in the order in which a person asks: what came out, what it is made of.

A kind says what is its own (`Kind.page`); how an entry looks, what stands beside it and in which place, whoever shows
it decides, once for all kinds. Nothing here is stored: a page follows from what is.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from miniplm_assets.lineage.work import Work
    from miniplm_assets.storage.store import Result

Cell = str | int | float | bool | None
# More do not fit beside one another at 1280 pixels.
MAX_COLUMNS = 5


@dataclass(frozen=True)
class Rows:
    """A small table.

    Attributes:
        columns: what stands over each, with its unit; at most `MAX_COLUMNS`.
        rows: their cells; numbers as numbers, so that all are written in the same way.
        is_aside: whether it stands behind a button, however short it is.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    is_aside: bool = False

    def __post_init__(self) -> None:
        """Make sure that it fits."""
        assert 0 < len(self.columns) <= MAX_COLUMNS, f"{len(self.columns)} columns: {', '.join(self.columns)}"
        assert all(len(row) == len(self.columns) for row in self.rows), f"a row without {', '.join(self.columns)}"


@dataclass(frozen=True)
class Lines:
    """A small line chart.

    Attributes:
        lines: (x, y) points by name.
        x: what is under the axis, with its unit.
        colours: of the lines by name, where they have some elsewhere too.
    """

    lines: Mapping[str, Sequence[tuple[float, float]]]
    x: str
    colours: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Words:
    """A text in Markdown, which may have several lines."""

    text: str


@dataclass(frozen=True)
class Drawing:
    """Pictures that are as large as they are: the UI shows them behind a button.

    Attributes:
        svgs: whole documents, by what each shows.
    """

    svgs: Mapping[str, str]


Entry = str | int | float | Rows | Lines | Words | Drawing


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a kind says of one result.

    Attributes:
        outcome: what came out, the most wanted first.
        made_of: what went into it.
    """

    outcome: Mapping[str, Entry] = field(default_factory=dict)
    made_of: Mapping[str, Entry] = field(default_factory=dict)

    def words(self) -> Iterator[str]:
        """Yield all that it says in words."""
        for name, entry in (*self.outcome.items(), *self.made_of.items()):
            yield name
            match entry:
                case str():
                    yield entry
                case Words():
                    yield entry.text
                case Rows():
                    yield from entry.columns
                    yield from (cell for row in entry.rows for cell in row if isinstance(cell, str))
                case Lines():
                    yield from (*entry.lines, entry.x)
                case Drawing():
                    yield from entry.svgs


PageOf = Callable[["Work[Any]", "Result"], Page]


def amount(value: float | None, unit: str = "") -> str:
    """Return a number as a person reads it: whole ones with separators, others with four digits."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if abs(value) >= 1e10:  # of FLOPs nobody counts the digits
        return f"{value:.3g} {unit}".rstrip()
    shown = f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 10_000 else f"{value:,.4g}"
    return f"{shown} {unit}".rstrip()


def bytes_in_words(num_bytes: int) -> str:
    """Return a size in a unit of its own: 3.9 MB."""
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes} bytes"


def seconds_in_words(seconds: float) -> str:
    """Return a duration: 0.31 s, 42 s, 3 min 20 s, 5 h 3 min."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def device_time_in_words(seconds: float | None, num_tokens: int) -> str:
    """Return what some tokens took, as a sentence ends: in 20 s of a device, 50 tokens a second; empty: unknown."""
    speed = f", {num_tokens / seconds:,.0f} tokens a second" if seconds else ""
    return "" if seconds is None else f" in {seconds_in_words(seconds)} of a device{speed}"


def percent(part: float | None, whole: float | None = 1) -> str:
    """Return a share: 36.5%."""
    return "" if part is None or not whole else f"{100 * part / whole:.1f}%"
