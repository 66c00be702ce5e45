"""Which columns of the inputs a column of a model is computed from, read off the SQL."""

from collections.abc import Iterator, Mapping, Sequence

from sqlglot import exp
from sqlglot.lineage import Node, lineage


def trace_columns(
    query: exp.Query, *, intermediates: Mapping[str, exp.Query], tables: Mapping[str, Sequence[str]]
) -> dict[str, list[tuple[str, str]]]:
    """Return, for each column of a query, the input columns that its value is computed from.

    Args:
        query: with plain table names.
        intermediates: queries that stand for a table; they are traced through.
        tables: the columns of each input.

    Returns:
        Sorted (table, column) pairs by column; filters and join conditions do not count.
    """
    # Types play no part in it, so that any will do.
    schema = {table: dict.fromkeys(columns, "int") for table, columns in tables.items()}
    nodes = lineage(None, query, schema, sources=intermediates, dialect="duckdb", trim_selects=False)
    # What is no input (the numbers of range(), say) is left out.
    pairs = {(table, column) for table, columns in tables.items() for column in columns}
    return {column: sorted(set(_leaves(node)) & pairs) for column, node in nodes.items()}


def _leaves(node: Node) -> Iterator[tuple[str, str]]:
    for leaf in node.walk():
        if isinstance(leaf.expression, exp.Table):
            yield leaf.expression.name, leaf.name.rpartition(".")[2]
