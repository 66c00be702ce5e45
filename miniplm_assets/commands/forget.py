"""`forget`: let a stored result be made again."""

import argparse
import json

from miniplm_assets.commands.common import Commands, add_command, add_experiment, add_json, open_experiment
from miniplm_assets.lineage.forget import forget, in_words


def add(commands: Commands) -> None:
    """Add the command."""
    command = add_command(commands, "forget", _forget, "set a stored result aside, so that the next run makes it anew")
    command.add_argument("key", help="of the asset, such as large/teacher_scores")
    add_experiment(command)
    command.add_argument("--shard", action="append", default=[], metavar="FILE", help="this corpus file alone")
    command.add_argument("--seed", action="append", default=[], metavar="SEED", help="this seed alone")
    add_json(command)


def _forget(options: argparse.Namespace) -> int:
    pipeline = open_experiment(options.experiment)
    with pipeline.store.unused():
        done = forget(pipeline, pipeline.latest_fingerprints(), options.key, [*options.shard, *options.seed])
    if options.json:
        again = [{"key": recipe.key, "shard": recipe.shard, "fingerprint": recipe.fingerprint} for recipe in done.again]
        waiting = [{"key": manifest.key, "fingerprint": manifest.fingerprint} for manifest in done.waiting]
        print(json.dumps({"again": again, "waiting": waiting}, indent=2))
    else:
        print(in_words(done))
    return 0
