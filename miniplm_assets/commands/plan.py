"""`plan`: what is stored, what would run and why, and what it would cost."""

import argparse
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from miniplm_assets.commands.common import (
    Commands,
    add_command,
    add_experiment,
    add_json,
    open_experiment,
    terminal_columns,
)
from miniplm_assets.core.words import count, cut, duration, size, table, wrapped
from miniplm_assets.lineage.fingerprints import RAW_CORPUS
from miniplm_assets.lineage.plan import (
    ACCELERATOR_FLOPS_PER_SECOND,
    PlannedAsset,
    plan,
    remade_by_a_new_file,
    require_possible,
)
from miniplm_assets.lm.device_speed import DeviceSpeed

# What follows from another asset of the plan, and is no reason of its own.
FOLLOWS: Final = re.compile(r"input .+ (changed|is new|is gone)( \(\d+ results\))?")
# Of a reason, such as a whole section that is new: the rest is for a program.
MAX_REASON_CHARACTERS: Final = 160
INDENT: Final = "  "


def add(commands: Commands) -> None:
    """Add the command."""
    summary = "say what is stored, what would run and why, and what it would cost"
    command = add_command(commands, "plan", _plan, summary)
    add_experiment(command)
    add_json(command)


def _plan(options: argparse.Namespace) -> int:
    speed, pipeline = DeviceSpeed(), open_experiment(options.experiment)
    planned = plan(pipeline, speed.seconds)
    require_possible(planned)
    remade = remade_by_a_new_file(pipeline.graph)
    if options.json:
        print(json.dumps(_as_json(planned, remade, speed), indent=2))
        return 0
    columns = terminal_columns()
    left = [one for one in planned if not one.is_complete]
    print(wrapped(_summary(planned, left), columns))
    if left:
        print(f"\n{_table(left, columns)}\n\n{_why(left, columns)}")
        if notes := " ".join(_notes(left, speed)):
            print(f"\n{wrapped(notes, columns)}")
    if remade:
        print(f"\n{wrapped(_dear(remade), columns)}")
    return 0


def _as_json(
    planned: Sequence[PlannedAsset], remade: Mapping[str, Sequence[str]], speed: DeviceSpeed
) -> dict[str, Any]:
    left = [one for one in planned if not one.is_complete]
    is_timed = any(one.seconds is not None and not one.is_measured for one in left)
    return {
        "num_assets": len(planned),
        "num_complete": len(planned) - len(left),
        "flops": sum(one.flops or 0 for one in left),
        "seconds": sum(one.seconds or 0 for one in left),
        "num_bytes": sum(one.num_bytes or 0 for one in left),
        "device": speed.describe() if is_timed else None,
        "assets": [asdict(one) for one in planned],
        "remade_by_a_new_file": dict(remade),
    }


def _summary(planned: Sequence[PlannedAsset], left: Sequence[PlannedAsset]) -> str:
    stored = f"{len(planned) - len(left)} of {len(planned)} assets are stored"
    if not left:
        return f"{stored}; nothing is to do."
    flops = sum(one.flops or 0 for one in left)
    here, there = sum(one.seconds or 0 for one in left), flops / ACCELERATOR_FLOPS_PER_SECOND
    disk = sum(one.num_bytes or 0 for one in left)
    return (
        f"{stored}; the rest takes {flops:.2g} FLOPs: {duration(here)} here, or {duration(there)} of a device that "
        f"does {ACCELERATOR_FLOPS_PER_SECOND:.0e} a second (an H100), and {size(disk)} of disk, as far as it is known."
    )


def _table(left: Sequence[PlannedAsset], columns: int) -> str:
    rows = [
        (
            one.key,
            _to_do(one),
            count(one.num_tokens),
            count(one.flops),
            duration(one.seconds) + ("*" if one.is_measured else ""),
            size(one.num_bytes),
        )
        for one in left
    ]
    return table(("asset", "to do", "tokens", "FLOPs", "time", "disk"), rows, columns)


def _to_do(one: PlannedAsset) -> str:
    """Return how many results are to be made, and of how many where some are stored."""
    if one.num_missing is None:
        return "?"
    return f"{one.num_missing}/{one.num_missing + one.num_stored}" if one.num_stored else str(one.num_missing)


def _why(left: Sequence[PlannedAsset], columns: int) -> str:
    """Return each reason once, with the assets that it holds for; then those that only follow from others here."""
    keys: dict[str, list[str]] = {}
    following = []
    for one in left:
        # The inputs of the listing are files.
        own = [reason for reason in one.reasons if one.key == RAW_CORPUS or not FOLLOWS.fullmatch(reason)]
        for reason in own:
            keys.setdefault(reason, []).append(one.key)
        if one.reasons and not own:
            following.append(one.key)
    parts = [_reason(cut(reason, MAX_REASON_CHARACTERS), those, len(left), columns) for reason, those in keys.items()]
    if following:
        parts.append(_reason("what they are made of is another", following, len(left), columns))
    if not parts:
        return wrapped("Why: nothing of this corpus is known to be stored.", columns)
    return "\n".join(["Why, and what to know before:", *parts])


def _reason(reason: str, keys: Sequence[str], num_left: int, columns: int) -> str:
    if len(keys) == 1:
        return wrapped(f"{keys[0]}: {reason}", columns, INDENT)
    if len(keys) == num_left:
        return wrapped(f"{reason}: all {num_left}", columns, INDENT)
    named = wrapped(", ".join(keys), columns, INDENT * 3)
    return f"{wrapped(f'{reason}: {len(keys)} assets', columns, INDENT)}\n{named}"


def _notes(left: Sequence[PlannedAsset], speed: DeviceSpeed) -> Iterator[str]:
    if any(one.is_measured for one in left):
        yield "Times marked * follow from earlier results of the same shape."
    if any(one.seconds is not None and not one.is_measured for one in left):
        yield f"Times without * follow from what was measured just now: {speed.describe()}."
    if any(None in (one.num_missing, one.seconds, one.num_bytes) for one in left):
        yield "What is not known yet is - or ?."


def _dear(remade: Mapping[str, Sequence[str]]) -> str:
    num_remade = len({key for keys in remade.values() for key in keys})
    return (
        f"A new corpus file will be dear: {', '.join(remade)} learn from every file, so that all of {num_remade} "
        "assets that hold a result for each file are made anew; name some files (shards) to learn from."
    )
