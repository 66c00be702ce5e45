"""The connection to Ray, as a Dagster resource; only where an experiment asks for Ray."""

import importlib.util
from functools import cache
from typing import Any

from miniplm_assets.assets.dagster_run import RAY_RESOURCE
from miniplm_assets.core.errors import ExperimentError
from miniplm_assets.lineage.graph import Graph


def ray_resources(graph: Graph) -> dict[str, Any]:
    """Return the resource `ray` if an asset runs on it, else nothing.

    It starts Ray on this machine, for this run alone, or connects to the cluster that Ray's own variable RAY_ADDRESS
    names, when there is something to score. `dagster_ray` has others with the same face, for clusters on Kubernetes.

    Raises:
        ExperimentError: if Ray is not installed; with the command.
    """
    asking = [node.key for node in graph.values() if node.kind.needs_ray(node.settings)]
    if not asking:
        return {}
    if importlib.util.find_spec("dagster_ray") is None:
        raise ExperimentError(
            f"{asking[0]}: it asks for Ray, which is not installed here; run: pip install "
            "'miniplm_assets[ray]' (or set the engine, of scoring or of processing, to local, and num_nodes of "
            "training to 1)"
        )
    return {RAY_RESOURCE: _own_ray()}


@cache
def _own_ray() -> Any:
    """Return the one object that all experiments of a code location have: Dagster refuses to merge two."""
    from dagster_ray import Lifecycle

    from miniplm_assets.assets.own_ray import OwnRay

    # Connecting takes seconds, and a step that finds everything stored needs none of it.
    return OwnRay(lifecycle=Lifecycle(connect=False))
