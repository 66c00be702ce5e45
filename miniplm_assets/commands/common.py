"""What commands share: the experiment that they are about."""

import argparse
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, TypeAlias

from miniplm_assets.kinds.registry import EXPERIMENT_VARIABLE, open_chosen
from miniplm_assets.lineage.pipeline import Pipeline

# Runs a command; returns 0 where all is well, 1 where something was found.
Run: TypeAlias = Callable[[argparse.Namespace], int]
# A table of keys and figures can hardly be read in fewer, and words in wider lines are hard to follow.
MIN_COLUMNS: Final = 60
MAX_COLUMNS: Final = 120


class Commands(Protocol):
    """Where a command is added: what `ArgumentParser.add_subparsers` returns."""

    def add_parser(self, name: str, *, help: str, description: str) -> argparse.ArgumentParser:  # noqa: A002
        """Return the parser of a new command."""


def add_command(commands: Commands, name: str, run: Run, summary: str) -> argparse.ArgumentParser:
    """Add a command, and return its parser, for its own options."""
    command = commands.add_parser(name, help=summary, description=summary)
    command.set_defaults(run=run)
    return command


def add_experiment(command: argparse.ArgumentParser) -> None:
    """Let a command take an experiment file, or none: then it is that of the environment, or the demo."""
    command.add_argument("experiment", nargs="?", type=Path, help=f"default: {EXPERIMENT_VARIABLE}, else the demo")


def open_experiment(experiment: Path | None) -> Pipeline:
    """Open the experiment that a command is about, to look at it: nothing is written."""
    return open_chosen(experiment).looked_at()


def add_json(command: argparse.ArgumentParser) -> None:
    """Let a command answer a program."""
    command.add_argument("--json", action="store_true", help="for a program")


def terminal_columns() -> int:
    """Return how many columns there are for text: those of the terminal, or of COLUMNS; 80 where nobody says."""
    return min(max(shutil.get_terminal_size((80, 24)).columns, MIN_COLUMNS), MAX_COLUMNS)


def command_line(*words: str) -> str:
    """Return how a command is called from here: by the Python of the clone, where its environment is not active."""
    own, python = Path(sys.prefix), "python"
    if "VIRTUAL_ENV" not in os.environ and own.parent == Path.cwd():
        python = f"{own.name}/bin/python"
    return " ".join([python, "-m", "miniplm_assets", *words])
