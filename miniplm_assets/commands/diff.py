"""`diff`: two experiments: settings that differ, results that both ask for, what the second costs, and the outcomes."""

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from miniplm_assets.commands.common import Commands, add_command, add_json, open_experiment, terminal_columns
from miniplm_assets.commands.reasons import in_groups
from miniplm_assets.core.words import count, duration, size, table, wrapped
from miniplm_assets.experiment import load_experiment
from miniplm_assets.kinds.registry import WAREHOUSE_VARIABLE
from miniplm_assets.lineage.compared import NOTHING, Compared, Difference, compare
from miniplm_assets.lm.device_speed import DeviceSpeed

# Of a value, such as a whole section that only one of the files has.
MAX_VALUE_CHARACTERS: Final = 60
INDENT: Final = "  "


def add(commands: Commands) -> None:
    """Add the command."""
    summary = "hold two experiments against each other: settings, what is shared, costs, outcomes"
    command = add_command(commands, "diff", _diff, summary)
    command.add_argument("first", type=Path, help="experiment whose results are taken to be stored")
    command.add_argument("second", type=Path, help="experiment that would be run after it")
    add_json(command)
    command.epilog = "Ends with 0 where neither a setting nor a result differs, 1 where something does."


def _diff(options: argparse.Namespace) -> int:
    files = (options.first, options.second)
    first, second = map(open_experiment, files)
    told = compare(first, second, (_settings(files[0]), _settings(files[1])), DeviceSpeed().seconds)
    if options.json:
        print(json.dumps(asdict(told), indent=2, default=str))
    else:
        columns = terminal_columns()
        print("\n\n".join(part for part in _parts(told, files, columns) if part))
    return 0 if told.is_same else 1


def _settings(file: Path) -> dict[str, Any]:
    """Return all settings of a file: anchors and defaults resolved."""
    experiment = load_experiment(file, warehouse=os.environ.get(WAREHOUSE_VARIABLE) or None)
    return experiment.model_dump(mode="json")


def _parts(told: Compared, files: Sequence[Path], columns: int) -> Iterator[str]:
    yield f"{files[0]} -> {files[1]}"
    if told.is_same:
        yield "No setting and no result differs."
        return
    yield _differing(told.settings, columns)
    yield from _results(told, columns)
    yield wrapped(_cost(told), columns)
    yield _losses(told.losses, columns)


def _differing(settings: Sequence[Difference], columns: int) -> str:
    if not settings:
        return "No setting differs."
    lines = [wrapped(f"{one.place}: {_change(one)}", columns, INDENT) for one in settings]
    return "\n".join([f"Settings that differ ({len(settings)}):", *lines])


def _change(one: Difference) -> str:
    """Return what stands in each file; of a whole section, only which has it."""
    if isinstance(one.first, Mapping) or isinstance(one.second, Mapping):
        return f"only in the {'first' if one.second == NOTHING else 'second'}"
    return f"{_value(one.first)} -> {_value(one.second)}"


def _value(value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return text if len(text) <= MAX_VALUE_CHARACTERS else f"{text[: MAX_VALUE_CHARACTERS - 1]}…"


def _results(told: Compared, columns: int) -> Iterator[str]:
    where = "" if told.same_warehouse else ", if they had one warehouse; they have two"
    how = "" if told.is_by_fingerprint else " by what defines them, since a corpus has not been seen"
    yield wrapped(f"Shared, and computed once{where}{how}: {len(told.shared)} assets.", columns)
    if told.changed:
        reasons = in_groups(told.changed, columns) or wrapped(", ".join(told.changed), columns, INDENT)
        yield f"In both, with other results ({len(told.changed)}):\n{reasons}"
    for title, only in (("Only in the first", told.only_first), ("Only in the second", told.only_second)):
        if only:
            yield f"{title} ({len(only)}):\n{wrapped(', '.join(only), columns, INDENT)}"


def _cost(told: Compared) -> str:
    if not told.cost:
        return "Where the first is stored, nothing of the second is left to do."
    flops = sum(one.flops or 0 for one in told.cost)
    seconds = sum(one.seconds or 0 for one in told.cost)
    disk = sum(one.num_bytes or 0 for one in told.cost)
    return (
        f"Where the first is stored, the second makes {len(told.cost)} assets: {count(flops)} FLOPs, "
        f"{duration(seconds)} here, {size(disk)} of disk, as far as it is known."
    )


def _losses(losses: Mapping[str, tuple[float | None, float | None]], columns: int) -> str:
    if not losses:
        return "Neither has an outcome yet."
    rows = []
    for name, (before, after) in losses.items():
        change = "-" if before is None or after is None else f"{after - before:+.4f}"
        rows.append((name, *("-" if one is None else f"{one:.4f}" for one in (before, after)), change))
    title = "Held-out loss, nats a token, the mean of the seeds; each experiment on its own validation split:"
    return f"{wrapped(title, columns)}\n{table(('student', 'first', 'second', 'change'), rows, columns)}"
