"""Watching the corpus: whether its files rest, and what they make stale. Knows nothing of Dagster."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from typing import Final

from miniplm_assets.core.errors import MissingResultError
from miniplm_assets.core.recipe import fingerprint_of
from miniplm_assets.corpus.listing import Shard
from miniplm_assets.lineage.fingerprints import RAW_CORPUS, Fingerprints
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.plan import missing_recipes
from miniplm_assets.lineage.snapshot import Snapshot, look, write_listing

MAX_NAMED: Final = 5


@dataclass(frozen=True)
class Sighting:
    """The corpus files as they were listed, unread.

    Attributes:
        listing: digest of their names and stamps.
        since_ns: since when it is that, as far as the one who looks knows: 0 from the first sighting on.
    """

    listing: str
    since_ns: int

    @classmethod
    def of(cls, shards: Sequence[Shard], *, before: "Sighting | None", now_ns: int) -> "Sighting":
        """Return the sighting of a listing.

        Args:
            shards: as they are listed now.
            before: the sighting before this one.
            now_ns: the clock.
        """
        listing = fingerprint_of([[shard.name, shard.stamp, shard.num_bytes] for shard in shards])
        if before is None:
            return cls(listing, 0)
        return before if before.listing == listing else cls(listing, now_ns)

    def why_not_quiet(self, shards: Sequence[Shard], *, quiet_seconds: int, now_ns: int) -> str | None:
        """Say why the files may still be being written, or come and go; None where they rest.

        Args:
            shards: what was sighted.
            quiet_seconds: how long nothing may have changed.
            now_ns: the clock.
        """
        # A file from the future is stamped by another clock: whether it rests, only the listing tells.
        young = [shard.name for shard in shards if 0 <= now_ns - shard.modified_ns < quiet_seconds * 10**9]
        if young:
            more = f" and {len(young) - MAX_NAMED:,} more" if len(young) > MAX_NAMED else ""
            return f"{', '.join(young[:MAX_NAMED])}{more} changed less than {quiet_seconds} s ago"
        if now_ns - self.since_ns < quiet_seconds * 10**9:
            return f"files came, changed or went less than {quiet_seconds} s ago"
        return None


@dataclass(frozen=True)
class Wanted:
    """What a state of the corpus asks for.

    Attributes:
        state: digest of all results on it.
        snapshot: the state; its listing is stored where something is stale.
        fingerprints: the recipes of all results on it.
        stale: the assets whose result is missing, or is another one than on the state that is the latest now.
    """

    state: str
    snapshot: Snapshot
    fingerprints: Fingerprints
    stale: tuple[str, ...]


class CorpusWatch:
    """Looks at the corpus in a thread of its own, one look at a time: a look may take longer than a tick may."""

    def __init__(self, pipeline: Pipeline) -> None:
        """Watch the corpus of an experiment."""
        self._pipeline = pipeline
        self._look: _Look | None = None
        self._lock = threading.Lock()

    def wanted(self, listing: str, *, seconds: float) -> Wanted | str:
        """Return what the corpus asks for; or how far the look is, after so many seconds.

        Args:
            listing: digest of what is there now; what was seen of another listing is seen again.
            seconds: how long to wait for it.

        Raises:
            MiniplmError: if the corpus or a folder that the experiment names cannot be read.
        """
        with self._lock:
            if self._look is None or (self._look.found.done() and self._look.listing != listing):
                self._look = _Look(self._pipeline, listing)
            look = self._look
            wait([look.found], seconds)
            if not look.found.done() or look.listing != listing:
                return look.progress
            self._look = None
        return look.found.result()


class _Look:
    """One look, in a thread that does not outlive the process.

    Attributes:
        listing: digest of what was there when it began.
        progress: how far it is.
        found: what it finds, or fails with.
    """

    def __init__(self, pipeline: Pipeline, listing: str) -> None:
        self.listing = listing
        self.progress = "looking at the corpus"
        self.found: Future[Wanted] = Future()
        threading.Thread(target=self._run, args=(pipeline,), name="corpus look", daemon=True).start()

    def _tell(self, line: str) -> None:
        self.progress = line

    def _run(self, pipeline: Pipeline) -> None:
        try:
            with pipeline.store.in_use(self._tell):
                self.found.set_result(look_for_stale(pipeline, self._tell))
        except BaseException as failure:  # noqa: BLE001 - nobody is behind this thread
            self.found.set_exception(failure)


def look_for_stale(pipeline: Pipeline, report: Callable[[str], None]) -> Wanted:
    """Look at the corpus, and hold what is stored against it.

    Args:
        pipeline: the experiment.
        report: told how far the look is.

    Raises:
        MiniplmError: if the corpus or a folder that the experiment names cannot be read.
    """
    snapshot = look(pipeline.graph[RAW_CORPUS], pipeline.store, report)
    fingerprints = pipeline.fingerprints(snapshot)
    stale = tuple(_stale(pipeline, fingerprints))
    if stale:  # a run is asked for this state, whatever the files are when it starts
        pipeline.store.make(snapshot.recipe, partial(write_listing, snapshot), report)
    state = fingerprint_of([fingerprints.recipe(key).fingerprint for key in pipeline.graph])
    return Wanted(state, snapshot, fingerprints, stale)


def _stale(pipeline: Pipeline, fingerprints: Fingerprints) -> list[str]:
    try:
        latest = pipeline.latest_fingerprints()
    except MissingResultError:
        return list(pipeline.graph)
    return [
        key
        for key in pipeline.graph
        if fingerprints.recipe(key) != latest.recipe(key) or missing_recipes(pipeline.store, fingerprints, key)
    ]
