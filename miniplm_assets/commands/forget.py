"""`forget`: let a stored result be made again."""

import argparse

from miniplm_assets.commands.common import Commands, add_command, add_experiment, open_experiment
from miniplm_assets.lineage.forget import forget, in_words
from miniplm_assets.storage.leases import unused


def add(commands: Commands) -> None:
    """Add the command."""
    command = add_command(commands, "forget", _forget, "set a stored result aside, so that the next run makes it anew")
    command.add_argument("key", help="of the asset, such as large/teacher_scores")
    add_experiment(command)
    command.add_argument("--shard", action="append", default=[], metavar="FILE", help="this corpus file alone")
    command.add_argument("--seed", action="append", default=[], metavar="SEED", help="this seed alone")


def _forget(options: argparse.Namespace) -> int:
    pipeline = open_experiment(options.experiment)
    with unused(pipeline.store.root):
        done = forget(pipeline, pipeline.latest_fingerprints(), options.key, [*options.shard, *options.seed])
    print(in_words(done))
    return 0
