"""Materialises an experiment in a process of its own; prints how many results each asset computed, as JSON."""

import json
import sys
from pathlib import Path

import dagster as dg

from miniplm_assets.assets.build import build_assets
from miniplm_assets.kinds.registry import open_pipeline
from tests.pages import value_of


def main(experiment_file: Path) -> None:
    """Run."""
    pipeline = open_pipeline(experiment_file)
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(build_assets(pipeline), instance=instance)
    events = [event.materialization for event in result.get_asset_materialization_events()]
    computed = {"/".join(event.asset_key.path): value_of(event, "num_results_computed") for event in events}
    print(json.dumps(computed))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
