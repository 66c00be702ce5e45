"""`verify`: every stored file read again, and the selections derived again."""

import argparse
from itertools import chain

from miniplm_assets.commands.common import Commands, add_command, add_experiment, open_experiment
from miniplm_assets.lineage.verify import verify_derived, verify_store


def add(commands: Commands) -> None:
    """Add the command."""
    summary = "re-read every stored file, and derive the selections again from the scores"
    add_experiment(add_command(commands, "verify", _verify, summary))


def _verify(options: argparse.Namespace) -> int:
    pipeline = open_experiment(options.experiment)
    num_problems = 0
    for problem in chain(verify_store(pipeline.store, print), verify_derived(pipeline, print)):
        num_problems += 1
        print(f"WRONG {problem}", flush=True)
    print(f"{num_problems} problems" if num_problems else "all is well")
    return 1 if num_problems else 0
