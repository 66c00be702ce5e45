"""`verify`: every stored file read again, and the selections derived again."""

import argparse
import json
from collections.abc import Callable
from itertools import chain

from miniplm_assets.commands.common import Commands, add_command, add_experiment, add_json, open_experiment
from miniplm_assets.lineage.verify import verify_derived, verify_store


def add(commands: Commands) -> None:
    """Add the command."""
    summary = "re-read every stored file, and derive the selections again from the scores"
    command = add_command(commands, "verify", _verify, summary)
    add_experiment(command)
    add_json(command)


def _verify(options: argparse.Namespace) -> int:
    pipeline = open_experiment(options.experiment)
    looked_at: list[str] = []
    report: Callable[[str], None] = looked_at.append if options.json else print
    problems = []
    for problem in chain(verify_store(pipeline.store, report), verify_derived(pipeline, report)):
        problems.append(problem)
        if not options.json:
            print(f"WRONG {problem}", flush=True)
    if options.json:
        print(json.dumps({"looked_at": looked_at, "problems": problems}, indent=2))
    else:
        print(f"{len(problems)} problems" if problems else "all is well")
    return 1 if problems else 0
