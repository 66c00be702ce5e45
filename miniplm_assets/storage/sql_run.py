"""Runs one model of dbt_like_sql and its tests on the Parquet files of its inputs.

Each run has a DuckDB of its own in memory, so that no lock is held and any number run at once. Inputs
are views over Parquet: only the columns and row groups that a query needs are read. Values are bound, never
pasted. What is written has the same bytes for the same inputs, whatever the number of threads.

A `per_shard` model runs once for each corpus file and writes a file for each, so that neither its memory nor
the files that it opens grow with the corpus (see `shard_ranges`): as many at once as there are cores. Other processes
may do that, too (`ShardRun`).
"""

from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import duckdb

from miniplm_assets.core.errors import SqlError
from miniplm_assets.storage.duckdb_session import (
    duckdb_in_memory,
    each_beside,
    explained_duckdb,
    limited_threads,
    num_threads_of,
)
from miniplm_assets.storage.files import path_for_duckdb
from miniplm_assets.storage.manifest import CheckOutcome
from miniplm_assets.storage.shard_ranges import SEQUENCE_ID, IdIndex, ShardRange, shard_ranges
from miniplm_assets.storage.sql_checks import PLAIN, SqlCheck
from miniplm_assets.storage.sql_project import SqlModel, SqlProject, load_sql_project
from miniplm_assets.storage.sql_shortcuts import Shortcut
from miniplm_assets.storage.sql_testing import Failures, SqlTests
from miniplm_assets.storage.sql_text import parameters_of, runnable

SEQUENCES: Final = "sequences"
# DuckDB's own size for rows of numbers. With lists (texts, tokens) a row takes some 10 kB: 160 MB at once are enough.
ROWS_PER_GROUP: Final = 122_880
ROWS_WITH_LISTS_PER_GROUP: Final = 16_384


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
            run.open_inputs()
            return run.failures_of_shard(self.ids, self.inputs)


# Has corpus files done elsewhere, each into the folder that is given; what `ShardRun.write` returns of each, in order.
Spread = Callable[[Sequence[ShardRun], Path], Iterator[dict[str, Failures]]]


@lru_cache(maxsize=1)
def _project(folder: Path) -> SqlProject:
    """Read the SQL once in a process that does many corpus files."""
    return load_sql_project(folder)


# The ids of a corpus file, and the files of the keyed tables that may hold them.
Shard = tuple[ShardRange, Mapping[str, Sequence[Path]]]


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
        self._tests = SqlTests(connection, model, parameters)

    def outcomes(self, spread: Spread | None) -> list[CheckOutcome]:
        """Write and test the model."""
        whole = [check for check in self._model.checks if check.scope == "whole"]
        self.open_inputs()
        self._tests.run(check for check in whole if not self._is_behind(check.refs))
        if self._model.entry.config.per_shard:
            paths = self._write_shards(list(self._shards()), spread)
            self.open_inputs()
            self._open(self._model.name, paths)
        else:
            # A sum of doubles depends on the order in which threads deliver them.
            num_threads = None if self._model.entry.config.is_exact else 1
            self._write(self._target / f"{self._model.name}.parquet", num_threads=num_threads)
            self._tests.run(self._checks_of_shards)
        self._open_steps(behind_the_model=True)
        self._tests.run(check for check in whole if self._is_behind(check.refs))
        return self._tests.outcomes()

    def failures_of_shard(self, ids: ShardRange, files: Mapping[str, Sequence[Path]]) -> dict[str, Failures]:
        """Write and test what a corpus file has, from the files of the keyed tables; return what its tests found."""
        for table in self._keyed:
            self._open(table, files[table], ids)
        checks, tests = self._checks_of_shards, SqlTests(self._connection, self._model, self._parameters)
        tests.run(check for check in checks if not self._is_behind(check.refs))
        self._write(self._target / ids.file_name)
        tests.run(check for check in checks if self._is_behind(check.refs))
        return tests.failures

    @property
    def _checks_of_shards(self) -> list[SqlCheck]:
        return [check for check in self._model.checks if check.scope == "shard"]

    @property
    def _has_lists(self) -> bool:
        return any(column.data_type.endswith("[]") for column in self._model.columns)

    @property
    def _keyed(self) -> dict[str, list[str]]:
        """The inputs that are cut by the ids of a corpus file, and their columns."""
        entries = {table: self._model.project.entry(table) for table in self._inputs}
        columns = {table: [column.name for column in entry.columns] for table, entry in entries.items()}
        return {table: names for table, names in columns.items() if SEQUENCE_ID in names}

    def _write_shards(self, shards: Sequence[Shard], spread: Spread | None) -> list[Path]:
        """Write and test what each corpus file has; return the files, in the order of the corpus files.

        Here, as many at once as DuckDB has threads; but those with texts and tokens, which are sorted with their rows,
        one after the other: each may take much of the memory.
        """
        num_at_once = 1 if self._has_lists else min(num_threads_of(self._connection), len(shards))
        found: Generator[dict[str, Failures], None, None]
        if spread is not None and len(shards) > 1:
            found = self._spread_shards(shards, spread)
        elif num_at_once > 1:
            found = each_beside(self._connection, self._beside, shards, num_at_once=num_at_once)
        else:
            found = (self.failures_of_shard(*shard) for shard in shards)
        with closing(found):  # nobody writes when this one does not go on
            for failures in found:
                self._tests.add(failures)
        return [self._target / ids.file_name for ids, _ in shards]

    def _spread_shards(self, shards: Sequence[Shard], spread: Spread) -> Generator[dict[str, Failures], None, None]:
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
        for _, failures in zip(runs, spread(runs, self._target), strict=True):
            yield failures

    def _beside(self, connection: duckdb.DuckDBPyConnection) -> Callable[[Shard], dict[str, Failures]]:
        """Return what writes and tests a corpus file, which brings its files of keyed tables, on another connection."""
        keyed = self._keyed
        inputs = {table: paths[:1] if table in keyed else paths for table, paths in self._inputs.items()}
        run = _Run(connection, self._model, inputs, self._parameters, self._target)
        run.open_inputs()
        return lambda shard: run.failures_of_shard(*shard)

    def _shards(self) -> Iterator[Shard]:
        """Go through the corpus files: the ids of each, and the files of the keyed tables that may hold them."""
        keyed = self._keyed
        index = IdIndex(self._inputs, keyed)
        # Of what rests on no sequences, the table before it says which corpus files there are.
        by_shard = SEQUENCES if SEQUENCES in keyed else next(table for table in keyed if "shard" in keyed[table])
        for ids in shard_ranges(self._connection.table(by_shard)):
            yield ids, {table: index.files(table, ids) or self._inputs[table][:1] for table in keyed}

    def _write(self, path: Path, *, num_threads: int | None = None) -> None:
        """Write the model's rows, ordered by the grain: by its shortcut, where that yields them all."""
        with limited_threads(self._connection, num_threads):
            if self._model.shortcut is None or not self._is_written_by(self._model.shortcut, path):
                grain = ", ".join(self._model.entry.config.grain)
                self._copy(f"select * from (\n{runnable(self._model.template)}\n) order by {grain}", path)  # noqa: S608
        self._require_types()

    def _is_written_by(self, shortcut: Shortcut, path: Path) -> bool:
        self._copy(shortcut.sql, path)
        return not self._tests.has_rows(shortcut.screen)

    def _copy(self, sql: str, path: Path) -> None:
        rows_per_group = ROWS_WITH_LISTS_PER_GROUP if self._has_lists else ROWS_PER_GROUP
        bound = {name: self._parameters[name] for name in parameters_of(self._model.tree)}
        self._connection.execute(
            # Else a second copy goes by way of `tmp_<name>`, which may be the name of another corpus file.
            f"copy (\n{sql}\n) to $target (format parquet, parquet_version v2, compression zstd, "
            f"row_group_size {rows_per_group}, use_tmp_file false)",
            {**bound, "target": str(path)},
        )
        self._open(self._model.name, [path])

    def _require_types(self) -> None:
        written = self._connection.table(self._model.name)
        for column, found in zip(self._model.columns, written.types, strict=True):
            if str(found) != column.data_type:
                raise SqlError(
                    f"{self._model.name}: column {column.name} is {found}, the YAML says {column.data_type}; correct "
                    "the one that is wrong"
                )

    def open_inputs(self) -> None:
        """Let the names of all inputs, and of the intermediate models on them, stand for what they hold."""
        for table, paths in self._inputs.items():
            self._open(table, paths)
        self._open_steps(behind_the_model=False)

    def _open_steps(self, *, behind_the_model: bool) -> None:
        for intermediate in self._model.intermediates:
            if self._is_behind(intermediate.refs) == behind_the_model:
                self._connection.execute(
                    f"create or replace view {intermediate.name} as {runnable(intermediate.template)}"
                )

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
