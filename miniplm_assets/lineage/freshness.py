"""How old what Dagster shows of an asset may be: the hours that an experiment gives its kinds and keys."""

from miniplm_assets.core.errors import ExperimentError
from miniplm_assets.experiment.automation import Automation
from miniplm_assets.experiment.settings import nearest
from miniplm_assets.lineage.graph import Graph


def fresh_within_hours(graph: Graph, automation: Automation) -> dict[str, float]:
    """Return the hours within which assets are to be materialised, made or found, by key; a key goes before its kind.

    Raises:
        ExperimentError: if something is named that is neither a key nor a kind of the experiment.
    """
    asked = automation.fresh_within_hours
    kinds = {node.kind.name for node in graph.values()}
    unknown = [name for name in asked if name not in graph and name not in kinds]
    if unknown:
        raise ExperimentError(
            "\n".join(
                f"automation.fresh_within_hours: '{name}' is neither an asset nor a kind of this experiment; "
                f"{nearest(name, sorted({*graph, *kinds}))}"
                for name in unknown
            )
        )
    given = {key: asked.get(key, asked.get(node.kind.name)) for key, node in graph.items()}
    return {key: hours for key, hours in given.items() if hours is not None}
