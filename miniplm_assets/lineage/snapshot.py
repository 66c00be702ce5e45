"""The state of the corpus that a run works on.

Looking at the corpus reads only the files that changed since the last look. What was seen is a result
like any other, ``raw_corpus/<fingerprint>``; a small file beside it says which one is the latest.
"""

import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl

from miniplm_assets.core.errors import MissingResultError
from miniplm_assets.core.recipe import Recipe, fingerprint_of
from miniplm_assets.corpus.demo import write_demo_corpus
from miniplm_assets.corpus.shards import ObservedShard, observe_corpus
from miniplm_assets.experiment import DemoSource, JsonlSource, Source
from miniplm_assets.lineage.fingerprints import Fingerprints
from miniplm_assets.lineage.graph import CODE_VERSIONS, RAW_CORPUS, Node
from miniplm_assets.storage.files import write_json
from miniplm_assets.storage.store import Draft, Store

TABLE = "files.parquet"
SCHEMA: Final[dict[str, pl.DataType]] = {
    "shard": pl.String(),
    "files": pl.List(pl.String()),
    "num_bytes": pl.Int64(),
    "fingerprint": pl.String(),
}


@dataclass(frozen=True)
class Snapshot:
    """The corpus files as they were seen at one time.

    Attributes:
        recipe: of the `raw_corpus` result that lists them.
        shards: the files, by name.
    """

    recipe: Recipe
    shards: tuple[ObservedShard, ...]


def look(source: Source, node: Node, store: Store, report: Callable[[str], None]) -> Snapshot:
    """Look at the corpus; only files whose size or time changed since the last look are read.

    Args:
        source: where the corpus is; the demo's is made first, unless it is stored.
        node: the node of `raw_corpus`.
        store: the warehouse.
        report: takes a line of progress.

    Raises:
        CorpusError: if the corpus is not there, empty, or cannot be read.
    """
    if isinstance(source, DemoSource):
        source = _demo_files(source, store, report)
    pointer = _read_pointer(node, store)
    known = {name: (stamp, seen) for name, (stamp, seen) in pointer.get("stamps", {}).items()}
    shards = observe_corpus(source, known=known, now_ns=time.time_ns())
    stamps = {shard.name: (shard.stamp, shard.fingerprint) for shard in shards if shard.stamp is not None}
    if stamps != known:
        _write_pointer(node, store, pointer | {"stamps": stamps})
    fingerprints = Fingerprints({RAW_CORPUS: node}, {shard.name: shard.fingerprint for shard in shards}, _no_folder)
    return Snapshot(fingerprints.recipe(RAW_CORPUS), tuple(shards))


def write_listing(snapshot: Snapshot, draft: Draft) -> None:
    """Write the result of `raw_corpus`: a row a corpus file."""
    pl.DataFrame(
        [
            {
                "shard": shard.name,
                "files": shard.files,
                "num_bytes": shard.num_bytes,
                "fingerprint": shard.fingerprint,
            }
            for shard in snapshot.shards
        ],
        schema=SCHEMA,
    ).write_parquet(draft.path / TABLE)
    draft.facts = {
        "num_files": len(snapshot.shards),
        "num_corpus_bytes": sum(shard.num_bytes for shard in snapshot.shards),
    }


def make_latest(snapshot: Snapshot, node: Node, store: Store) -> None:
    """Let those who do not look themselves, other runs and commands, work on this snapshot from now on."""
    pointer = _read_pointer(node, store)
    if pointer.get("fingerprint") != snapshot.recipe.fingerprint:
        _write_pointer(node, store, pointer | {"fingerprint": snapshot.recipe.fingerprint})


def latest_snapshot(node: Node, store: Store) -> Snapshot:
    """Return the state of the corpus that was seen last.

    Raises:
        MissingResultError: if nobody has looked yet.
    """
    fingerprint = _read_pointer(node, store).get("fingerprint")
    if fingerprint is None:
        raise MissingResultError(
            "raw_corpus has not been materialised, so that the corpus files are unknown. Materialise it first: "
            "dagster asset materialize --select raw_corpus -m miniplm_assets.definitions"
        )
    return load_snapshot(node, store, fingerprint)


def load_snapshot(node: Node, store: Store, fingerprint: str) -> Snapshot:
    """Return a state of the corpus by its fingerprint.

    Raises:
        MissingResultError: if it is not stored.
    """
    result = store.lookup(RAW_CORPUS, fingerprint)
    if result is None:
        raise MissingResultError(f"raw_corpus {fingerprint} is not in {store.root}; materialise raw_corpus again")
    stamps = _read_pointer(node, store).get("stamps", {})
    shards = []
    for row in pl.read_parquet(result.file(TABLE)).iter_rows(named=True):
        stamp, seen = stamps.get(row["shard"], (None, None))
        shards.append(
            ObservedShard(
                name=row["shard"],
                files=tuple(row["files"]),
                num_bytes=row["num_bytes"],
                fingerprint=row["fingerprint"],
                stamp=stamp if seen == row["fingerprint"] else None,
            )
        )
    fingerprints = Fingerprints({RAW_CORPUS: node}, {shard.name: shard.fingerprint for shard in shards}, _no_folder)
    return Snapshot(fingerprints.recipe(RAW_CORPUS), tuple(shards))


def demo_recipe(source: DemoSource) -> Recipe:
    """Return the recipe of the demo corpus: it is made once for each interpreter."""
    return Recipe(
        key="demo_corpus",
        code_version=CODE_VERSIONS["demo_corpus"],
        settings={**source.identity(), "python": platform.python_version()},
    )


def _demo_files(source: DemoSource, store: Store, report: Callable[[str], None]) -> JsonlSource:
    result = store.make(demo_recipe(source), lambda draft: write_demo_corpus(source, draft.path, report))
    return JsonlSource(type="jsonl", path=str(result.folder / "*.jsonl"))


def _pointer(node: Node, store: Store) -> Path:
    return store.root / RAW_CORPUS / f".latest-{fingerprint_of(dict(node.settings))}.json"


def _write_pointer(node: Node, store: Store, content: dict[str, Any]) -> None:
    path = _pointer(node, store)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, content)


def _read_pointer(node: Node, store: Store) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(_pointer(node, store).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return content


def _no_folder(path: Path) -> str:
    raise AssertionError(f"the raw corpus has no folder input: {path}")
