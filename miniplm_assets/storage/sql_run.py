"""Runs one model of dbt_like_sql and its tests on the Parquet files of its inputs.

Each run has a DuckDB of its own in memory, so that no lock is held and any number run at once. Inputs
are views over Parquet: only the columns and row groups that a query needs are read. Values are bound, never
pasted. What is written has the same bytes for the same inputs, whatever the number of threads.

A `per_shard` model runs once for each corpus file and writes a file for each, so that neither its memory nor
the files that it opens grow with the corpus (see `shard_ranges`).
"""

import errno
import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import duckdb

from miniplm_assets.core.errors import SqlError
from miniplm_assets.storage.files import path_for_duckdb
from miniplm_assets.storage.manifest import CheckOutcome
from miniplm_assets.storage.shard_ranges import SEQUENCE_ID, IdIndex, ShardRange, shard_ranges
from miniplm_assets.storage.sql_checks import PLAIN, SqlCheck
from miniplm_assets.storage.sql_project import SqlModel, SqlProject
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
    try:
        with _connection(target, memory_limit) as connection:
            run = _Run(connection, model, {table: inputs[table] for table in model.inputs}, dict(parameters), target)
            return run.outcomes()
    except duckdb.OutOfMemoryException as error:
        raise SqlError(f"{name}: more memory is needed than {memory_limit or 'this machine has'} ({error})") from error
    except duckdb.Error as error:
        if os.strerror(errno.ENOSPC) in str(error):
            raise OSError(errno.ENOSPC, str(error)) from error
        raise SqlError(f"{name}: {error}") from error


@contextmanager
def _connection(target: Path, memory_limit: str | None) -> Iterator[duckdb.DuckDBPyConnection]:
    spill = target / ".spill"
    config = {"temp_directory": str(spill)}
    if memory_limit is not None:
        config["memory_limit"] = memory_limit
    try:
        with duckdb.connect(config=config) as connection:
            connection.execute("set enable_progress_bar = false")  # it would draw itself into the log of a run
            yield connection
    finally:
        shutil.rmtree(spill, ignore_errors=True)


@dataclass
class _Failures:
    """What one check found, over all the shards so far."""

    num_rows: int = 0
    first_rows: list[dict[str, Any]] = field(default_factory=list)


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
        self._failures = {check.name: _Failures() for check in model.checks}

    def outcomes(self) -> list[CheckOutcome]:
        """Write and test the model."""
        whole = [check for check in self._model.checks if check.scope == "whole"]
        by_shard = [check for check in self._model.checks if check.scope == "shard"]
        self._open_inputs()
        self._test(check for check in whole if not self._is_behind(check.refs))
        if self._model.entry.config.per_shard:
            paths = list(self._write_shards(by_shard))
            self._open_inputs()
            self._open(self._model.name, paths)
        else:
            self._write(self._target / f"{self._model.name}.parquet", num_threads=1)
            self._test(by_shard)
        self._open_steps(behind_the_model=True)
        self._test(check for check in whole if self._is_behind(check.refs))
        return [self._outcome(check) for check in self._model.checks]

    def _write_shards(self, checks: Sequence[SqlCheck]) -> Iterator[Path]:
        columns = {
            table: [column.name for column in self._model.project.entry(table).columns] for table in self._inputs
        }
        keyed = [table for table, names in columns.items() if SEQUENCE_ID in names]
        index = IdIndex(self._inputs, keyed)
        # Of what rests on no sequences, the table before it says which corpus files there are.
        by_shard = SEQUENCES if SEQUENCES in keyed else next(table for table in keyed if "shard" in columns[table])
        for ids in shard_ranges(self._connection.table(by_shard)):
            for table in keyed:
                self._open(table, index.files(table, ids) or self._inputs[table][:1], ids)
            self._test(check for check in checks if not self._is_behind(check.refs))
            path = self._target / ids.file_name
            self._write(path)
            self._test(check for check in checks if self._is_behind(check.refs))
            yield path

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
        if num_threads is not None:
            self._connection.execute(f"set threads = {num_threads}")
        bound = {name: self._parameters[name] for name in parameters_of(self._model.tree)}
        self._connection.execute(copy, {**bound, "target": str(path)})
        self._connection.execute("reset threads")
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
            failures = self._failures[check.name]
            failures.num_rows += num_rows
            failures.first_rows = [*failures.first_rows, *rows][:NUM_SHOWN_ROWS]

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
