"""Writes the asset graph of an experiment for Graphviz: python docs/draw_graph.py | dot -Tpng -o docs/graph.png.

Read off the same nodes as Dagster's own picture, with its boxes. Solid: an input. Dashed: a gate, whose checks must
pass first. An arrow that a path of others stands for is left out, and so are those into report and catalog, which read
everything.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from miniplm_assets.kinds.registry import DEMO, open_pipeline
from miniplm_assets.kinds.report import REPORT
from miniplm_assets.kinds.warehouse_catalog import WAREHOUSE_CATALOG
from miniplm_assets.lineage.graph import Graph
from miniplm_assets.lineage.outcome import COMPARISON

FILLS = {
    "corpus": "#E8E8E8",
    "tokenizer": "#E8E8E8",
    "teacher": "#D6E9F5",
    "reference": "#DDF1EA",
    "selection": "#FBE9C8",
    "tasks": "#E8E8E8",
    "student": "#F2DDE9",
    "reports": "#FFFFFF",
}
OF_ALL = {WAREHOUSE_CATALOG.name: "\\nof every table", REPORT.name: "\\nof everything"}


def dot(graph: Graph) -> Iterator[str]:
    """Yield the lines of a Graphviz file."""
    yield "digraph {"
    yield "rankdir=TB; newrank=true; nodesep=0.1; ranksep=0.28; fontname=Helvetica; dpi=96; bgcolor=white;"
    yield "node [shape=box, style=filled, fontname=Helvetica, fontsize=15, margin=0.05, height=0.32, color=gray40];"
    yield 'edge [color="#00000070", arrowsize=0.55, penwidth=0.8];'
    for group in dict.fromkeys(node.group for node in graph.values()):
        members = [node for node in graph.values() if node.group == group]
        yield f'subgraph "cluster_{group}" {{ label="{group}"; fontsize=16; color=gray60; style=rounded;'
        for node in members:
            extra = OF_ALL.get(node.kind.name, "")
            yield f'"{node.key}" [label="{node.kind.name}{extra}", fillcolor="{FILLS[node.kind.section]}"];'
        yield "}"
    above = {key: _above(graph, key) for key in graph}
    for node in graph.values():
        if node.kind.name in OF_ALL:
            if COMPARISON in graph:
                yield f'"{COMPARISON}" -> "{node.key}" [style=invis];'  # below it, not in a column of its own
            continue
        for needed in node.needs:
            if any(needed in above[other] for other in node.needs):
                continue
            style = "dashed" if needed in node.gates else "solid"
            yield f'"{needed}" -> "{node.key}" [style={style}];'
    yield "}"


def _above(graph: Graph, key: str) -> set[str]:
    """Return everything that comes before an asset."""
    return {one for needed in graph[key].needs for one in (needed, *_above(graph, needed))}


if __name__ == "__main__":
    print("\n".join(dot(open_pipeline(Path(sys.argv[1]) if sys.argv[1:] else DEMO).graph)))
