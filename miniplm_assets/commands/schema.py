"""`schema`: the JSON schema of experiment files."""

import argparse

from miniplm_assets.commands.common import Commands, add_command
from miniplm_assets.experiment.json_schema import schema_text


def add(commands: Commands) -> None:
    """Add the command."""
    add_command(commands, "schema", _schema, "print the JSON schema of experiment files, which editors complete by")


def _schema(_: argparse.Namespace) -> int:
    print(schema_text(), end="")
    return 0
