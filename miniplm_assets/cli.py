"""Commands beside Dagster's own: read the outcome, look before you pay, show, compare, verify, prune, export."""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Final

from miniplm_assets.commands import diff, export, forget, outcome, plan, prune, report, schema, show, verify, what_if
from miniplm_assets.core.doors import cause_of
from miniplm_assets.core.errors import MiniplmError
from miniplm_assets.storage.faults import NOT_PERMITTED, not_permitted

# In the order in which they are listed.
COMMANDS: Final = (outcome, plan, show, diff, verify, forget, what_if, report, schema, prune, export)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0 where all is well, 1 where something was found, 2 where it could not be done."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except MiniplmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader has seen enough
        sys.stderr.close()
        return 0
    except OSError as error:  # of a disk or a network, or of rights
        is_forbidden = error.errno in NOT_PERMITTED and error.filename is not None
        print(f"error: {not_permitted(error.filename, error) if is_forbidden else cause_of(error)}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m miniplm_assets", description=__doc__)
    parser.add_argument("--version", action="version", version=f"miniplm_assets {version('miniplm_assets')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser
