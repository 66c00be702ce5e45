"""Builds warehouse.duckdb: all that is stored, under its own names, for any DuckDB client.

    select * from domain_shift where selection = 'half' order by token_share_change;
    select * from domains_that_lost_most;
    select extreme, place, domain, text from extreme_sequences where selection = 'half';
    select text from refined_corpus where selection = 'half' limit 5;

Assets of one kind (`<teacher>/teacher_scores`) are one table over all of them, with the name in the first column, and
the seed in the next where there is a result for each. Large tables are views over the Parquet files, by absolute
path; small ones are copied in, so that they can still be read where the warehouse itself is not. A view of a catalog
that was moved or copied elsewhere is an error: it would read the old place. A new catalog takes the place of the old
one in one step: whoever has the old one open reads on undisturbed.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from miniplm_assets.storage.files import beside, flush_to_disk, path_for_duckdb

# The oldest storage format of DuckDB 1, so that every client since then can open the file.
STORAGE_VERSION: Final = "v1.0.0"
# What a table holds of the text of a sequence, one for each span; and what the catalog makes of it.
TEXTS: Final = "texts"
TEXT: Final = "text"
TEXT_DESCRIPTION: Final = "The text of the sequence; an empty line between two documents."


@dataclass(frozen=True, kw_only=True)
class CatalogTable:
    """One table of the catalog.

    Attributes:
        name: of the table: the kind.
        description: what it holds, with the grain.
        columns: the description of each column, by name; of those that the files do not have, too.
        name_columns: the columns that hold what tells the assets and their pieces apart, for example `student` and
            `seed`.
        files: the Parquet files of each asset or piece, by the values of `name_columns`; all with the same columns.
            What has no files is left out, and a table without any.
        is_copied: whether its rows are copied in; for small tables.
        differs: whether some of the files have columns that others have not.
    """

    name: str
    description: str
    columns: Mapping[str, str]
    files: Mapping[tuple[str | int, ...], Sequence[Path]]
    name_columns: tuple[str, ...] = ()
    is_copied: bool = False
    differs: bool = False


@dataclass(frozen=True, kw_only=True)
class ReadyMadeView:
    """A question that people ask of the catalog, as a view; made where the tables that it reads are there."""

    name: str
    description: str
    reads: tuple[str, ...]
    sql: str


READY_MADE_VIEWS: Final = (
    ReadyMadeView(
        name="domains_that_lost_most",
        description="One row for each selection and domain that lost share of the tokens, the largest loss first.",
        reads=("domain_shift",),
        sql="""
            select
                selection, domain, share_of_candidate_tokens, share_of_kept_tokens, token_share_change,
                kept_share_of_domain
            from domain_shift
            where token_share_change < 0
            order by selection, token_share_change
        """,
    ),
    ReadyMadeView(
        name="kept_and_dropped_texts",
        description="One row for each of the ten highest and ten lowest candidates of each selection, with the text.",
        reads=("extreme_sequences",),
        sql="""
            select
                selection, extreme, place, domain, difference_nats_per_token, teacher_nll_nats_per_token,
                reference_nll_nats_per_token, is_kept, text
            from extreme_sequences
            order by selection, extreme, place
        """,
    ),
    ReadyMadeView(
        name="contaminated_sequences",
        description="One row for each sequence and each contaminated document that it holds a part of.",
        reads=("contaminated_documents", "sequences"),
        sql="""
            select
                spans_of_sequences.tokenizer, sequence_id, document_id, contaminated.shard, contaminated.domain,
                contaminated.split, found_in, ngram
            from contaminated_documents as contaminated
            join (select tokenizer, sequence_id, unnest(spans).document_id as document_id from sequences)
                as spans_of_sequences using (document_id)
            order by all
        """,
    ),
)


def write_catalog(target: Path, tables: Sequence[CatalogTable], *, warehouse: Path) -> None:
    """Write warehouse.duckdb, in the place of an older one.

    Args:
        target: the file.
        tables: what it shows.
        warehouse: the folder that the file belongs to; its views work nowhere else.

    Raises:
        duckdb.Error: if a file of a table cannot be read.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    written = beside(target)
    try:
        with closing(duckdb.connect()) as connection:
            connection.execute("set enable_progress_bar = false")  # it would draw itself into the log of a run
            connection.execute(f"attach {_literal(str(written))} as catalog (storage_version '{STORAGE_VERSION}')")
            connection.execute("use catalog")
            for statement in _statements(tables, warehouse):
                connection.execute(statement)
            connection.execute("use memory")
            connection.execute("detach catalog")  # writes everything into the one file
        flush_to_disk(written)
        written.replace(target)
        flush_to_disk(target.parent)
    finally:
        written.unlink(missing_ok=True)


def catalog_problems(catalog: Path) -> Iterator[str]:
    """Say which views of a catalog cannot be read where it lies; nothing where there is no catalog."""
    if not catalog.exists():
        return
    try:
        with closing(duckdb.connect(str(catalog), read_only=True)) as connection:
            views = connection.execute("select view_name from duckdb_views() where not internal order by all")
            for (view,) in views.fetchall():
                try:
                    connection.execute(f"select 1 from {_identifier(view)} limit 1").fetchall()  # noqa: S608
                except duckdb.Error as error:
                    yield f"{catalog}: view {view}: {error}"
    except duckdb.Error as error:
        yield f"{catalog}: cannot be opened ({error}); materialise warehouse_catalog"


def _statements(tables: Sequence[CatalogTable], warehouse: Path) -> Iterator[str]:
    shown = [table for table in tables if any(table.files.values())]
    for table in shown:
        kind = "table" if table.is_copied else "view"
        has_texts = TEXTS in table.columns and _holds_texts(table)
        guarded = "" if table.is_copied else f" where {_is_in_place(warehouse)}"
        columns = f"*, array_to_string({TEXTS}, chr(10) || chr(10)) as {TEXT}" if has_texts else "*"
        yield f"create {kind} {_identifier(table.name)} as select {columns} from ({_union(table)}){guarded}"  # noqa: S608
        yield f"comment on {kind} {_identifier(table.name)} is {_literal(table.description)}"
        present = _columns_of(table)
        for column, description in table.columns.items():
            if column in present:
                yield _column_comment(table.name, column, description)
        if has_texts:
            yield _column_comment(table.name, TEXT, TEXT_DESCRIPTION)
        for column in table.name_columns:
            yield _column_comment(table.name, column, f"Which {column} of the experiment file.")
    names = {table.name for table in shown}
    for view in READY_MADE_VIEWS:
        if names.issuperset(view.reads):
            yield f"create view {_identifier(view.name)} as {view.sql}"
            yield f"comment on view {_identifier(view.name)} is {_literal(view.description)}"


def _union(table: CatalogTable) -> str:
    """Return a select over the files of all names. A view cannot have parameters, so that values become literals."""
    parts = []
    for names, paths in sorted(table.files.items()):
        if not paths:
            continue
        files = ", ".join(_literal(path_for_duckdb(path.absolute())) for path in paths)
        named = "".join(
            f"{_literal(name) if isinstance(name, str) else name} as {_identifier(column)}, "
            for name, column in zip(names, table.name_columns, strict=True)
        )
        by_name = ", union_by_name = true" if table.differs else ""
        parts.append(f"select {named}* from read_parquet([{files}], hive_partitioning = false{by_name})")  # noqa: S608
    return " union all by name ".join(parts)


def _is_in_place(warehouse: Path) -> str:
    """Return a condition that is true where the catalog lies in its warehouse, and an error where it does not."""
    place = warehouse.resolve()
    moved = (
        f"this catalog shows the files of the warehouse {place}, and lies elsewhere now. Materialise warehouse_catalog "
        "in its new place, or open the one that lies there"
    )
    # Some clients tell a relative path, of which nobody knows where it is.
    known = f"path is not null and (not starts_with(path, '/') or starts_with(path, {_literal(f'{place}/')}))"
    return (
        f"(select case when count(*) = 0 then error({_literal(moved)}) else true end from duckdb_databases() "  # noqa: S608
        f"where {known})"
    )


def _columns_of(table: CatalogTable) -> set[str]:
    return {name for paths in table.files.values() for path in paths[:1] for name in pq.read_schema(path).names}


def _column_comment(table: str, column: str, text: str) -> str:
    return f"comment on column {_identifier(table)}.{_identifier(column)} is {_literal(text)}"


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _holds_texts(table: CatalogTable) -> bool:
    """Return whether a table has a list of texts in each row; another may call a single word so."""
    schemas = (pq.read_schema(path) for paths in table.files.values() for path in paths[:1])
    types = [schema.field(TEXTS).type for schema in schemas if TEXTS in schema.names]
    return bool(types) and all(pa.types.is_list(one) or pa.types.is_large_list(one) for one in types)
