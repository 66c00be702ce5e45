"""Runs the tests of a model of dbt_like_sql, and keeps what they find."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import duckdb

from miniplm_assets.core.errors import SqlError
from miniplm_assets.storage.manifest import CheckOutcome
from miniplm_assets.storage.sql_checks import SqlCheck
from miniplm_assets.storage.sql_project import SqlModel
from miniplm_assets.storage.sql_text import runnable

# As many failing rows as a person looks at, and as much of a text.
NUM_SHOWN_ROWS: Final = 5
NUM_SHOWN_CHARACTERS: Final = 200


@dataclass
class Failures:
    """What one check found, over all the shards so far."""

    num_rows: int = 0
    first_rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, num_rows: int, rows: Sequence[dict[str, Any]]) -> None:
        """Add the failing rows of a shard, of which the first are given."""
        self.num_rows += num_rows
        self.first_rows = [*self.first_rows, *rows][:NUM_SHOWN_ROWS]


class SqlTests:
    """The tests of one model, on one connection.

    Attributes:
        failures: what each has found so far, by name.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, model: SqlModel, parameters: Mapping[str, object]
    ) -> None:
        self._connection = connection
        self._model = model
        self._parameters = parameters
        self.failures = {check.name: Failures() for check in model.checks}

    def run(self, checks: Iterable[SqlCheck]) -> None:
        """Run some of the tests.

        Raises:
            SqlError: if one of severity `stop` fails.
        """
        for check in checks:
            if check.screen is not None and not self.has_rows(check.screen):
                continue
            bound = {**self._parameters_in(check.sql), **check.parameters}
            num_rows = self._num_rows(check.sql, bound)
            if num_rows == 0:
                continue
            failing = f"select * from (\n{runnable(check.sql)}\n) limit {NUM_SHOWN_ROWS}"  # noqa: S608
            shown = self._connection.execute(failing, bound)
            names = [column[0] for column in shown.description]
            rows = [dict(zip(names, row, strict=True)) for row in shown.fetchall()]
            if check.severity == "stop":
                raise SqlError(self._stopped(check, rows[0], num_rows))
            self.failures[check.name].add(num_rows, rows)

    def has_rows(self, template: str) -> bool:
        """Say whether a query without parameters returns rows."""
        return self._num_rows(template, {}) > 0

    def add(self, failures: Mapping[str, Failures]) -> None:
        """Add what the same tests found elsewhere."""
        for name, found in failures.items():
            self.failures[name].add(found.num_rows, found.first_rows)

    def outcomes(self) -> list[CheckOutcome]:
        """Return how each ended, in the order of `SqlModel.checks`."""
        return [self._outcome(check) for check in self._model.checks]

    def _parameters_in(self, template: str) -> dict[str, Any]:
        """Return the model's own parameters that a test of it names."""
        named = [name for name in self._model.parameters if re.search(rf"\${name}\b", template)]
        return {name: self._parameters[name] for name in named}

    def _num_rows(self, template: str, bound: dict[str, Any]) -> int:
        counted = self._connection.execute(f"select count(*) from (\n{runnable(template)}\n)", bound)  # noqa: S608
        return int(counted.fetchall()[0][0])

    def _stopped(self, check: SqlCheck, row: dict[str, Any], num_rows: int) -> str:
        more = f" ({num_rows - 1:,} more like it)" if num_rows > 1 else ""
        problem = row.get("problem") or f"{check.description} Not so: {row}"
        return f"{self._model.name}: {problem}{more}"

    def _outcome(self, check: SqlCheck) -> CheckOutcome:
        failures = self.failures[check.name]
        facts: dict[str, Any] = {"num_failing_rows": failures.num_rows}
        if failures.num_rows:
            facts["first_rows"] = [{name: _shown(value) for name, value in row.items()} for row in failures.first_rows]
        return CheckOutcome(name=check.name, passed=failures.num_rows == 0, description=check.description, facts=facts)


def _shown(value: object) -> str | int | None:
    """Return a value as a manifest can hold it and a person can read it."""
    if value is None or isinstance(value, int):
        return value
    return str(value)[:NUM_SHOWN_CHARACTERS]
