"""`outcome`: which student is better, and where to look."""

import argparse
import json
from dataclasses import asdict

from miniplm_assets.commands.common import (
    Commands,
    add_command,
    add_experiment,
    add_json,
    command_line,
    open_experiment,
    terminal_columns,
)
from miniplm_assets.lineage.outcome import LABEL_COLUMNS, outcome_of

# What a person asks next: what was kept.
REFINED_CORPUS = "refined_corpus"


def add(commands: Commands) -> None:
    """Add the command."""
    command = add_command(commands, "outcome", _outcome, "say which student is better, and where to look")
    add_experiment(command)
    add_json(command)


def _outcome(options: argparse.Namespace) -> int:
    pipeline = open_experiment(options.experiment)
    told = outcome_of(pipeline)
    if options.json:
        print(json.dumps(asdict(told), indent=2))
        return 0
    print(told.in_words(terminal_columns()))
    refined = next((key for key, node in pipeline.graph.items() if node.kind.name == REFINED_CORPUS), None)
    if refined is not None:
        file = [] if options.experiment is None else [str(options.experiment)]
        print(f"{'Next:':{LABEL_COLUMNS}}{command_line('show', refined, *file)}")
    return 0
