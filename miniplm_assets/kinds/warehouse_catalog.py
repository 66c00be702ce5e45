"""`warehouse_catalog`: warehouse.duckdb, with every table of the graph under its own name."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.documents import DOCUMENTS
from miniplm_assets.kinds.placing import place_latest
from miniplm_assets.kinds.refined_sequences import REFINED_SEQUENCES
from miniplm_assets.kinds.selection_page import lineage_drawing
from miniplm_assets.kinds.sequences import SEQUENCES
from miniplm_assets.lineage.fingerprints import RAW_CORPUS
from miniplm_assets.lineage.kind import Blueprint, Kind, Node
from miniplm_assets.lineage.outcome import CATALOG
from miniplm_assets.lineage.page import Drawing, Entry, Page
from miniplm_assets.lineage.snapshot import mark_complete
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.catalog import CatalogTable, write_catalog
from miniplm_assets.storage.places import local_folder
from miniplm_assets.storage.store import Draft, Result
from miniplm_assets.storage.tables import REJECTED

REJECTED_COLUMNS: Final = {
    "shard": "the corpus file",
    "file": "the file in it",
    "line": "line or row in the file, from 1",
    "reason": "why it is no document",
    "excerpt": "how it begins",
    "twin_id": "the document that stays in the place of a duplicate",
    "similarity": "of that one and a duplicate; 1 where the texts are the same",
}


class Place(Settings):
    """Where the warehouse is on this machine: the catalog's views name its files by their place."""

    warehouse: str


def _nodes(blueprint: Blueprint) -> Iterator[Node[Place]]:
    yield Node(
        kind=WAREHOUSE_CATALOG,
        inputs={node.key: node.key for node in blueprint.nodes if node.kind.table is not None},
        settings=Place(warehouse=str(local_folder(blueprint.experiment.warehouse))),
    )


def _make(work: Work[Place]) -> Result:
    """Write the catalog, and put a copy of the latest at the top of the warehouse."""

    def write(draft: Draft) -> None:
        tables = list(_tables(work))
        write_catalog(draft.path / CATALOG, tables, warehouse=work.pipeline.store.root)
        draft.facts = {"num_tables": len(tables), "tables": [table.name for table in tables]}

    result = work.make(write)
    snapshot, node = work.run.snapshot(), work.pipeline.graph[RAW_CORPUS]
    place_latest(work, CATALOG, lambda: mark_complete(snapshot, node, work.pipeline.store))
    return result


def _tables(work: Work[Place]) -> Iterator[CatalogTable]:
    by_kind: dict[str, list[Node[Any]]] = {}
    for key in work.node.inputs:
        node = work.input_node(key)
        by_kind.setdefault(node.kind.name, []).append(node)
    for name, nodes in by_kind.items():
        kind = nodes[0].kind
        by_seed = kind.pieces == "seed"
        files: dict[tuple[str | int, ...], list[Path]] = {}
        for node in nodes:
            if by_seed:
                for seed, result in work.input_pieces(node.key).items():
                    files[*node.names, int(seed)] = result.matching(kind.table or "")
            else:
                files[node.names] = work.input_tables(node.key)
        yield CatalogTable(
            name=name,
            description=kind.description.partition("\n\n")[0],
            columns=kind.columns,
            name_columns=(*_name_columns(nodes[0]), *(["seed"] if by_seed else [])),
            files=files,
            is_copied=not kind.is_view,
        )
    drops_duplicates = any(node.settings.cleaning.drops_duplicates for node in by_kind[DOCUMENTS.name])
    yield CatalogTable(
        name="rejected_documents",
        description="One row for each row of the corpus that is no document, or that a tokenizer cannot encode"
        + ("; and for each duplicate." if drops_duplicates else "."),
        columns=REJECTED_COLUMNS,
        files={
            (): [
                result.file(REJECTED)
                for kind in (DOCUMENTS, SEQUENCES, REFINED_SEQUENCES)
                for node in by_kind.get(kind.name, ())
                for result in work.input_pieces(node.key).values()
            ]
        },
        differs=drops_duplicates,
    )


def _name_columns(node: Node[Any]) -> tuple[str, ...]:
    return node.kind.name_columns or ((node.kind.section,) if node.names else ())


def _page(work: Work[Place], result: Result) -> Page:
    """Say which tables there are, and where the columns of those come from that SQL makes."""
    names = result.facts.get("tables", [])
    outcome = f"{len(names)} tables in {work.pipeline.store.root / CATALOG}."
    drawings: dict[str, str] = {}
    seen = set()
    for key in work.node.inputs:
        node = work.input_node(key)
        drawing = None if node.kind.name in seen else lineage_drawing(node)
        seen.add(node.kind.name)
        drawings |= {} if drawing is None else drawing.svgs
    made_of: dict[str, Entry] = {"column lineage": Drawing(drawings)} if drawings else {}
    return Page(outcome={"outcome": outcome, "tables": ", ".join(sorted(names))}, made_of=made_of)


WAREHOUSE_CATALOG = Kind(
    name="warehouse_catalog",
    code_version="3",
    section="reports",
    technologies=frozenset({"duckdb"}),
    description="""`warehouse.duckdb`: every table of this graph under its own name, for any DuckDB client.

```sql
select * from domains_that_lost_most;
select * from kept_and_dropped_texts;
select selection, text from refined_corpus limit 5;
```""",
    nodes=_nodes,
    make=_make,
    page=_page,
)
