"""`prune`: what no given experiment refers to, listed or deleted."""

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from miniplm_assets.commands.common import Commands, add_command, add_json, open_experiment
from miniplm_assets.core.errors import MiniplmError
from miniplm_assets.lineage.prune import (
    Leftover,
    left_objects,
    leftovers,
    num_bytes_in,
    referenced,
    remove_leftover,
    remove_objects,
    unreferenced_curves,
    unreferenced_results,
)
from miniplm_assets.storage.bucket.results import LeftObjects
from miniplm_assets.storage.latest import tidy
from miniplm_assets.storage.store import Result, Store


@dataclass(frozen=True)
class _Unwanted:
    """What no given experiment refers to.

    Attributes:
        results: that are whole.
        leftovers: of what was never finished.
        objects: of what was never finished, in a bucket.
        curves: folders of TensorBoard's files, with their bytes.
        left_alone: what is wrong with results whose manifest cannot be read.
    """

    results: Sequence[Result]
    leftovers: Sequence[Leftover]
    objects: Sequence[LeftObjects]
    curves: Sequence[tuple[Path, int]]
    left_alone: Sequence[str]

    def __bool__(self) -> bool:
        return bool(self.results or self.leftovers or self.objects or self.curves)


def add(commands: Commands) -> None:
    """Add the command."""
    prune = add_command(commands, "prune", _prune, "list, or delete, what no given experiment refers to")
    prune.add_argument("experiments", nargs="+", type=Path, help="every experiment whose results are to stay")
    prune.add_argument("--delete", action="store_true", help="delete what is listed")
    add_json(prune)


def _prune(options: argparse.Namespace) -> int:
    store, unwanted = _unwanted(options.experiments)
    if not options.json:
        _list(unwanted)
    in_use = _delete(store, unwanted) if options.delete else []
    if options.json:
        print(json.dumps(_as_json(unwanted, in_use, is_deleted=options.delete), indent=2))
    elif options.delete:
        print("deleted" + "".join(f"\nin use by now, and left: {folder}" for folder in in_use))
    elif unwanted:
        print("nothing was deleted; repeat with --delete")
    return 0


def _unwanted(experiments: Sequence[Path]) -> tuple[Store, _Unwanted]:
    """Return the warehouse of some experiments, and what none of them refers to.

    Raises:
        MiniplmError: if they have different ones.
    """
    pipelines = [open_experiment(path) for path in experiments]
    addresses = {pipeline.store.address for pipeline in pipelines}
    if len(addresses) > 1:
        raise MiniplmError(
            f"the experiments have different warehouses ({', '.join(sorted(addresses))}); prune each alone"
        )
    store, wanted = pipelines[0].store, referenced(pipelines)
    left_alone: list[str] = []
    results = unreferenced_results(store, wanted, left_alone.append)
    curves = [(folder, num_bytes_in(folder)) for folder in unreferenced_curves(store, wanted)]
    return store, _Unwanted(results, leftovers(store, wanted), left_objects(store, wanted), curves, left_alone)


def _list(unwanted: _Unwanted) -> None:
    for problem in unwanted.left_alone:
        print(f"left alone: {problem}")
    for result in unwanted.results:
        print(_line(result.manifest.num_bytes, result.manifest.created_at, result.address))
    for leftover in unwanted.leftovers:
        print(_line(leftover.num_bytes, "never finished", str(leftover.folder)))
    for left in unwanted.objects:
        print(_line(left.num_bytes, "never finished", left.address))
    for folder, num_bytes in unwanted.curves:
        print(_line(num_bytes, "curves for TensorBoard", str(folder)))
    of_results = sum(result.manifest.num_bytes for result in unwanted.results)
    bytes_left = [left.num_bytes for left in unwanted.leftovers] + [left.num_bytes for left in unwanted.objects]
    of_curves = sum(num_bytes for _, num_bytes in unwanted.curves)
    print(
        f"{len(unwanted.results)} results that no given experiment refers to, {of_results / 1e6:,.2f} MB; "
        f"{len(bytes_left)} leftovers, {sum(bytes_left) / 1e6:,.2f} MB; "
        f"{len(unwanted.curves)} curves of others, {of_curves / 1e6:,.2f} MB"
    )


def _line(num_bytes: int, what: str, place: str) -> str:
    return f"{num_bytes / 1e6:12,.2f} MB  {what:25}  {place}"


def _delete(store: Store, unwanted: _Unwanted) -> list[Path]:
    """Delete it; return the folders that somebody uses by now, which stay."""
    with store.unused():
        for result in unwanted.results:
            store.remove(result)
        for left in unwanted.objects:
            remove_objects(store, left)
        for folder, _ in unwanted.curves:
            shutil.rmtree(folder)
        in_use = [leftover.folder for leftover in unwanted.leftovers if not remove_leftover(store, leftover)]
        tidy(store.root)
    return in_use


def _as_json(unwanted: _Unwanted, in_use: Sequence[Path], *, is_deleted: bool) -> dict[str, object]:
    return {
        "results": [
            {
                "folder": result.address,
                "num_bytes": result.manifest.num_bytes,
                "made_at": result.manifest.created_at,
            }
            for result in unwanted.results
        ],
        "leftovers": [
            *({"folder": str(left.folder), "num_bytes": left.num_bytes} for left in unwanted.leftovers),
            *({"folder": left.address, "num_bytes": left.num_bytes} for left in unwanted.objects),
        ],
        "curves": [{"folder": str(folder), "num_bytes": num_bytes} for folder, num_bytes in unwanted.curves],
        "left_alone": list(unwanted.left_alone),
        "in_use_and_left": [str(folder) for folder in in_use],
        "is_deleted": is_deleted,
    }
