"""`plan`: what is stored, what would run and why, and what it would cost."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from miniplm_assets.commands.common import (
    Commands,
    add_command,
    add_experiment,
    add_json,
    open_experiment,
    terminal_columns,
)
from miniplm_assets.commands.reasons import in_groups
from miniplm_assets.core.words import count, duration, size, table, wrapped
from miniplm_assets.lineage.plan import (
    ACCELERATOR_FLOPS_PER_SECOND,
    PlannedAsset,
    plan,
    remade_by_a_new_file,
    require_possible,
)
from miniplm_assets.lm.device_speed import DeviceSpeed


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
    # Of what is stored, too, there may be something to say: that the corpus cannot be looked at now, what seeds tell.
    for line in [f"{one.key}: {reason}" for one in planned if one.is_complete for reason in one.reasons]:
        print(f"\n{wrapped(line, columns)}")
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
    told = in_groups({one.key: one.reasons for one in left}, columns)
    if not told:
        return wrapped("Why: nothing of this corpus is known to be stored.", columns)
    return f"Why, and what to know before:\n{told}"


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
