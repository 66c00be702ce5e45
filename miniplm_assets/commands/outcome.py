"""`outcome`: which student is better, and where to look."""

import argparse

from miniplm_assets.commands.common import Commands, add_command, add_experiment, open_experiment
from miniplm_assets.lineage.outcome import outcome


def add(commands: Commands) -> None:
    """Add the command."""
    command = add_command(commands, "outcome", _outcome, "say which student is better, and where to look")
    add_experiment(command)


def _outcome(options: argparse.Namespace) -> int:
    print(outcome(open_experiment(options.experiment)))
    return 0
