"""Which asset a step of a run makes."""

import dagster as dg

from miniplm_assets.lineage.pipeline import Pipeline


def keys_of_steps(pipeline: Pipeline) -> dict[str, str]:
    """Return the key of each asset of an experiment, by its step: Dagster names the operation behind an asset by it."""
    return {dg.AssetKey([*pipeline.key_prefix, *key.split("/")]).to_python_identifier(): key for key in pipeline.graph}
