"""Shortcuts of dbt_like_sql: what may yield the rows of a model with less work.

`shortcuts/<model>.<CTE>.sql` is a query that stands in the place of a CTE of the model. It never yields a row that the
CTE does not have, but may miss some, or have them in another order than that of the grain. A test of the model, which
the query names (`screen:`), has a screen that tells: where that returns a row, the model is written without. So its
rows are the same with a shortcut and without, and it is no part of a code version.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlglot import exp

from miniplm_assets.core.errors import SqlError
from miniplm_assets.experiment.settings import nearest
from miniplm_assets.storage.sql_checks import SqlCheck
from miniplm_assets.storage.sql_text import normalised, parameters_of, parse, refs_of, runnable

SCREEN: Final = re.compile(r"^-- screen: *(\w+)$", re.MULTILINE)


@dataclass(frozen=True)
class Shortcut:
    """A model with another query in the place of one of its CTEs.

    Attributes:
        sql: of the whole model, as DuckDB gets it.
        screen: returns a row where what that wrote is not all of the model in its order; with ``{{ ref('...') }}``.
        refs: the tables that the query names.
    """

    sql: str
    screen: str
    refs: tuple[str, ...]


def read_shortcuts(
    folder: Path, models: Mapping[str, exp.Query], checks: Mapping[str, Sequence[SqlCheck]]
) -> dict[str, Shortcut]:
    """Read the shortcuts, by model.

    Args:
        folder: where they lie; none have to.
        models: the syntax tree of each model.
        checks: the tests of each that are files of their own.

    Raises:
        SqlError: if there is no such model or CTE, or no screen tells where a shortcut misses rows.
    """
    found: dict[str, Shortcut] = {}
    for path in sorted(folder.glob("*.sql")):
        name, _, replaced = path.stem.partition(".")
        if name not in models:
            raise SqlError(f"{path}: no model '{name}'; {nearest(name, list(models))}")
        template = path.read_text(encoding="utf-8")
        model, query = models[name].copy(), parse(template, str(path))
        ctes = {cte.alias: cte for cte in model.ctes}
        if replaced not in ctes:
            raise SqlError(f"{path}: {name} has no CTE '{replaced}'; {nearest(replaced, list(ctes))}")
        if parameters_of(query) != parameters_of(ctes[replaced].this):
            raise SqlError(f"{path}: {name} gives its CTE '{replaced}' other parameters")
        if name in found:
            raise SqlError(f"{path}: {name} has another shortcut, and one is all that it can have")
        ctes[replaced].set("this", query)
        screens = {check.name: check.screen for check in checks[name] if check.screen is not None}
        proof = SCREEN.search(template)
        if proof is None or proof[1] not in screens:
            raise SqlError(
                f"{path}: nothing tells where it misses rows: '-- screen: <a test of {name} that has a screen>', which "
                f"is one of {', '.join(screens) or 'none'}"
            )
        found[name] = Shortcut(runnable(normalised(model)), screens[proof[1]], refs_of(template))
    return found
