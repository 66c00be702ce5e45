"""The graph of an experiment: every asset by its key, inputs before what needs them.

It follows from the experiment file and the SQL alone, so that it is known without a corpus, a network
or a heavy library. Dagster's dependencies, the fingerprints and the plan are all read off it.
"""

from collections.abc import Iterable
from dataclasses import replace
from graphlib import TopologicalSorter
from typing import Any, TypeAlias

from miniplm_assets.core.recipe import fingerprint_of
from miniplm_assets.experiment import Experiment
from miniplm_assets.lineage.kind import Blueprint, Kind, Node
from miniplm_assets.storage.sql_project import SqlProject

Graph: TypeAlias = dict[str, Node[Any]]


def build_graph(kinds: Iterable[Kind[Any]], experiment: Experiment, sql: SqlProject) -> Graph:
    """Return every node of an experiment by its key, inputs and gates before what needs them.

    Args:
        kinds: all kinds there are, in an order in which each may look at the nodes of those before it.
        experiment: the file.
        sql: dbt_like_sql.
    """
    nodes: list[Node[Any]] = []
    for rank, kind in enumerate(kinds):
        blueprint = Blueprint(experiment, sql, tuple(nodes))
        nodes.extend(replace(node, owners=_owners(experiment, node), rank=rank) for node in kind.nodes(blueprint))
    by_key = {node.key: node for node in nodes}
    # The sorter keeps the order in which nodes were added where their needs leave a choice.
    order = TopologicalSorter({key: node.needs for key, node in by_key.items()}).static_order()
    return {key: by_key[key] for key in order}


def definition_digests(graph: Graph) -> dict[str, str]:
    """Return a digest of what defines each asset, whatever the corpus: its settings and code, and those of its inputs.

    Args:
        graph: inputs before what needs them.
    """
    digests: dict[str, str] = {}
    for key, node in graph.items():
        digests[key] = fingerprint_of(
            {
                "kind": node.kind.name,
                "code_version": node.kind.code_version,
                "settings": node.settings.identity(),
                "inputs": {role: digests[needed] for role, needed in node.inputs.items()},
                "shards": list(node.shards),
                "seeds": list(node.seeds),
                "folder": None if node.folder is None else str(node.folder),
                **({"files": list(node.files)} if node.files else {}),
            }
        )
    return digests


def _owners(experiment: Experiment, node: Node[Any]) -> tuple[str, ...]:
    """Return the owners of the thing that a node is named after, or else those of the whole experiment."""
    things: dict[str, dict[str, Any]] = {
        "teacher": dict(experiment.teachers),
        "reference": dict(experiment.references),
        "selection": dict(experiment.selections),
        "generation": dict(experiment.generations),
        "student": dict(experiment.students),
    }
    thing = things.get(node.kind.section, {}).get(node.names[0]) if node.names else None
    return (thing.owners if thing is not None else ()) or experiment.owners
