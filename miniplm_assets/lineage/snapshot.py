"""The state of the corpus that a run works on.

Looking at the corpus reads only the files that changed since the last look. What was seen is a result
like any other, ``raw_corpus/<fingerprint>``. Of two small files beside it, one says which is the latest, the other
by which stamps the files were known: who only looks never changes what is the latest.
"""

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Final

import polars as pl

from miniplm_assets.core.errors import CorpusError, MissingResultError
from miniplm_assets.core.recipe import Recipe, fingerprint_of
from miniplm_assets.corpus.demo import write_demo_corpus
from miniplm_assets.corpus.files import LeftOut
from miniplm_assets.corpus.listing import DemoFiles, FileSource
from miniplm_assets.corpus.shards import ObservedShard, observe_corpus
from miniplm_assets.corpus.streams import is_remote
from miniplm_assets.experiment import DemoSource, HuggingFaceSource, Source
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.lineage.fingerprints import RAW_CORPUS, Fingerprints
from miniplm_assets.lineage.kind import Node
from miniplm_assets.storage.files import read_note, write_note
from miniplm_assets.storage.store import Draft, Store

FILES: Final = "files.parquet"
# The demo corpus is written before there is a graph, so that it is no asset; it lies in the store like one.
DEMO_CORPUS: Final = "demo_corpus"
DEMO_CORPUS_VERSION: Final = "1"
SCHEMA: Final[dict[str, pl.DataType]] = {
    "shard": pl.String(),
    "files": pl.List(pl.String()),
    "num_bytes": pl.Int64(),
    "fingerprint": pl.String(),
}


class Listing(Settings):
    """What `raw_corpus` reads: where the corpus is.

    Attributes:
        source: where its files are.
        warehouse: where the files of the demo corpus are written; None for any other.
        expected_tokens: for plans alone.
    """

    runtime_only: ClassVar[frozenset[str]] = frozenset({"expected_tokens"})

    source: Source
    warehouse: str | None = None
    expected_tokens: int | None = None


@dataclass(frozen=True)
class Snapshot:
    """The corpus files as they were seen at one time.

    Attributes:
        recipe: of the `raw_corpus` result that lists them.
        shards: the files, by name.
        left_out: what lies beside them and is none; nothing in a snapshot that was loaded.
    """

    recipe: Recipe
    shards: tuple[ObservedShard, ...]
    left_out: tuple[LeftOut, ...] = ()


def look(node: Node[Listing], store: Store, report: Callable[[str], None]) -> Snapshot:
    """Look at the corpus; only files whose size or time changed since the last look are read.

    Args:
        node: the node of `raw_corpus`; the demo's files are written first, unless they are stored.
        store: the warehouse.
        report: takes a line of progress.

    Raises:
        CorpusError: if the corpus is not there, empty, or cannot be read.
    """
    source = node.settings.source
    if isinstance(source, DemoSource):
        store.make(demo_recipe(source), lambda draft: write_demo_corpus(source, draft.path, report))
    snapshot = _seen_now(node, store)
    stamps = {shard.name: (shard.stamp, shard.fingerprint) for shard in snapshot.shards if shard.stamp is not None}
    if stamps != _known_stamps(node, store):
        write_note(_beside(node, store, "stamps"), stamps)
    return snapshot


def current_snapshot(node: Node[Listing], store: Store) -> tuple[Snapshot | None, str | None]:
    """Return the corpus as it is, where that can be seen without a network; else as it was seen last.

    Nothing is written: what this look has read, the next one reads again.

    Args:
        node: the node of `raw_corpus`.
        store: the warehouse.

    Returns:
        The snapshot, None where nobody has looked yet; and why it is not the present one, None where it is.
    """
    source = node.settings.source
    if isinstance(source, DemoSource):
        why = None if store.find(demo_recipe(source)) else "the demo corpus has not been written yet"
    elif isinstance(source, HuggingFaceSource) or is_remote(source.path):
        why = "the corpus lies elsewhere, and was not asked"
    else:
        why = None
    if why is None:
        try:
            return _seen_now(node, store), None
        except CorpusError as error:
            why = str(error)
    try:
        return latest_snapshot(node, store), f"{why}; this is for the corpus as it was seen last"
    except MissingResultError:
        return None, f"{why}; nothing of it has been seen so far"


def write_listing(snapshot: Snapshot, draft: Draft) -> None:
    """Write the result of `raw_corpus`: one row for each corpus file."""
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
    ).write_parquet(draft.path / FILES)
    draft.facts = {
        "num_files": len(snapshot.shards),
        "num_corpus_bytes": sum(shard.num_bytes for shard in snapshot.shards),
    }


def make_latest(snapshot: Snapshot, node: Node[Listing], store: Store) -> None:
    """Let those who do not look themselves, other runs and commands, work on this snapshot from now on."""
    latest = _beside(node, store, "latest")
    content = {"fingerprint": snapshot.recipe.fingerprint}
    if read_note(latest) != content:
        write_note(latest, content)


def latest_snapshot(node: Node[Listing], store: Store) -> Snapshot:
    """Return the state of the corpus that was seen last.

    Raises:
        MissingResultError: if nobody has looked yet.
    """
    noted = read_note(_beside(node, store, "latest"))
    if noted is None:
        raise MissingResultError(
            "raw_corpus has not been materialised, so that the corpus files are unknown. Materialise it first: "
            "dagster asset materialize --select raw_corpus -m miniplm_assets.definitions"
        )
    return load_snapshot(node, store, noted["fingerprint"])


def load_snapshot(node: Node[Listing], store: Store, fingerprint: str) -> Snapshot:
    """Return a state of the corpus by its fingerprint.

    Raises:
        MissingResultError: if it is not stored.
    """
    result = store.lookup(RAW_CORPUS, RAW_CORPUS, fingerprint)
    if result is None:
        raise MissingResultError(f"raw_corpus {fingerprint} is not in {store.root}; materialise raw_corpus again")
    stamps = _known_stamps(node, store)
    shards = []
    for row in pl.read_parquet(result.file(FILES), glob=False).iter_rows(named=True):
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
    return _snapshot_of(node, shards)


def _snapshot_of(node: Node[Listing], shards: Sequence[ObservedShard]) -> Snapshot:
    fingerprints = Fingerprints({RAW_CORPUS: node}, {shard.name: shard.fingerprint for shard in shards}, _no_folder)
    return Snapshot(fingerprints.recipe(RAW_CORPUS), tuple(shards))


def demo_recipe(source: DemoSource) -> Recipe:
    """Return the recipe of the demo corpus: it is made once for each interpreter."""
    return Recipe(
        kind=DEMO_CORPUS,
        code_version=DEMO_CORPUS_VERSION,
        settings={**source.identity(), "python": platform.python_version()},
    )


def _seen_now(node: Node[Listing], store: Store) -> Snapshot:
    """Return the corpus as it is; the files of the demo are there."""
    source = node.settings.source
    files: FileSource
    files = DemoFiles(str(store.require(demo_recipe(source)).folder)) if isinstance(source, DemoSource) else source
    known = _known_stamps(node, store)
    observed = observe_corpus(files, known=known, now_ns=time.time_ns(), warehouse=store.root)
    return replace(_snapshot_of(node, observed.shards), left_out=observed.left_out)


def _known_stamps(node: Node[Listing], store: Store) -> dict[str, tuple[str, str]]:
    """Return the stamp and the fingerprint of each corpus file at the last look."""
    noted = read_note(_beside(node, store, "stamps")) or {}
    return {name: (stamp, seen) for name, (stamp, seen) in noted.items()}


def _beside(node: Node[Listing], store: Store, what: str) -> Path:
    return store.root / RAW_CORPUS / f".{what}-{fingerprint_of(node.settings.identity())}.json"


def _no_folder(node: Node[Listing]) -> str:
    raise AssertionError(f"{node.key} has no folder")
