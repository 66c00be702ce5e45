"""The state of the corpus that a run works on.

Looking at the corpus reads only the files that changed since the last look. What was seen is a result
like any other, ``raw_corpus/<fingerprint>``. Of two small files beside it, one says which is the latest, the other
by which stamps the files were known: who only looks never changes what is the latest.
"""

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Final

import polars as pl

from miniplm_assets.core.errors import CorpusError, MissingResultError
from miniplm_assets.core.recipe import Recipe, fingerprint_of
from miniplm_assets.corpus.demo import write_demo_corpus
from miniplm_assets.corpus.files import FileState, LeftOut, local_state
from miniplm_assets.corpus.listing import DemoFiles, FileSource, Listed, list_shards
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
# How much of a look is lost at most where it is broken off. All stamps are one file, so that each is not noted alone.
SECONDS_BETWEEN_NOTES: Final = 5.0
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
        seen_ns: when, by the clock of whoever looked.
        left_out: what lies beside them and is none; nothing in a snapshot that was loaded.
    """

    recipe: Recipe
    shards: tuple[ObservedShard, ...]
    seen_ns: int
    left_out: tuple[LeftOut, ...] = ()


def look(node: Node[Listing], store: Store, report: Callable[[str], None]) -> Snapshot:
    """Look at the corpus; only files whose size or time changed since the last look are read.

    What was read is kept on the way, so that a look that is broken off goes on from there.

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
    kept_at = time.monotonic()

    def keep(observed: Sequence[ObservedShard], num_shards: int) -> None:
        nonlocal kept_at
        if time.monotonic() - kept_at >= SECONDS_BETWEEN_NOTES:
            report(f"looking at the corpus: {len(observed):,} of {num_shards:,} files")
            _note_stamps(node, store, _known_stamps(node, store) | _stamps(observed))
            kept_at = time.monotonic()

    snapshot = _seen_now(node, store, keep)
    _note_stamps(node, store, _stamps(snapshot.shards))
    return snapshot


def corpus_listing(node: Node[Listing], store: Store) -> Listed:
    """Return the corpus files with their stamps, unread, and what lies beside them; the demo's files are there.

    Raises:
        CorpusError: if the corpus is not there, empty, or cannot be listed.
        MissingResultError: if it is the demo's, and has not been written yet.
    """
    return list_shards(_file_source(node, store), warehouse=store.root)


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


def make_latest(snapshot: Snapshot, node: Node[Listing], store: Store) -> bool:
    """Let those who do not look themselves, other runs and commands, work on this snapshot from now on.

    Returns:
        Whether it is the latest now: not where somebody has looked later, and made that the latest. A look of the
        future was one by a clock that went wrong.
    """

    def later(noted: Any) -> dict[str, Any] | None:
        if noted is not None and snapshot.seen_ns < noted.get("seen_ns", 0) <= time.time_ns():
            return None
        return {"fingerprint": snapshot.recipe.fingerprint, "seen_ns": snapshot.seen_ns}

    return store.notes.change(_beside(node, "latest"), later)


def latest_state(node: Node[Listing], store: Store) -> str | None:
    """Return the fingerprint of the state of the corpus that was seen last; None where nobody has looked yet."""
    noted = store.notes.read(_beside(node, "latest"))
    return None if noted is None else str(noted["fingerprint"])


def mark_complete(snapshot: Snapshot, node: Node[Listing], store: Store) -> None:
    """Note that everything is made on this state of the corpus: what is shown while a newer one is in the making."""
    store.notes.change(_beside(node, "complete"), lambda _: {"fingerprint": snapshot.recipe.fingerprint})


def complete_snapshot(node: Node[Listing], store: Store) -> Snapshot | None:
    """Return the last state of the corpus on which everything was made; None where there is none, or it is pruned."""
    noted = store.notes.read(_beside(node, "complete"))
    try:
        return None if noted is None else load_snapshot(node, store, noted["fingerprint"], seen_ns=0)
    except MissingResultError:
        return None


def latest_snapshot(node: Node[Listing], store: Store) -> Snapshot:
    """Return the state of the corpus that was seen last.

    Raises:
        MissingResultError: if nobody has looked yet.
    """
    noted = store.notes.read(_beside(node, "latest"))
    if noted is None:
        raise MissingResultError(
            "raw_corpus has not been materialised, so that the corpus files are unknown. Materialise it first: "
            "dagster asset materialize --select raw_corpus -m miniplm_assets.definitions"
        )
    return load_snapshot(node, store, noted["fingerprint"], seen_ns=noted.get("seen_ns", 0))


def load_snapshot(node: Node[Listing], store: Store, fingerprint: str, *, seen_ns: int) -> Snapshot:
    """Return a state of the corpus by its fingerprint.

    Args:
        node: the node of `raw_corpus`.
        store: the warehouse.
        fingerprint: of the `raw_corpus` result that lists it.
        seen_ns: when somebody saw it.

    Raises:
        MissingResultError: if it is not stored.
    """
    stamps = store.root / _beside(node, "stamps")
    # Every asset of a run asks for the same: of 100,000 corpus files it takes seconds to work out.
    state = local_state(stamps) if stamps.exists() else None
    kept = _loaded.get((store.root, fingerprint))
    if kept is None or kept[0] != state or not store.holds(kept[1].recipe):
        result = store.lookup(RAW_CORPUS, RAW_CORPUS, fingerprint)
        if result is None:
            raise MissingResultError(
                f"raw_corpus {fingerprint} is not in {store.address}; materialise raw_corpus again"
            )
        kept = state, _snapshot_of(node, _listed(result.file(FILES), _read_stamps(stamps)), seen_ns)
        _loaded.clear()  # of a process that lives for weeks, the last one alone
        _loaded[store.root, fingerprint] = kept
    return replace(kept[1], seen_ns=seen_ns)


# What was loaded last, by its warehouse and fingerprint, with the state of the stamps beside it.
_loaded: dict[tuple[Path, str], tuple[FileState | None, Snapshot]] = {}


def _listed(listing: Path, stamps: Mapping[str, tuple[str, str]]) -> list[ObservedShard]:
    """Return the corpus files that a result lists, each with its stamp where it is still what was seen."""
    shards = []
    for row in pl.read_parquet(listing, glob=False).iter_rows(named=True):
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
    return shards


def _snapshot_of(
    node: Node[Listing], shards: Sequence[ObservedShard], seen_ns: int, left_out: tuple[LeftOut, ...] = ()
) -> Snapshot:
    fingerprints = Fingerprints({RAW_CORPUS: node}, {shard.name: shard.fingerprint for shard in shards}, _no_folder)
    return Snapshot(fingerprints.recipe(RAW_CORPUS), tuple(shards), seen_ns, left_out)


def demo_recipe(source: DemoSource) -> Recipe:
    """Return the recipe of the demo corpus: it is made once for each interpreter."""
    return Recipe(
        kind=DEMO_CORPUS,
        code_version=DEMO_CORPUS_VERSION,
        settings={**source.identity(), "python": platform.python_version()},
    )


def _file_source(node: Node[Listing], store: Store) -> FileSource:
    source = node.settings.source
    return DemoFiles(str(store.require(demo_recipe(source)).folder)) if isinstance(source, DemoSource) else source


def _seen_now(
    node: Node[Listing], store: Store, on_read: Callable[[Sequence[ObservedShard], int], None] = lambda *_: None
) -> Snapshot:
    """Return the corpus as it is; the files of the demo are there."""
    seen_ns = time.time_ns()
    observed = observe_corpus(
        _file_source(node, store),
        known=_known_stamps(node, store),
        now_ns=seen_ns,
        warehouse=store.root,
        on_read=on_read,
    )
    return _snapshot_of(node, observed.shards, seen_ns, observed.left_out)


def _stamps(shards: Sequence[ObservedShard]) -> dict[str, tuple[str, str]]:
    return {shard.name: (shard.stamp, shard.fingerprint) for shard in shards if shard.stamp is not None}


def _note_stamps(node: Node[Listing], store: Store, stamps: dict[str, tuple[str, str]]) -> None:
    if stamps != _known_stamps(node, store):
        write_note(store.root / _beside(node, "stamps"), stamps)


def _known_stamps(node: Node[Listing], store: Store) -> dict[str, tuple[str, str]]:
    """Return the stamp and the fingerprint of each corpus file at the last look."""
    return _read_stamps(store.root / _beside(node, "stamps"))


def _read_stamps(path: Path) -> dict[str, tuple[str, str]]:
    noted = read_note(path) or {}
    return {name: (stamp, seen) for name, (stamp, seen) in noted.items()}


def _beside(node: Node[Listing], what: str) -> str:
    """Return the name of a note. That of stamps is of one machine, whose files they are; the others of everybody."""
    return f"{RAW_CORPUS}/.{what}-{fingerprint_of(node.settings.identity())}.json"


def _no_folder(node: Node[Listing]) -> str:
    raise AssertionError(f"{node.key} has no folder")
