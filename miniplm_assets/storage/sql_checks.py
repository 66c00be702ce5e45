"""Tests of dbt_like_sql: each a query that returns the rows that fail.

Generic tests stand in the YAML beside the models; a singular test is a file in tests/ that opens with
comments: what a failure means, then `model:` (or several, with commas), and where they differ from the default
`severity:`, `scope:` and `selections:`, of which selections it speaks at all.

A test that looks for culprits among all rows can have a screen: a cheaper query that returns no row only where the
test is sure to pass, which then does not run. A singular test's is the file of its name in tests/screens/.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

from miniplm_assets.core.errors import SqlError
from miniplm_assets.storage.sql_text import refs_of

Severity = Literal["stop", "error", "warn"]
Scope = Literal["shard", "whole"]
# Of which selections a check speaks: plain - Difference Sampling as published; ranked - all others; differences - whose
# score is the difference; transformed - both of these; within_domain - that keep the same share of each domain.
Trait = Literal["plain", "ranked", "differences", "transformed", "within_domain"]

PLAIN: Final[frozenset[Trait]] = frozenset({"plain", "differences"})
HEADER_KEYS: Final = ("model", "severity", "scope", "selections")


@dataclass(frozen=True)
class SqlCheck:
    """One test of one model.

    Attributes:
        name: unique in its model.
        description: what a failure means.
        severity: `stop` - the model's numbers would mean nothing: an error, and nothing is published;
            `error` - published, and the check fails; `warn` - the same, as a warning.
        scope: of a model that is computed by shard: `shard` - of each shard on its own, `whole` - once, over all.
        sql: returns the rows that fail, with ``{{ ref('...') }}``; of a `stop`, a column `problem` may say what to do.
        parameters: the values that its parameters are bound to.
        screen: where it returns no row, `sql` would return none; None where nothing cheaper than `sql` tells.
        selections: of which selections it speaks; None where of all.
        is_of_columns: whether it is a generic one, which looks at columns alone.
    """

    name: str
    description: str
    severity: Severity
    scope: Scope
    sql: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    screen: str | None = None
    selections: Trait | None = None
    is_of_columns: bool = False

    @property
    def queries(self) -> tuple[str, ...]:
        """Its query, and its screen if it has one."""
        return (self.sql,) if self.screen is None else (self.sql, self.screen)

    @property
    def refs(self) -> tuple[str, ...]:
        """The tables that its queries name, sorted."""
        return tuple(sorted({name for query in self.queries for name in refs_of(query)}))

    @property
    def identity(self) -> dict[str, Any]:
        """What a code version hashes of it, besides the queries."""
        return {"name": self.name, "severity": self.severity, "scope": self.scope, "parameters": dict(self.parameters)}


def generic_check(model: str, column: str | None, test: str | Mapping[str, Any], *, where: str) -> SqlCheck:
    """Return the check that an entry under `tests:` stands for.

    Args:
        model: the model that is tested.
        column: the column under which the entry stands; None for an entry of the whole model.
        test: a name, or one name with its arguments: ``accepted_range: {min: 0, severity: warn}``.
        where: file and key, for messages.

    Raises:
        SqlError: if there is no such test, or its arguments are wrong.
    """
    name, arguments = (test, {}) if isinstance(test, str) else next(iter(test.items()))
    arguments = dict(arguments)
    severity = _one_of(arguments.pop("severity", "error"), get_args(Severity), f"{where}: severity")
    selections = arguments.pop("selections", None)
    if selections is not None:
        _one_of(selections, get_args(Trait), f"{where}: selections")
    build = GENERIC_TESTS.get(name)
    if build is None:
        raise SqlError(f"{where}: unknown test '{name}'; known: {', '.join(sorted(GENERIC_TESTS))}")
    columns = arguments.pop("columns", None) or ([column] if column else [])
    if not columns:
        raise SqlError(f"{where}: {name} of a whole model needs `columns`")
    try:
        sql, parameters, description = build(model, columns, **arguments)
    except TypeError as error:
        raise SqlError(f"{where}: {name}: wrong arguments ({error})") from None
    screen = _screen_of_unique(model, columns) if build is _unique else None
    return SqlCheck(
        "_".join([name, *columns]),
        description,
        severity,
        "shard",
        sql,
        parameters,
        screen,
        selections,
        is_of_columns=True,
    )


def _unique(model: str, columns: list[str]) -> tuple[str, dict[str, Any], str]:
    names = ", ".join(columns)
    sql = (
        f"select {names}, count(*) as num_rows from {_ref(model)} group by {names} having count(*) > 1 order by {names}"  # noqa: S608
    )
    return sql, {}, f"{' and '.join(columns)} identifies a row: no two are equal."


def _screen_of_unique(model: str, columns: list[str]) -> str:
    """Rows are written in the order of their grain: where each is above the one before it, no two are equal."""
    names = ", ".join(columns)
    missing = " or ".join(f"{column} is null" for column in columns)
    return (
        f"with ordered as (select {names}, lag(({names})) over () as previous from {_ref(model)}) "  # noqa: S608
        f"select * from ordered where ({names}) <= previous or {missing}"
    )


def _not_null(model: str, columns: list[str]) -> tuple[str, dict[str, Any], str]:
    missing = " or ".join(f"{column} is null" for column in columns)
    return f"select * from {_ref(model)} where {missing}", {}, f"{' and '.join(columns)} is never NULL."  # noqa: S608


def _accepted_range(model: str, columns: list[str], **limits: float) -> tuple[str, dict[str, Any], str]:
    if not limits or limits.keys() - {"min", "max"}:
        raise TypeError("give min, max or both")
    [column] = columns
    faults = [f"{column} {'<' if name == 'min' else '>'} ${name}" for name in limits]
    if "max" not in limits:  # NaN is above every number in DuckDB, so that it needs a word of its own only here
        faults.append(f"isnan(cast({column} as double))")
    words = " and ".join(f"{'at least' if name == 'min' else 'at most'} {limit}" for name, limit in limits.items())
    return f"select * from {_ref(model)} where {' or '.join(faults)}", limits, f"{column} is {words}."  # noqa: S608


def _accepted_values(model: str, columns: list[str], *, values: list[Any]) -> tuple[str, dict[str, Any], str]:
    [column] = columns
    sql = f"select * from {_ref(model)} where not list_contains($values, {column})"  # noqa: S608
    return sql, {"values": values}, f"{column} is one of {', '.join(map(str, values))}."


def _relationships(model: str, columns: list[str], *, to: str, field: str) -> tuple[str, dict[str, Any], str]:
    [column] = columns
    sql = (
        f"select child.* from {_ref(model)} as child anti join {_ref(to)} as parent "  # noqa: S608
        f"on child.{column} = parent.{field} where child.{column} is not null"
    )
    return sql, {}, f"every {column} is a {field} of {to}."


GENERIC_TESTS: Final[dict[str, Callable[..., tuple[str, dict[str, Any], str]]]] = {
    "unique": _unique,
    "not_null": _not_null,
    "accepted_range": _accepted_range,
    "accepted_values": _accepted_values,
    "relationships": _relationships,
}


def _ref(name: str) -> str:
    return f"{{{{ ref('{name}') }}}}"


def singular_checks(folder: Path) -> Iterator[tuple[str, SqlCheck]]:
    """Go through the files of tests/: each model that one belongs to, and its check.

    Raises:
        SqlError: if a file does not open with its description and its model, or a screen is of no test.
    """
    screens = {path.stem: path.read_text(encoding="utf-8") for path in sorted((folder / "screens").glob("*.sql"))}
    for path in sorted(folder.glob("*.sql")):
        text = path.read_text(encoding="utf-8")
        description, header = _read_header(path, text)
        if not description or "model" not in header:
            raise SqlError(
                f"{path}: a test opens with '-- A failure means: ...' and '-- model: <the model that it belongs to>'"
            )
        selections: Any = header.get("selections")
        if selections is not None:
            _one_of(selections, get_args(Trait), f"{path}: selections")
        check = SqlCheck(
            name=path.stem,
            description=description,
            severity=_one_of(header.get("severity", "error"), get_args(Severity), f"{path}: severity"),
            scope=_one_of(header.get("scope", "whole"), get_args(Scope), f"{path}: scope"),
            sql=text,
            screen=screens.pop(path.stem, None),
            selections=selections,
        )
        for model in header["model"].split(","):
            yield model, check
    for name in screens:
        raise SqlError(f"{folder}/screens/{name}.sql: there is no test {name}.sql that it belongs to")


def _read_header(path: Path, text: str) -> tuple[str, dict[str, str]]:
    header: dict[str, str] = {}
    sentences: list[str] = []
    for line in text.splitlines():
        if not line.startswith("--"):
            break
        comment = line.removeprefix("--").strip()
        setting = re.fullmatch(r"([a-z]+): *(\S+)", comment)
        if setting is None:
            sentences.append(comment)
        elif setting[1] in HEADER_KEYS:
            header[setting[1]] = setting[2]
        else:
            raise SqlError(f"{path}: unknown header '{setting[1]}'; known: {', '.join(HEADER_KEYS)}")
    return " ".join(sentences), header


def _one_of(value: Any, known: tuple[Any, ...], where: str) -> Any:
    if value not in known:
        raise SqlError(f"{where}: '{value}' is none of {', '.join(known)}")
    return value
