"""Reads dbt_like_sql: its models, what they depend on, and the tests that they must pass.

    models/sources.yml     tables that other kinds of assets write
    models/marts/*.sql     assets, `<model>/<selection>`
    models/<others>/*.sql  intermediate models, expanded into those that use them; never stored
    tests/*.sql            tests that need a query of their own
    tests/screens/*.sql    what proves such a test to pass more cheaply than the test itself (see `sql_checks`)
    shortcuts/*.sql        what may yield the rows of a model with less work (see `sql_shortcuts`)

Each model is one `select` with ``{{ ref('...') }}`` for the tables that it reads and ``$name`` for the
values that it is given. The YAML beside it describes every column. Nothing is declared twice: dependencies,
parameters and column lineage are read off the SQL.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import Field, ValidationError
from sqlglot import exp

from miniplm_assets.core.errors import SqlError
from miniplm_assets.core.recipe import fingerprint_of
from miniplm_assets.experiment.settings import Settings, nearest
from miniplm_assets.storage.sql_checks import PLAIN, SqlCheck, generic_check, singular_checks
from miniplm_assets.storage.sql_lineage import trace_columns
from miniplm_assets.storage.sql_shortcuts import Shortcut, read_shortcuts
from miniplm_assets.storage.sql_text import normalised, output_columns, parameters_of, parse, refs_of, render

try:
    from yaml import CSafeLoader as SafeLoader  # a tenth of the time
except ImportError:  # PyYAML was built without libyaml
    from yaml import SafeLoader  # type: ignore[assignment]

MARTS: Final = "marts"
# Raised when the runner would write other rows for the same SQL.
RUNNER_VERSION: Final = 1


class Column(Settings):
    """A column of a table, as its YAML describes it."""

    name: str
    data_type: str
    description: str
    tests: tuple[str | dict[str, dict[str, Any]], ...] = ()


class TableConfig(Settings):
    """How a mart is written.

    Attributes:
        grain: what identifies a row.
        per_shard: whether each corpus file is computed on its own.
        is_exact: whether it adds up integers alone, which any number of threads may do in any order; no part of the
            code version, for its rows are the same.
    """

    grain: tuple[str, ...] = ()
    per_shard: bool = False
    is_exact: bool = Field(default=False, exclude=True)


class TableEntry(Settings):
    """A model or source, as its YAML describes it."""

    name: str
    description: str
    config: TableConfig = TableConfig()
    columns: tuple[Column, ...]
    tests: tuple[str | dict[str, dict[str, Any]], ...] = ()


class SchemaFile(Settings):
    """A YAML file under models/."""

    models: tuple[TableEntry, ...] = ()
    sources: tuple[TableEntry, ...] = ()


@dataclass(frozen=True)
class SqlModel:
    """One model.

    Attributes:
        name: the file's name, and the first part of the asset key.
        entry: what the YAML says.
        is_mart: whether it is an asset; if not, it is expanded into the models that use it.
        template: the SQL as it stands in the file.
        tree: the same, parsed, with refs as plain table names.
        every_check: its tests of whatever selection, in the order of the YAML and then of the files.
        project: where it stands, with the models and sources that it refers to.
        shortcut: to the same rows; no part of the code version, for that is of the rows.
        traits: of the selections that it is for: those of Difference Sampling as published, unless others are asked.
    """

    name: str
    entry: TableEntry
    is_mart: bool
    template: str
    tree: exp.Query
    every_check: tuple[SqlCheck, ...]
    project: "SqlProject"
    shortcut: Shortcut | None = None
    traits: frozenset[str] = PLAIN

    def of(self, traits: Collection[str]) -> "SqlModel":
        """Return the same model for selections of other traits, with the checks that speak of those."""
        return replace(self, traits=frozenset(traits))

    @property
    def checks(self) -> tuple[SqlCheck, ...]:
        """Its tests, in the order of the YAML and then of the files."""
        return tuple(check for check in self.every_check if check.selections in (None, *self.traits))

    @property
    def description(self) -> str:
        """What it holds, with the grain."""
        return self.entry.description

    @property
    def columns(self) -> tuple[Column, ...]:
        """Its columns."""
        return self.entry.columns

    @property
    def sql(self) -> str:
        """The SQL with refs as plain table names."""
        return render(self.template)

    @property
    def refs(self) -> tuple[str, ...]:
        """The tables that the SQL itself names, sorted."""
        return refs_of(self.template)

    @cached_property
    def intermediates(self) -> tuple["SqlModel", ...]:
        """The models that are no marts on the way to it and its checks, each after those that it builds on."""
        found: dict[str, SqlModel] = {}
        for name in self._all_refs:
            self._collect_intermediates(name, found)
        return tuple(found.values())

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The sources and marts that it and its checks read, once intermediate models are expanded; sorted."""
        read = {*self._all_refs, *(name for intermediate in self.intermediates for name in intermediate.refs)}
        return tuple(sorted(name for name in read if name != self.name and self.project.is_stored(name)))

    @cached_property
    def parameters(self) -> frozenset[str]:
        """The values that it is given, by the model itself and the intermediate models on the way to it."""
        return frozenset(name for model in (self, *self.intermediates) for name in parameters_of(model.tree))

    @cached_property
    def code_version(self) -> str:
        """Changes when the model, an intermediate one, or a test changes in meaning; not with white space."""
        checks = [
            {**check.identity, "sql": [normalised(parse(query, check.name)) for query in check.queries]}
            for check in self.checks
        ]
        models = {model.name: normalised(model.tree) for model in (self, *self.intermediates)}
        config = self.entry.config.model_dump(mode="json")
        return fingerprint_of({"runner": RUNNER_VERSION, "models": models, "checks": checks, "config": config})[:16]

    @cached_property
    def column_lineage(self) -> dict[str, list[tuple[str, str]]]:
        """For each column, the (table, column) pairs of its inputs that its value is computed from; sorted."""
        intermediates = {intermediate.name: intermediate.tree for intermediate in self.intermediates}
        tables = {name: [column.name for column in self.project.entry(name).columns] for name in self.inputs}
        return trace_columns(self.tree, intermediates=intermediates, tables=tables)

    @property
    def _all_refs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self.refs, *(name for check in self.checks for name in check.refs)]))

    def _collect_intermediates(self, name: str, found: dict[str, "SqlModel"]) -> None:
        intermediate = self.project.models.get(name)
        if intermediate is None or intermediate.is_mart or name in found:
            return
        for below in intermediate.refs:
            self._collect_intermediates(below, found)
        found[name] = intermediate


class SqlProject:
    """All models and sources of one folder.

    Attributes:
        folder: where it stands.
        models: by name.
        sources: the tables that other kinds of assets write, by name.
    """

    def __init__(self, folder: Path, sources: Mapping[str, TableEntry]) -> None:
        self.folder = folder
        self.models: dict[str, SqlModel] = {}
        self.sources = dict(sources)

    @property
    def marts(self) -> tuple[SqlModel, ...]:
        """The models that are assets, by name."""
        return tuple(model for _, model in sorted(self.models.items()) if model.is_mart)

    def model(self, name: str) -> SqlModel:
        """Return a model.

        Raises:
            SqlError: if there is none of this name.
        """
        if name not in self.models:
            raise SqlError(f"there is no model '{name}'; {nearest(name, list(self.models))}")
        return self.models[name]

    def entry(self, name: str) -> TableEntry:
        """Return what the YAML says of a model or source."""
        return self.sources[name] if name in self.sources else self.models[name].entry

    def is_stored(self, name: str) -> bool:
        """Say whether a table lies in the warehouse: a source or a mart."""
        return name in self.sources or self.models[name].is_mart


def load_sql_project(folder: Path) -> SqlProject:
    """Read and check a folder like dbt_like_sql.

    Args:
        folder: holds models/ and tests/.

    Raises:
        SqlError: if a file is not one query; a ref names nothing, or the models build on each other in a circle; SQL
            and YAML do not name the same models and columns; a test is unknown, or belongs to no model.
    """
    entries, sources = _read_schemas(folder)
    project = SqlProject(folder, sources)
    paths = {path.stem: path for path in sorted((folder / "models").rglob("*.sql"))}
    _require_same(paths, entries, folder)
    singular: dict[str, list[SqlCheck]] = {name: [] for name in paths}
    for owner, check in singular_checks(folder / "tests"):
        if owner not in paths:
            raise SqlError(f"{folder}/tests/{check.name}.sql: no model '{owner}'; {nearest(owner, list(paths))}")
        singular[owner].append(check)
    templates = {name: path.read_text(encoding="utf-8") for name, path in paths.items()}
    trees = {name: parse(template, str(paths[name])) for name, template in templates.items()}
    shortcuts = read_shortcuts(folder / "shortcuts", trees, singular)
    for name, path in paths.items():
        template, tree, entry = templates[name], trees[name], entries[name]
        _require_columns(tree, entry, path)
        checks = (*_yaml_checks(entry), *singular[name])
        project.models[name] = SqlModel(
            name, entry, path.parent.name == MARTS, template, tree, checks, project, shortcuts.get(name)
        )
    for model in project.models.values():
        _require_refs(model, project, paths[model.name])
    _require_no_cycle(project)
    return project


def _read_schemas(folder: Path) -> tuple[dict[str, TableEntry], dict[str, TableEntry]]:
    entries: dict[str, TableEntry] = {}
    sources: dict[str, TableEntry] = {}
    for path in sorted((folder / "models").rglob("*.yml")):
        try:
            schema = SchemaFile.model_validate(yaml.load(path.read_bytes(), Loader=SafeLoader))
        except (ValidationError, yaml.YAMLError) as error:
            raise SqlError(f"{path}: {error}") from None
        for found, listed in ((entries, schema.models), (sources, schema.sources)):
            for entry in listed:
                if entry.name in entries or entry.name in sources:
                    raise SqlError(f"{path}: '{entry.name}' is described twice")
                found[entry.name] = entry
    return entries, sources


def _yaml_checks(entry: TableEntry) -> Iterator[SqlCheck]:
    for test in entry.tests:
        yield generic_check(entry.name, None, test, where=entry.name)
    for column in entry.columns:
        for test in column.tests:
            yield generic_check(entry.name, column.name, test, where=f"{entry.name}.{column.name}")


def _require_same(paths: Mapping[str, Path], entries: Mapping[str, TableEntry], folder: Path) -> None:
    for name, path in paths.items():
        if name not in entries:
            raise SqlError(f"{path}: no YAML beside it describes the model '{name}'; {nearest(name, list(entries))}")
    for name in entries:
        if name not in paths:
            raise SqlError(f"{folder}/models: '{name}' is described, but there is no {name}.sql")


def _require_columns(tree: exp.Query, entry: TableEntry, path: Path) -> None:
    yielded, described = output_columns(tree), [column.name for column in entry.columns]
    for column in yielded:
        if column not in described:
            raise SqlError(f"{path}: column '{column}' is not in the YAML; {nearest(column, described)}")
    for column in (*described, *entry.config.grain):
        if column not in yielded:
            raise SqlError(f"{path}: the YAML names the column '{column}', which the SQL does not yield")
    if yielded != described:
        raise SqlError(f"{path}: the SQL yields {', '.join(yielded)}; the YAML has them in another order")


def _require_refs(model: SqlModel, project: SqlProject, path: Path) -> None:
    known = [*project.sources, *project.models]
    for where, refs in [(str(path), model.refs), *((check.name, check.refs) for check in model.every_check)]:
        for name in refs:
            if name not in known:
                raise SqlError(f"{where}: ref('{name}') names nothing; {nearest(name, known)}")
    there = [*model.inputs, *(intermediate.name for intermediate in model.intermediates)]
    for name in () if model.shortcut is None else model.shortcut.refs:
        if name not in there:
            raise SqlError(f"the shortcut of {model.name}: ref('{name}') is none of its tables; {nearest(name, there)}")


def _require_no_cycle(project: SqlProject) -> None:
    """Follow the refs, and then the inputs: a mart also needs what its checks read."""
    _follow(project, lambda model: model.refs)
    _follow(project, lambda model: model.inputs)


def _follow(project: SqlProject, below: Callable[[SqlModel], tuple[str, ...]]) -> None:
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            circle = " -> ".join([*above[above.index(name) :], name])
            raise SqlError(f"models build on each other in a circle: {circle}; take one of these refs out")
        if name not in done and name in project.models:
            for lower in below(project.models[name]):
                visit(lower, (*above, name))
            done.add(name)

    for name in project.models:
        visit(name, ())
