"""Runs one model of dbt_like_sql and its tests on the Parquet files of its inputs.

Each run has a DuckDB of its own in memory, so that no lock is held and any number run at once. Inputs
are views over Parquet: only the columns and row groups that a query needs are read. Values are bound, never
pasted. What is written has the same bytes for the same inputs, whatever the number of threads.

A `per_shard` model runs once for each corpus file and writes a file for each, so that neither its memory nor
the files that it opens grow with the corpus (see `shard_ranges`). Other processes may do that, too (`ShardRun`).
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import duckdb

from miniplm_assets.core.errors import SqlError
from miniplm_assets.storage.duckdb_session import duckdb_in_memory, explained_duckdb
from miniplm_assets.storage.files import path_for_duckdb
from miniplm_assets.storage.manifest import CheckOutcome
from miniplm_assets.storage.shard_ranges import SEQUENCE_ID, IdIndex, ShardRange, shard_ranges
from miniplm_assets.storage.sql_checks import PLAIN, SqlCheck
from miniplm_assets.storage.sql_project import SqlModel, SqlProject, load_sql_project
from miniplm_assets.storage.sql_text import parameters_of, render

SEQUENCES: Final = "sequences"
# DuckDB's own size for rows of numbers. With lists (texts, tokens) a row takes some 10 kB: 160 MB at once are enough.
ROWS_PER_GROUP: Final = 122_880
ROWS_WITH_LISTS_PER_GROUP: Final = 16_384
# As many failing rows as a person looks at, and as much of a text.
NUM_SHOWN_ROWS: Final = 5
NUM_SHOWN_CHARACTERS: Final = 200


def run_model(
    project: SqlProject,
    name: str,
    *,
    inputs: Mapping[str, Sequence[Path]],
    parameters: Mapping[str, object],
    target: Path,
    memory_limit: str | None = None,
    traits: Collection[str] = PLAIN,
    spread: "Spread | None" = None,
) -> list[CheckOutcome]:
    """Write the rows of a model as Parquet and test them.

    Args:
        project: where the model stands.
        name: the model, a mart.
        inputs: the Parquet files of each of `SqlModel.inputs`; more do no harm.
        parameters: a value for each of `SqlModel.parameters`; more do no harm.
        target: an existing folder; gets `<model>.parquet`, or for a `per_shard` model a file for each corpus file
            that has sequences (or rows of the model's first table that has shards), even where it has no row.
        memory_limit: for DuckDB, for example "4GB"; beyond it, work goes through files in `target`.
        traits: of the selection, which decide what is tested; see `sql_checks`.
        spread: has the corpus files of a `per_shard` model done elsewhere, where there are several; None where this
            process does them.

    Returns:
        How each check ended, in the order of `SqlModel.checks`.

    Raises:
        SqlError: if an input is missing; a check of severity `stop` fails (what is in `target` must then not be
            published); the SQL does not run, or yields other types than the YAML says.
        OSError: if the disk is full.
    """
    model = project.model(name).of(traits)
    if not model.is_mart:
        raise SqlError(f"{name} is an intermediate model, not a mart: it is expanded into the models that use it")
    for table in model.inputs:
        if not inputs.get(table):
            raise SqlError(f"{name} reads {table}, which has no file. Materialise {table} first")
    for parameter in sorted(model.parameters - parameters.keys()):
        raise SqlError(f"{name}: no value for its parameter ${parameter}")
    with explained_duckdb(name, memory_limit), duckdb_in_memory(target, memory_limit) as connection:
        run = _Run(connection, model, {table: inputs[table] for table in model.inputs}, dict(parameters), target)
        return run.outcomes(spread)


@dataclass
class Failures:
    """What one check found, over all the shards so far."""

    num_rows: int = 0
    first_rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, num_rows: int, rows: Sequence[dict[str, Any]]) -> None:
        """Add the failing rows of a shard, of which the first are given."""
        self.num_rows += num_rows
        self.first_rows = [*self.first_rows, *rows][:NUM_SHOWN_ROWS]


@dataclass(frozen=True, kw_only=True)
class ShardRun:
    """What a `per_shard` model has for one corpus file, for a process that knows nothing of it.

    Attributes:
        project: the folder of the SQL.
        model: its name.
        code_version: of it, which that process must have, too.
        traits: of the selection.
        inputs: the files of each table, of keyed ones those that may hold ids of the corpus file.
        ids: of the corpus file.
        parameters: values of the model's parameters.
    """

    project: Path
    model: str
    code_version: str
    traits: frozenset[str]
    inputs: Mapping[str, Sequence[Path]]
    ids: ShardRange
    parameters: Mapping[str, object]

    def write(
        self, target: Path, *, num_threads: int | None = None, memory_limit: str | None = None
    ) -> dict[str, Failures]:
        """Write the rows of the corpus file into a folder, as `ids.file_name`, and test them.

        Args:
            target: an existing folder.
            num_threads: of DuckDB; the bytes are the same on any number. None: as many as there are cores.
            memory_limit: as for `run_model`.

        Returns:
            What the checks of each shard found, by name.

        Raises:
            SqlError: as `run_model`; or if the SQL is another one here.
            OSError: if the disk is full.
        """
        model = _project(self.project).model(self.model).of(self.traits)
        if model.code_version != self.code_version:
            raise SqlError(
                f"{self.model}: {self.project} holds another SQL than the run has that asks for it; have the same "
                "version of the project on all machines"
            )
        with (
            explained_duckdb(self.model, memory_limit),
            duckdb_in_memory(target, memory_limit, num_threads) as connection,
        ):
            run = _Run(connection, model, self.inputs, dict(self.parameters), target)
            return run.failures_of_shard(self.ids)


# Has corpus files done elsewhere, each into the folder that is given; what `ShardRun.write` returns of each, in order.
Spread = Callable[[Sequence[ShardRun], Path], Iterator[dict[str, Failures]]]


@lru_cache(maxsize=1)
def _project(folder: Path) -> SqlProject:
    """Read the SQL once in a process that does many corpus files."""
    return load_sql_project(folder)


class _Run:
    """One model on one connection."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        model: SqlModel,
        inputs: Mapping[str, Sequence[Path]],
        parameters: dict[str, object],
        target: Path,
    ) -> None:
        self._connection = connection
        self._model = model
        self._inputs = inputs
        self._parameters = parameters
        self._target = target
        self._failures = {check.name: Failures() for check in model.checks}

    def outcomes(self, spread: Spread | None) -> list[CheckOutcome]:
        """Write and test the model."""
        whole = [check for check in self._model.checks if check.scope == "whole"]
        self._open_inputs()
        self._test(check for check in whole if not self._is_behind(check.refs))
        if self._model.entry.config.per_shard:
            shards = list(self._shards())
            if spread is None or len(shards) == 1:
                paths = [self._write_shard(ids, files) for ids, files in shards]
            else:
                paths = list(self._spread_shards(shards, spread))
            self._open_inputs()
            self._open(self._model.name, paths)
        else:
            self._write(self._target / f"{self._model.name}.parquet", num_threads=1)
            self._test(self._checks_of_shards)
        self._open_steps(behind_the_model=True)
        self._test(check for check in whole if self._is_behind(check.refs))
        return [self._outcome(check) for check in self._model.checks]

    def failures_of_shard(self, ids: ShardRange) -> dict[str, Failures]:
        """Write and test what a corpus file has; return what its tests found, by name."""
        self._open_inputs()
        self._write_shard(ids, self._inputs)
        return self._failures

    @property
    def _checks_of_shards(self) -> list[SqlCheck]:
        return [check for check in self._model.checks if check.scope == "shard"]

    @property
    def _keyed(self) -> dict[str, list[str]]:
        """The inputs that are cut by the ids of a corpus file, and their columns."""
        entries = {table: self._model.project.entry(table) for table in self._inputs}
        columns = {table: [column.name for column in entry.columns] for table, entry in entries.items()}
        return {table: names for table, names in columns.items() if SEQUENCE_ID in names}

    def _spread_shards(
        self, shards: Sequence[tuple[ShardRange, Mapping[str, Sequence[Path]]]], spread: Spread
    ) -> Iterator[Path]:
        runs = [
            ShardRun(
                project=self._model.project.folder,
                model=self._model.name,
                code_version=self._model.code_version,
                traits=self._model.traits,
                inputs={**self._inputs, **files},
                ids=ids,
                parameters=self._parameters,
            )
            for ids, files in shards
        ]
        for run, failures in zip(runs, spread(runs, self._target), strict=True):
            for name, found in failures.items():
                self._failures[name].add(found.num_rows, found.first_rows)
            yield self._target / run.ids.file_name

    def _shards(self) -> Iterator[tuple[ShardRange, dict[str, Sequence[Path]]]]:
        """Go through the corpus files: the ids of each, and the files of the keyed tables that may hold them."""
        keyed = self._keyed
        index = IdIndex(self._inputs, keyed)
        # Of what rests on no sequences, the table before it says which corpus files there are.
        by_shard = SEQUENCES if SEQUENCES in keyed else next(table for table in keyed if "shard" in keyed[table])
        for ids in shard_ranges(self._connection.table(by_shard)):
            yield ids, {table: index.files(table, ids) or self._inputs[table][:1] for table in keyed}

    def _write_shard(self, ids: ShardRange, files: Mapping[str, Sequence[Path]]) -> Path:
        for table in self._keyed:
            self._open(table, files[table], ids)
        checks = self._checks_of_shards
        self._test(check for check in checks if not self._is_behind(check.refs))
        path = self._target / ids.file_name
        self._write(path)
        self._test(check for check in checks if self._is_behind(check.refs))
        return path

    def _write(self, path: Path, *, num_threads: int | None = None) -> None:
        """Write the model's rows, ordered by the grain.

        A sum of doubles depends on the order in which threads deliver them; models that add up rows get one thread.
        """
        grain = ", ".join(self._model.entry.config.grain)
        has_lists = any(column.data_type.endswith("[]") for column in self._model.columns)
        rows_per_group = ROWS_WITH_LISTS_PER_GROUP if has_lists else ROWS_PER_GROUP
        copy = (
            f"copy (select * from (\n{self._model.sql}\n) order by {grain}) to $target "  # noqa: S608
            f"(format parquet, parquet_version v2, compression zstd, row_group_size {rows_per_group})"
        )
        before = self._connection.execute("select current_setting('threads')").fetchall()[0][0]
        self._connection.execute(f"set threads = {num_threads or before}")
        bound = {name: self._parameters[name] for name in parameters_of(self._model.tree)}
        self._connection.execute(copy, {**bound, "target": str(path)})
        self._connection.execute(f"set threads = {before}")  # and not reset, which would be all cores
        self._open(self._model.name, [path])
        self._require_types()

    def _require_types(self) -> None:
        written = self._connection.table(self._model.name)
        for column, found in zip(self._model.columns, written.types, strict=True):
            if str(found) != column.data_type:
                raise SqlError(
                    f"{self._model.name}: column {column.name} is {found}, the YAML says {column.data_type}; correct "
                    "the one that is wrong"
                )

    def _open_inputs(self) -> None:
        for table, paths in self._inputs.items():
            self._open(table, paths)
        self._open_steps(behind_the_model=False)

    def _open_steps(self, *, behind_the_model: bool) -> None:
        for intermediate in self._model.intermediates:
            if self._is_behind(intermediate.refs) == behind_the_model:
                self._connection.execute(f"create or replace view {intermediate.name} as {intermediate.sql}")

    def _is_behind(self, tables: Sequence[str]) -> bool:
        """Say whether one of these tables is the model itself or an intermediate model that builds on it."""
        intermediates = {intermediate.name: intermediate.refs for intermediate in self._model.intermediates}
        return any(table == self._model.name or self._is_behind(intermediates.get(table, ())) for table in tables)

    def _open(self, table: str, paths: Sequence[Path], ids: ShardRange | None = None) -> None:
        """Let a table's name stand for Parquet files, or for those of their rows that are in a range of ids."""
        relation = self._connection.read_parquet([path_for_duckdb(path) for path in paths], hive_partitioning=False)
        if ids is not None:
            limits = duckdb.ConstantExpression(ids.first_id), duckdb.ConstantExpression(ids.last_id)
            relation = relation.filter(duckdb.ColumnExpression(SEQUENCE_ID).between(*limits))
        relation.create_view(table, replace=True)

    def _test(self, checks: Iterable[SqlCheck]) -> None:
        for check in checks:
            if check.screen is not None and self._num_rows(check.screen, {}) == 0:
                continue
            bound = {**self._parameters_in(check.sql), **check.parameters}
            num_rows = self._num_rows(check.sql, bound)
            if num_rows == 0:
                continue
            failing = f"select * from (\n{render(check.sql)}\n) limit {NUM_SHOWN_ROWS}"  # noqa: S608
            shown = self._connection.execute(failing, bound)
            names = [column[0] for column in shown.description]
            rows = [dict(zip(names, row, strict=True)) for row in shown.fetchall()]
            if check.severity == "stop":
                raise SqlError(self._stopped(check, rows[0], num_rows))
            self._failures[check.name].add(num_rows, rows)

    def _parameters_in(self, template: str) -> dict[str, Any]:
        """Return the model's own parameters that a test of it names."""
        named = [name for name in self._model.parameters if re.search(rf"\${name}\b", template)]
        return {name: self._parameters[name] for name in named}

    def _num_rows(self, template: str, bound: dict[str, Any]) -> int:
        counted = self._connection.execute(f"select count(*) from (\n{render(template)}\n)", bound)  # noqa: S608
        return int(counted.fetchall()[0][0])

    def _stopped(self, check: SqlCheck, row: dict[str, Any], num_rows: int) -> str:
        more = f" ({num_rows - 1:,} more like it)" if num_rows > 1 else ""
        problem = row.get("problem") or f"{check.description} Not so: {row}"
        return f"{self._model.name}: {problem}{more}"

    def _outcome(self, check: SqlCheck) -> CheckOutcome:
        failures = self._failures[check.name]
        facts: dict[str, Any] = {"num_failing_rows": failures.num_rows}
        if failures.num_rows:
            facts["first_rows"] = [{name: _shown(value) for name, value in row.items()} for row in failures.first_rows]
        return CheckOutcome(name=check.name, passed=failures.num_rows == 0, description=check.description, facts=facts)


def _shown(value: object) -> str | int | None:
    """Return a value as a manifest can hold it and a person can read it."""
    if value is None or isinstance(value, int):
        return value
    return str(value)[:NUM_SHOWN_CHARACTERS]
