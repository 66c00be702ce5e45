"""`prune`: what no given experiment refers to, listed or deleted."""

import argparse
import shutil
from pathlib import Path

from miniplm_assets.commands.common import Commands, add_command, open_experiment
from miniplm_assets.core.errors import MiniplmError
from miniplm_assets.lineage.prune import (
    leftovers,
    num_bytes_in,
    referenced,
    remove_leftover,
    unreferenced_curves,
    unreferenced_results,
)
from miniplm_assets.storage.latest import tidy
from miniplm_assets.storage.leases import unused


def add(commands: Commands) -> None:
    """Add the command."""
    prune = add_command(commands, "prune", _prune, "list, or delete, what no given experiment refers to")
    prune.add_argument("experiments", nargs="+", type=Path, help="every experiment whose results are to stay")
    prune.add_argument("--delete", action="store_true", help="delete what is listed")


def _prune(options: argparse.Namespace) -> int:
    pipelines = [open_experiment(path) for path in options.experiments]
    roots = {pipeline.store.root for pipeline in pipelines}
    if len(roots) > 1:
        raise MiniplmError(
            f"the experiments have different warehouses ({', '.join(map(str, roots))}); prune each alone"
        )
    store = pipelines[0].store
    wanted = referenced(pipelines)
    results = unreferenced_results(store, wanted, lambda problem: print(f"left alone: {problem}"))
    for result in results:
        print(f"{result.manifest.num_bytes / 1e6:12,.2f} MB  {result.manifest.created_at}  {result.folder}")
    unfinished = leftovers(store, wanted)
    for leftover in unfinished:
        print(f"{leftover.num_bytes / 1e6:12,.2f} MB  {'never finished':25}  {leftover.folder}")
    curves = unreferenced_curves(store, wanted)
    for folder in curves:
        print(f"{num_bytes_in(folder) / 1e6:12,.2f} MB  {'curves for TensorBoard':25}  {folder}")
    num_bytes = sum(result.manifest.num_bytes for result in results)
    print(
        f"{len(results)} results that no given experiment refers to, {num_bytes / 1e6:,.2f} MB; "
        f"{len(unfinished)} leftovers, {sum(leftover.num_bytes for leftover in unfinished) / 1e6:,.2f} MB; "
        f"{len(curves)} curves of others, {sum(map(num_bytes_in, curves)) / 1e6:,.2f} MB"
    )
    if options.delete:
        with unused(store.root):
            for result in results:
                store.remove(result)
            for folder in curves:
                shutil.rmtree(folder)
            in_use = [leftover.folder for leftover in unfinished if not remove_leftover(store, leftover)]
            tidy(store.root)
        print("deleted" + "".join(f"\nin use by now, and left: {folder}" for folder in in_use))
    elif results or unfinished or curves:
        print("nothing was deleted; repeat with --delete")
    return 0
