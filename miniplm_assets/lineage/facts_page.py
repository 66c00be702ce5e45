"""The page of a kind that says nothing of its own: its facts, sentences first, then tables, then single figures."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import polars as pl
import polars.selectors as cs

from miniplm_assets.core.facts import NO_FIGURES
from miniplm_assets.lineage.page import MAX_COLUMNS, Cell, Entry, Page, Rows, Words

if TYPE_CHECKING:
    from miniplm_assets.lineage.work import Work
    from miniplm_assets.storage.store import Result

# A larger table is for SQL.
MAX_TABLE_ROWS: Final = 60
# Of a larger one of which nothing else is told.
NUM_FIRST_ROWS: Final = 5
FIGURES: Final = "figures"


def page_of_table(work: "Work[Any]", result: "Result") -> Page:
    """Return a page of what a result reports, and of its table where that is small and no fact shows its rows."""
    kind = work.node.kind
    meanings = {check.description for check in kind.checks}
    found = [one.description for one in result.manifest.checks if one.description and one.description not in meanings]
    page = page_of_facts(({"checks": "; ".join(found)} if found else {}) | result.facts)
    shows_rows = any(isinstance(value, list) for value in result.facts.values())
    files = [] if kind.table is None or kind.pieces or shows_rows else result.described(kind.table)
    if not 0 < sum(file.num_rows or 0 for file in files) <= MAX_TABLE_ROWS:
        return page if page.outcome.keys() - {FIGURES} else Page(outcome={**page.outcome, **_beginning(work, result)})
    tables: dict[str, Entry] = {}
    for file in files:
        rows = pl.read_parquet(result.folder / file.name, glob=False)
        entry = entry_of(
            rows.select(
                cs.exclude(cs.nested(), cs.ends_with("_id"), cs.by_name("fingerprint", require_all=False))
            ).to_dicts()
        )
        if entry is not None:
            tables[in_words(file.name.removesuffix(".parquet"))] = entry
    return Page(outcome={**tables, **page.outcome}, made_of=page.made_of)


def _beginning(work: "Work[Any]", result: "Result") -> dict[str, Entry]:
    """Return how a table begins of which facts tell figures at most; of one in pieces, the first of them."""
    ids = cs.ends_with("_id") & cs.by_dtype(pl.Int64)  # hashes, which tell a person nothing
    for one in results_of(work, result):
        for path in one.matching(work.node.kind.table or ""):
            rows = pl.scan_parquet(path, glob=False).select(~(cs.nested() | ids)).head(NUM_FIRST_ROWS).collect()
            entry = entry_of(rows.to_dicts())
            if entry is not None:
                return {f"its first {rows.height} rows": entry}
    return {}


def results_of(work: "Work[Any]", result: "Result") -> "Iterator[Result]":
    """Go through the stored results that hold the table of an asset: its own, or those of its pieces."""
    if work.node.kind.pieces is None:
        yield result
        return
    for recipe in work.piece_recipes.values():
        stored = work.pipeline.store.find(recipe)
        if stored is not None:
            yield stored


def page_of_facts(facts: Mapping[str, Any]) -> Page:
    """Return a page of all that a result reports, as far as it can be shown in place."""
    sentences: dict[str, Entry] = {}
    tables: dict[str, Entry] = {}
    figures: list[tuple[Cell, Cell]] = []
    for name, value in facts.items():
        if name in NO_FIGURES:
            continue
        if isinstance(value, int | float):
            figures.append((in_words(name), value))
        elif (entry := entry_of(value)) is not None:
            (sentences if isinstance(entry, str | Words) else tables)[in_words(name)] = entry
    shown: dict[str, Entry] = sentences | tables
    if figures:
        shown[FIGURES] = Rows(("", "value"), figures)
    return Page(outcome=shown)


def entry_of(value: Any) -> Entry | None:
    """Return what a page shows of a fact; None where that is nothing that fits in it."""
    match value:
        case str():
            return Words(value) if "\n" in value or "**" in value else value
        case int() | float():
            return value
        case [dict() as row] if len(row) > MAX_COLUMNS and all(map(_is_cell, row.values())):
            return Rows(("", "value"), [[in_words(name), one] for name, one in row.items()])
        case [dict(), *_]:
            names = [name for name in value[0] if all(_is_cell(row.get(name)) for row in value)][:MAX_COLUMNS]
            return Rows([in_words(name) for name in names], [[row.get(name) for name in names] for row in value])
        case [str() | int() | float(), *_] if all(map(_is_cell, value)):
            return ", ".join(map(str, value))
        case dict() if value and all(map(_is_cell, value.values())):
            return Rows(("", "number"), list(value.items()))
        case dict() if value and all(_is_flat(row) for row in value.values()):
            rows = [{"": name, **row} for name, row in value.items()]
            return entry_of(rows)
    return None


def in_words(name: str) -> str:
    """Return the name of a fact or a column as a person reads it, its unit set off where there is one."""
    for unit in ("nats_per_token", "nats_per_byte", "bits_per_byte"):
        if name.endswith(f"_{unit}"):
            return f"{in_words(name.removesuffix(f'_{unit}'))}, {unit.replace('_per_', ' / ')}"
    return name.removeprefix("num_").replace("_", " ").replace("nll", "loss")


def _is_cell(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _is_flat(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(map(_is_cell, value.values()))
