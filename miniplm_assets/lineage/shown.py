"""What is known of one asset: its state, its figures, its failed checks, and the first rows of its table."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import polars as pl

from miniplm_assets.core.errors import ExperimentError
from miniplm_assets.core.facts import NO_FIGURES, PIECES
from miniplm_assets.lineage.kind import Node
from miniplm_assets.lineage.outcome import last_made
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.plan import reasons_of
from miniplm_assets.storage.latest import LATEST, shown_fingerprint
from miniplm_assets.storage.manifest import CheckOutcome
from miniplm_assets.storage.store import Result

STORED: Final = "stored"
PARTLY: Final = "partly stored"
STALE: Final = "stale"
NEVER: Final = "never made"
NUM_NEAREST: Final = 5


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What is known of one asset.

    Attributes:
        key: of the asset.
        description: of its kind: the first paragraph.
        state: stored, partly stored (of an asset in pieces), stale (what is stored is of other settings or inputs), or
            never made.
        reasons: why it is not stored, a line each.
        caution: where it is of an earlier state of the corpus, that.
        fingerprint: of the result that is shown; that which would be made, where none is.
        made_at: when it was made, in UTC.
        seconds: that making it took; of an asset in pieces, the sum.
        runs: of Dagster, that made it, as far as they are known.
        num_stored: of its results: of its pieces, where it has them.
        num_results: of which there are so many.
        folder: of the result, or of each piece.
        latest: the path that leads to it, whatever its fingerprint; None where it leads elsewhere.
        facts: what was reported of it.
        checks: how its checks ended.
        columns: the type of each column of its table, with its description.
        num_rows: of its table.
        num_bytes: of all its files.
        rows: the first of its table.
    """

    key: str
    description: str
    state: str
    reasons: tuple[str, ...] = ()
    caution: str = ""
    fingerprint: str
    made_at: str | None = None
    seconds: float = 0.0
    runs: tuple[str, ...] = ()
    num_stored: int = 0
    num_results: int = 1
    folders: tuple[str, ...] = ()
    latest: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    checks: tuple[CheckOutcome, ...] = ()
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    num_rows: int = 0
    num_bytes: int = 0
    rows: Sequence[Mapping[str, Any]] = ()


def show(pipeline: Pipeline, key: str, *, num_rows: int) -> Shown:
    """Return what is known of one asset; where it is stale, of the newest result there is of it.

    Args:
        pipeline: the experiment.
        key: of the asset.
        num_rows: of its table.

    Raises:
        ExperimentError: if there is no such asset; the message names the nearest.
        MissingResultError: if nobody has looked at the corpus yet.
        DamagedResultError: if a file of it is damaged.
    """
    node = find_node(pipeline, key)
    fingerprints, caution = last_made(pipeline, key, called="the asset")
    recipes = fingerprints.stored(key)
    looked_for = [(recipe, pipeline.store.find(recipe)) for recipe in recipes]
    found = [result for _, result in looked_for if result is not None]
    whole = pipeline.store.find(fingerprints.recipe(key))
    told = Shown(
        key=key,
        description=node.kind.description.partition("\n\n")[0],
        state=NEVER,
        caution=caution,
        fingerprint=fingerprints.recipe(key).fingerprint,
        num_stored=len(found),
        num_results=len(recipes),
    )
    if len(found) == len(recipes) and whole is not None:
        return _filled(replace(told, state=STORED), pipeline, node, [whole, *found], num_rows)
    earlier = [result for result in pipeline.store.results(key, on_problem=_ignore) if PIECES not in result.facts]
    absent = [recipe for recipe, result in looked_for if result is None]
    told = replace(told, reasons=tuple(reasons_of(absent, [result.manifest for result in earlier])))
    if found:
        return _filled(replace(told, state=PARTLY), pipeline, node, found, num_rows)
    if not earlier:
        return told
    newest = max(earlier, key=lambda result: result.manifest.created_at)
    told = replace(told, state=STALE, fingerprint=newest.manifest.fingerprint)
    return _filled(told, pipeline, node, [newest], num_rows)


def find_node(pipeline: Pipeline, key: str) -> Node[Any]:
    """Return the node of a key.

    Raises:
        ExperimentError: if there is none; the message names the nearest.
    """
    if key in pipeline.graph:
        return pipeline.graph[key]
    raise ExperimentError(f"the experiment has no asset '{key}'; {_nearest(key, list(pipeline.graph))}")


def _nearest(key: str, keys: Sequence[str]) -> str:
    """Name the keys that a person may have meant: all of a kind or a name first, then those that are spelt alike."""
    alike = [one for one in keys if key in one.split("/")] or difflib.get_close_matches(
        key, keys, n=NUM_NEAREST, cutoff=0.5
    )
    if not alike:
        return f"there are {', '.join(keys)}"
    more = f", and {len(alike) - NUM_NEAREST} more" if len(alike) > NUM_NEAREST else ""
    return f"the nearest: {', '.join(alike[:NUM_NEAREST])}{more}"


def _filled(told: Shown, pipeline: Pipeline, node: Node[Any], results: Sequence[Result], num_rows: int) -> Shown:
    """Return what is known with what some results say of it: the whole first, if it is among them, then its pieces."""
    results = list({result.folder: result for result in results}.values())
    files = [result for result in results if PIECES not in result.facts] or results
    tables = [node.kind.table_of(result) for result in files]
    is_latest = shown_fingerprint(pipeline.store.root, node.key) == told.fingerprint
    # What several pieces report is added up in their whole alone.
    facts = results[0].facts if len(files) == 1 or len(results) > len(files) else {}
    return replace(
        told,
        made_at=max(result.manifest.created_at for result in files),
        seconds=sum(result.manifest.seconds for result in files),
        runs=tuple(dict.fromkeys(run for result in files if (run := result.manifest.made_by.get("run")))),
        folders=tuple(str(result.folder) for result in files),
        latest=str(pipeline.store.root / LATEST / node.key) if is_latest else None,
        facts={name: value for name, value in facts.items() if name not in NO_FIGURES},
        checks=tuple(check for result in results for check in result.manifest.checks),
        columns={
            name: {"type": type_, "description": node.kind.columns.get(name, "")}
            for name, type_ in tables[0].columns.items()
        },
        num_rows=sum(table.num_rows for table in tables),
        num_bytes=sum(result.manifest.num_bytes for result in files),
        rows=_rows(node, files, num_rows),
    )


def _rows(node: Node[Any], results: Sequence[Result], num_rows: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for result in results:
        if node.kind.table is None or len(rows) >= num_rows:
            break
        for path in result.matching(node.kind.table):
            if len(rows) < num_rows:
                rows += pl.scan_parquet(path, glob=False).head(num_rows - len(rows)).collect().to_dicts()
    return rows


def _ignore(_problem: str) -> None:
    """What cannot be read is no earlier result; `verify` says what is wrong with it."""
