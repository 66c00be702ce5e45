"""Stage `reports`: warehouse.duckdb, with every table of the graph under its own name."""

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from miniplm_assets.assets.build import Kind
from miniplm_assets.assets.reports import GROUP
from miniplm_assets.assets.step import Made, Step
from miniplm_assets.lineage.outcome import CATALOG
from miniplm_assets.storage.catalog import CatalogTable, write_catalog
from miniplm_assets.storage.files import flush_to_disk
from miniplm_assets.storage.store import Draft
from miniplm_assets.storage.tables import REJECTED

# Too large to be copied: views over the Parquet files.
VIEWS = (
    "documents",
    "sequences",
    "teacher_scores",
    "reference_scores",
    "difference_scores",
    "refined_corpus",
    "rescored_teacher_scores",
    "rescored_reference_scores",
)
# What the second part of a key names; of any other step, a selection.
NAMES = {
    "tokenizer": "tokenizer",
    "sequences": "tokenizer",
    "teacher_model": "teacher",
    "teacher_scores": "teacher",
    "pilot_teacher_scores": "teacher",
    "reference_model": "reference",
    "reference_scores": "reference",
    "pilot_reference_scores": "reference",
    "student_checkpoint": "student",
    "student_evaluation": "student",
}
REJECTED_COLUMNS = {
    "shard": "the corpus file",
    "file": "the file in it",
    "line": "line or row in the file, from 1",
    "reason": "why it is no document",
    "excerpt": "how it begins",
}


def catalog_kind(kinds: Mapping[str, Kind]) -> Kind:
    """Return the kind of `warehouse_catalog`.

    Args:
        kinds: the kind of every other asset, by key: their descriptions become comments in the catalog.
    """

    def make(step: Step) -> Made:
        def write(draft: Draft) -> None:
            tables = list(_tables(step, kinds))
            write_catalog(draft.path / CATALOG, tables)
            draft.facts = {"num_tables": len(tables), "tables": [table.name for table in tables]}

        made = step.make(write)
        _place(made.result.folder / CATALOG, step.store.root / CATALOG)
        return made

    return Kind(
        group=GROUP,
        technologies=frozenset({"duckdb"}),
        description="""`warehouse.duckdb`: every table of this graph under its own name, for any DuckDB client.

```sql
select * from domains_that_lost_most;
select * from kept_and_dropped_texts;
```""",
        make=make,
    )


def _tables(step: Step, kinds: Mapping[str, Kind]) -> Iterator[CatalogTable]:
    by_step: dict[str, dict[str, list[Path]]] = {}
    for key in step.node.inputs:
        step_name, _, name = key.partition("/")
        by_step.setdefault(step_name, {})[name] = step.input_tables(key)
    for step_name, files in by_step.items():
        kind = next(kind for key, kind in kinds.items() if key.partition("/")[0] == step_name)
        yield CatalogTable(
            name=step_name,
            description=kind.description.partition("\n\n")[0],
            columns=kind.columns or {},
            name_column=None if "" in files else NAMES.get(step_name, "selection"),
            files=files,
            is_copied=step_name not in VIEWS,
        )
    yield CatalogTable(
        name="rejected_documents",
        description="One row for each row of the corpus that is no document, with the reason.",
        columns=REJECTED_COLUMNS,
        files={"": [result.file(REJECTED) for result in step.input_shards("documents").values()]},
    )


def _place(stored: Path, target: Path) -> None:
    """Copy the stored catalog to the top of the warehouse, unless it is there: clients may write into that one."""
    there, wanted = (path.stat() if path.exists() else None for path in (target, stored))
    if there and wanted and (there.st_size, there.st_mtime_ns) == (wanted.st_size, wanted.st_mtime_ns):
        return
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copy2(stored, beside)
    flush_to_disk(beside)
    beside.replace(target)
    flush_to_disk(target.parent)
