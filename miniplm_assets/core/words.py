"""Numbers with their units, and text and tables that fit so many columns of a terminal."""

import textwrap
from collections.abc import Sequence
from typing import Final

GAP: Final = "  "
_SIZES: Final = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def wrapped(text: str, columns: int, indent: str = "") -> str:
    """Return text with each of its lines broken between words; a word longer than a line, as a path, stays whole.

    Args:
        text: lines and empty lines are kept.
        columns: of the terminal.
        indent: of every line.
    """
    wrapper = textwrap.TextWrapper(
        width=columns,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(wrapper.fill(line) for line in text.splitlines())


def table(header: Sequence[str], rows: Sequence[Sequence[str]], columns: int) -> str:
    """Return a table: the first column a name, the others figures. A name that is too wide has a line of its own.

    Args:
        header: the name of each column.
        rows: a text for each column.
        columns: of the terminal.
    """
    widths = [max(len(row[place]) for row in (header, *rows)) for place in range(len(header))]
    of_figures = sum(width + len(GAP) for width in widths[1:])
    of_names = max(min(widths[0], columns - of_figures), len(header[0]))
    lines = []
    for name, *figures in (header, *rows):
        told = GAP.join(["", *(figure.rjust(width) for figure, width in zip(figures, widths[1:], strict=True))])
        if len(name) > of_names:
            lines += [name, " " * of_names + told]
        else:
            lines.append((name.ljust(of_names) + told).rstrip())
    return "\n".join(lines)


def cut(text: str, columns: int) -> str:
    """Return text on one line of at most so many columns, with an ellipsis where some of it is left out."""
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= columns else f"{one_line[: columns - 1]}…"


def count(number: float | None) -> str:
    """Return a number in three or four digits: ``99.8G``; ``-`` where it is unknown."""
    if number is None:
        return "-"
    if number >= 1e15:
        return f"{number:.1e}".replace("e+", "e")
    for size, unit in _SIZES:
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return f"{number:.0f}"


def size(num_bytes: float | None) -> str:
    """Return a size: ``1.9 GB``; ``-`` where it is unknown."""
    if num_bytes is None:
        return "-"
    for size_, unit in _SIZES:
        if num_bytes >= size_:
            return f"{num_bytes / size_:.1f} {unit}B"
    return f"{num_bytes:.0f} B"


def duration(seconds: float | None) -> str:
    """Return a time in the unit that a person would use: ``3.2 s``, ``12 min``, ``5.1 h``, ``1,204 days``."""
    if seconds is None:
        return "-"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 72 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86_400:,.0f} days"
