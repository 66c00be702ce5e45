"""Numbers as a reader takes them in: never more digits than are told apart, always with the unit somewhere."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import polars as pl

from miniplm_assets.evaluation.report.blocks import Cell, Column, Number, Source, Table

NOT_THERE: Final = "–"  # noqa: RUF001 - a dash is meant
MAX_ROWS: Final = 60
MAX_CELL_CHARACTERS: Final = 200


def nats(value: float | None) -> Cell:
    """Return a loss, or bits a byte: what prints alike at three digits is not told apart here."""
    return NOT_THERE if value is None else Number(value, f"{value:.3f}")


def count(value: float | None) -> Cell:
    """Return a whole number."""
    return NOT_THERE if value is None else Number(value, f"{value:,.0f}")


def share(value: float | None) -> Cell:
    """Return a share in per cent."""
    return NOT_THERE if value is None else Number(value, f"{100 * value:.1f} %")


def times(factor: float, more: str = "") -> Cell:
    """Return how many times fewer."""
    return Number(factor, f"{factor:.2f} times fewer{more}")


def flops(value: float | None) -> Cell:
    """Return floating-point operations."""
    if value is None:
        return NOT_THERE
    return Number(value, f"{value:.2e}" if value else "0")


def any_cell(name: str, value: Any) -> Cell:
    """Return a value of a table that this report knows nothing of, by the habits of column names and its type."""
    match value:
        case None:
            return NOT_THERE
        case bool():
            return "yes" if value else "no"
        case int():
            return Number(value, str(value) if name == "seed" or name.endswith("_id") else f"{value:,}")
        case float():
            if "share" in name or name.endswith("_fraction"):
                return share(value)
            return flops(value) if name.endswith("flops") else Number(value, f"{value:,.5g}")
        case list() | tuple():
            return _cut(", ".join(str(one) for one in value))
        case _:
            return _cut(str(value))


def any_table(
    frame: pl.DataFrame,
    *,
    caption: str,
    note: str,
    about: Mapping[str, str],
    sources: Iterable[Source],
    left_out: Iterable[str] = (),
    is_folded: bool = True,
) -> Table:
    """Return a table that this report knows nothing of, as it is stored.

    Args:
        frame: the rows.
        caption: what it shows.
        note: more of that.
        about: descriptions of its columns.
        sources: where it is read from.
        left_out: columns that are not shown.
        is_folded: whether it is unfolded by the reader alone.
    """
    hidden = set(left_out)
    names = [name for name in frame.columns if name not in hidden]
    more = f", of which the first {MAX_ROWS} are shown" if frame.height > MAX_ROWS else ""
    return Table(
        caption=caption,
        columns=[Column(name.replace("_", " "), about.get(name, "")) for name in names],
        rows=[[any_cell(name, row[name]) for name in names] for row in frame.head(MAX_ROWS).iter_rows(named=True)],
        sources=tuple(sources),
        note=f"{note} {frame.height:,} row{'' if frame.height == 1 else 's'}{more}.",
        is_folded=is_folded,
    )


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CELL_CHARACTERS else f"{text[:MAX_CELL_CHARACTERS]} …"
