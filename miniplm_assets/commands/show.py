"""`show`: one asset: its state, its figures, the checks that failed, and the first rows of its table."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from miniplm_assets.commands.common import (
    Commands,
    add_command,
    add_experiment,
    add_json,
    command_line,
    open_experiment,
    terminal_columns,
)
from miniplm_assets.core.words import count, cut, duration, size, table, wrapped
from miniplm_assets.lineage.shown import Shown, show

NUM_ROWS: Final = 3
# Of figures within figures, as of each split and domain: the rest is in the manifest.
MAX_FIGURES: Final = 40
# Of a text in a table whose rows are lines.
CELL_COLUMNS: Final = 40
# Of the numbers of a list.
NUM_SHOWN_VALUES: Final = 6
INDENT: Final = "  "
# As many as the UI shows of a run.
RUN_DIGITS: Final = 8
# What a sequence holds of its text, one for each document.
TEXTS: Final = "texts"


def add(commands: Commands) -> None:
    """Add the command."""
    summary = "show one asset: its state, figures, failed checks, and the first rows of its table"
    command = add_command(commands, "show", _show, summary)
    command.add_argument("key", help="of the asset, such as half/refined_corpus")
    add_experiment(command)
    command.add_argument("--rows", type=int, default=NUM_ROWS, metavar="N", help=f"of its table; default: {NUM_ROWS}")
    add_json(command)


def _show(options: argparse.Namespace) -> int:
    told = show(open_experiment(options.experiment), options.key, num_rows=max(options.rows, 0))
    if options.json:
        content = asdict(told) | {"checks": [check.model_dump() for check in told.checks]}
        print(json.dumps(content, indent=2, default=str))
        return 0
    columns = terminal_columns()
    print("\n\n".join(part for part in _parts(told, columns) if part))
    return 0


def _parts(told: Shown, columns: int) -> Iterator[str]:
    yield wrapped(f"{told.key}: {_state(told)}", columns) + "\n" + wrapped(told.description, columns)
    yield wrapped(told.caution, columns)
    yield "\n".join(wrapped(reason, columns, INDENT) for reason in told.reasons)
    words = {name: value for name, value in told.facts.items() if isinstance(value, str) and len(value) > CELL_COLUMNS}
    yield from (wrapped(text.replace("**", ""), columns) for text in words.values())
    yield from _figures({name: value for name, value in told.facts.items() if name not in words}, columns)
    yield _checks(told, columns)
    if told.rows and dict(told.rows[0]) != dict(told.facts):  # of one row, which is its figures
        yield f"The first {len(told.rows)} of {told.num_rows:,} rows:\n{in_rows(told.rows, columns)}"
    yield _places(told)


def _state(told: Shown) -> str:
    state = told.state
    if told.num_results > 1:
        state += f", {told.num_stored} of {told.num_results} results"
    if told.made_at is None:
        return f"{state}; materialise it: {command_line('plan')} says what that costs"
    rows = f"{told.num_rows:,} rows, " if told.num_rows else ""
    made = told.made_at.replace("T", " ").replace("+00:00", " UTC")
    by = f" by run {', '.join(run[:RUN_DIGITS] for run in told.runs)}" if told.runs else ""
    return f"{state}; {rows}{size(told.num_bytes)}, made {made} in {duration(told.seconds)}{by}"


def _figures(facts: Mapping[str, Any], columns: int) -> Iterator[str]:
    """Go through what was reported: numbers by their names, then tables."""
    grids = {name: grid for name, value in facts.items() if (grid := _grid(name, value))}
    flat = dict(_flat({name: value for name, value in facts.items() if name not in grids}))
    rows: dict[str, list[Any]] = {name: value for name, value in flat.items() if isinstance(value, list)} | grids
    figures = [(name, figure(name, value)) for name, value in flat.items() if name not in rows]
    if figures:
        width = min(max(len(name) for name, _ in figures), columns // 2)
        lines = [f"{name:{width}}{INDENT}{cut(text, columns)}" for name, text in figures[:MAX_FIGURES]]
        if len(figures) > MAX_FIGURES:
            lines.append(f"and {len(figures) - MAX_FIGURES} more: --json")
        yield "\n".join(lines)
    for name, listed in rows.items():
        if listed and isinstance(listed[0], dict):
            yield f"{name}:\n{_some_rows(listed, columns)}"
        elif listed:
            yield wrapped(f"{name}: {', '.join(map(str, listed[:MAX_FIGURES]))}", columns)


def _grid(name: str, value: Any) -> list[dict[str, Any]]:
    """Return figures within figures as rows, such as those of each split and domain; none where they are no table."""
    rows = list(_leaves(value)) if isinstance(value, Mapping) else []
    is_table = len(rows) > 1 and all(row.keys() == rows[0][1].keys() for _, row in rows)
    return [{name: place, **row} for place, row in rows] if is_table else []


def _leaves(value: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Go through the innermost mappings, each with its place."""
    if not any(isinstance(inner, Mapping) for inner in value.values()):
        yield where, value
        return
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _leaves(inner, f"{where}/{name}" if where else name)


def _some_rows(rows: Sequence[Mapping[str, Any]], columns: int) -> str:
    """Return so many rows that the screen holds them."""
    told, num_told = in_rows(rows, columns), len(rows)
    if len(told.splitlines()) > MAX_FIGURES + 1:
        num_told = MAX_FIGURES if in_rows(rows[:1], columns).count("\n") == 1 else NUM_ROWS
        told = in_rows(rows[:num_told], columns)
    return told if num_told >= len(rows) else f"{told}\nand {len(rows) - num_told:,} more: --json"


def _flat(facts: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{where}{name}.")
        else:
            yield f"{where}{name}", value


def _checks(told: Shown, columns: int) -> str:
    failed = [check for check in told.checks if not check.passed]
    if not told.checks:
        return ""
    lines = [f"Checks: {len(told.checks) - len(failed)} of {len(told.checks)} passed"]
    lines += [wrapped(f"failed: {check.name}. {check.description}", columns, INDENT) for check in failed]
    return "\n".join(lines)


def _places(told: Shown) -> str:
    lines = [f"Folder: {folder}" for folder in told.folders[:1]]
    if len(told.folders) > 1:
        lines[0] += f" and {len(told.folders) - 1} more"
    if told.latest is not None:
        lines.append(f"Latest: {told.latest}")
    return "\n".join(lines)


def in_rows(rows: Sequence[Mapping[str, Any]], columns: int) -> str:
    """Return rows as a table where that fits; else the first of them one under the other, each value cut to a line."""
    told = [{name: _on_a_line(figure(name, value)) for name, value in _with_text(row).items()} for row in rows]
    names = list(dict.fromkeys(name for row in told for name in row))
    told = [{name: row.get(name, "-") for name in names} for row in told]
    if all(len(text) <= CELL_COLUMNS for row in told for text in row.values()):
        lined = table(names, [list(row.values()) for row in told], columns)
        if max(map(len, lined.splitlines())) <= columns:
            return lined
    width = max(map(len, names))
    blocks = [
        "\n".join(f"{INDENT}{name:{width}}{INDENT}{cut(text, columns - width - 4)}" for name, text in row.items())
        for row in told
    ]
    return "\n\n".join(blocks)


def _on_a_line(text: str) -> str:
    return " ".join(text.split())


def _with_text(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with its text as a person reads it."""
    shown = dict(row)
    if isinstance(shown.get(TEXTS), list) and "text" not in shown:
        shown["text"] = "\n\n".join(shown.pop(TEXTS))
    return shown


def figure(name: str, value: Any) -> str:
    """Return a value as text: numbers with separators and the unit that their name says, a list by its first values."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case list():
            first = ", ".join(str(one) for one in value[:NUM_SHOWN_VALUES])
            return f"[{first}]" if len(value) <= NUM_SHOWN_VALUES else f"[{first}, … {len(value):,} values]"
        case int() | float() if name.endswith("_bytes") and value >= 0:
            return size(value)
        case int() if name.endswith("_id") or name == "seed":
            return str(value)
        case int() | float() if name.endswith("flops"):
            return count(value)
        case int():
            return f"{value:,}"
        case float() if name.endswith("seconds"):
            return duration(value)
        case float() if "share" in name or "fraction" in name:
            return f"{value:.1%}"
        case float():
            return f"{value:,.0f}" if abs(value) >= 1e4 and value.is_integer() else f"{value:.4g}"
        case _:
            return str(value)
