"""`plan`: what is stored, what would run and why, and what it would cost."""

import argparse
from collections.abc import Sequence

from miniplm_assets.commands.common import Commands, add_command, add_experiment, open_experiment
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
    add_experiment(add_command(commands, "plan", _plan, summary))


def _plan(options: argparse.Namespace) -> int:
    speed, pipeline = DeviceSpeed(), open_experiment(options.experiment)
    planned = plan(pipeline, speed.seconds)
    require_possible(planned)
    print(f"{'asset':44} {'stored':>7} {'to do':>6} {'tokens':>9} {'FLOPs':>8} {'time':>9} {'disk':>9}")
    for one in planned:
        todo = "?" if one.num_missing is None else str(one.num_missing)
        print(
            f"{one.key:44} {one.num_stored:>7} {todo:>6} {_count(one.num_tokens):>9} {_count(one.flops):>8} "
            f"{_duration(one):>9} {_count(one.num_bytes):>8}B"
        )
        for reason in one.reasons:
            print(f"    {reason}")
    left = [one for one in planned if not one.is_complete]
    print("\n" + _summary(planned, left))
    if any(one.seconds is not None and not one.is_measured for one in left):
        print(f"Times without * follow from what was measured just now: {speed.describe()}.")
    remade = remade_by_a_new_file(pipeline.graph)
    if remade:
        num_remade = len({key for keys in remade.values() for key in keys})
        print(
            f"A new corpus file will be dear: {', '.join(remade)} learn from every file, so that all of {num_remade} "
            "assets that hold a result for each file are made anew; name some files (shards) to learn from."
        )
    return 0


def _summary(planned: Sequence[PlannedAsset], left: Sequence[PlannedAsset]) -> str:
    stored = f"{len(planned) - len(left)} of {len(planned)} assets are stored"
    if not left:
        return f"{stored}; nothing is to do."
    flops = sum(one.flops or 0 for one in left)
    here, there = sum(one.seconds or 0 for one in left), flops / ACCELERATOR_FLOPS_PER_SECOND
    return (
        f"{stored}; the rest takes {flops:.2g} FLOPs: {_time(here)} here, or {_time(there)} of a device that does "
        f"{ACCELERATOR_FLOPS_PER_SECOND:.0e} a second (an H100).\n"
        "Times marked * follow from earlier results of the same shape; - is not known yet."
    )


def _count(number: float | None) -> str:
    if number is None:
        return "-"
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 1e15:
            return f"{number:.1e}".replace("e+", "e")
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return f"{number:.0f}"


def _duration(one: PlannedAsset) -> str:
    return "-" if one.seconds is None else _time(one.seconds) + ("*" if one.is_measured else "")


def _time(seconds: float) -> str:
    return f"{seconds / 3600:,.1f}h" if seconds >= 3600 else f"{seconds:,.1f}s"
