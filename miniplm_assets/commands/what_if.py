"""`what-if`: what a selection would keep at another cutoff."""

import argparse
import json

from miniplm_assets.commands.common import Commands, add_command, add_experiment, open_experiment
from miniplm_assets.kinds.what_if import in_words, what_if


def add(commands: Commands) -> None:
    """Add the command."""
    summary = "say what a selection would keep at another cutoff, from its stored scores"
    other = add_command(commands, "what-if", _what_if, summary)
    other.add_argument("selection", help="of the experiment")
    add_experiment(other)
    amount = other.add_mutually_exclusive_group(required=True)
    amount.add_argument("--keep-fraction", type=float, metavar="SHARE", help="of the candidates to keep")
    amount.add_argument("--token-budget", type=int, metavar="TOKENS", help="to keep the best until they hold so many")
    other.add_argument("--within-domains", action="store_true", help="keep the same share of each domain")
    other.add_argument("--json", action="store_true", help="for a program")


def _what_if(options: argparse.Namespace) -> int:
    told = what_if(
        open_experiment(options.experiment),
        options.selection,
        keep_fraction=options.keep_fraction,
        token_budget=options.token_budget,
        within_domains=options.within_domains,
    )
    print(json.dumps(told, indent=2) if options.json else in_words(told))
    return 0
