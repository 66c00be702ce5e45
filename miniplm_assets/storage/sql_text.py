"""Reading one file of SQL: its refs, its parameters, its columns."""

import re
from typing import Final

import sqlglot
from sqlglot import exp

from miniplm_assets.core.errors import SqlError

REF: Final = re.compile(r"\{\{\s*ref\(\s*'(\w+)'\s*\)\s*\}\}")
# A CTE that only gives a table a place in the query.
IMPORT: Final = re.compile(r"(\w+ as) (\(\s*select \* from \w+\s*\))", re.IGNORECASE)


def render(template: str) -> str:
    """Return SQL with each ``{{ ref('name') }}`` as the plain table name."""
    return REF.sub(r"\1", template)


def runnable(template: str) -> str:
    """Return SQL as DuckDB gets it.

    A table that is read twice is read twice: DuckDB would copy the whole of it into memory, or onto the disk, where the
    CTE that imports it has two readers. A hint is no part of the meaning, and so of no code version.
    """
    return IMPORT.sub(r"\1 not materialized \2", render(template))


def refs_of(template: str) -> tuple[str, ...]:
    """Return the tables that a template names, sorted."""
    return tuple(sorted(set(REF.findall(template))))


def parse(template: str, where: str) -> exp.Query:
    """Return the syntax tree of one query.

    Raises:
        SqlError: if it is not SQL, or not exactly one query.
    """
    try:
        statements = [tree for tree in sqlglot.parse(render(template), read="duckdb") if tree is not None]
    except sqlglot.ParseError as error:
        [first, *_] = error.errors  # the message itself is coloured for a terminal
        raise SqlError(f"{where}, line {first['line']}: not valid SQL: {first['description']}") from None
    if len(statements) != 1 or not isinstance(statements[0], exp.Query):
        raise SqlError(f"{where}: expected one select, found {len(statements)} statements or another kind of one")
    return statements[0]


def parameters_of(tree: exp.Query) -> frozenset[str]:
    """Return the names of the ``$name`` parameters of a query."""
    return frozenset(placeholder.name for placeholder in tree.find_all(exp.Placeholder))


def normalised(tree: exp.Query) -> str:
    """Return one spelling of a query, whatever its white space and comments."""
    return str(tree.sql(dialect="duckdb", comments=False))


def output_columns(tree: exp.Query) -> list[str]:
    """Return the columns that a query yields, with ``select * from <CTE>`` followed to the CTE."""
    ctes = {cte.alias: cte.this for cte in tree.ctes}
    while tree.is_star and isinstance(source := tree.args["from_"].this, exp.Table) and source.name in ctes:
        tree = ctes[source.name]
    return list(tree.named_selects)
