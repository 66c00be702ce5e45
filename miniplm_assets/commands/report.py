"""`report`: where the report is."""

import argparse
import json
import sys
import webbrowser

from miniplm_assets.commands.common import Commands, add_command, add_experiment, add_json, open_experiment
from miniplm_assets.kinds.placing import is_placed
from miniplm_assets.lineage.outcome import REPORT, REPORT_FILE, last_made


def add(commands: Commands) -> None:
    """Add the command."""
    summary = "say where the report is: one HTML file of all that was found"
    report = add_command(commands, "report", _report, summary)
    add_experiment(report)
    add_json(report)
    report.add_argument("--open", action="store_true", help="show it in the browser")


def _report(options: argparse.Namespace) -> int:
    pipeline = open_experiment(options.experiment)
    fingerprints, caution = last_made(pipeline, REPORT, called="the report")
    stored = pipeline.store.require(fingerprints.recipe(REPORT)).file(REPORT_FILE)
    placed = pipeline.store.root / REPORT_FILE
    path = placed if is_placed(stored, placed) else stored
    if options.json:
        print(json.dumps({"report": str(path), "caution": caution or None}, indent=2))
    else:
        if caution:
            print(caution, file=sys.stderr)
        print(path)
    if options.open and not webbrowser.open(path.resolve().as_uri()):
        print("error: no browser was found here; open that file in one", file=sys.stderr)
        return 2
    return 0
