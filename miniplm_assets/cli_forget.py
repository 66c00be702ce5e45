"""`python -m miniplm_assets forget KEY`: let a result be made again."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from miniplm_assets.lineage.forget import forget, in_words
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.storage.leases import unused


def add_forget(
    commands: "argparse._SubParsersAction[Any]",
    add_experiment: Callable[[argparse.ArgumentParser], None],
    open_experiment: Callable[[Path | None], Pipeline],
) -> None:
    """Add the command to those of a parser."""
    summary = "set a stored result aside, so that the next run makes it anew"
    command = commands.add_parser("forget", help=summary, description=summary)
    command.add_argument("key", help="of the asset, such as large/teacher_scores")
    add_experiment(command)
    command.add_argument("--shard", action="append", default=[], metavar="FILE", help="this corpus file alone")
    command.add_argument("--seed", action="append", default=[], metavar="SEED", help="this seed alone")

    def run(options: argparse.Namespace) -> int:
        pipeline = open_experiment(options.experiment)
        with unused(pipeline.store.root):
            done = forget(pipeline, pipeline.latest_fingerprints(), options.key, [*options.shard, *options.seed])
        print(in_words(done))
        return 0

    command.set_defaults(run=run)
