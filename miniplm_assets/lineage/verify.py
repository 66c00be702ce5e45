"""Proof that what is stored is right: every byte against its manifest, and what a kind can derive by other means."""

import queue
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from miniplm_assets.core.errors import MiniplmError, MissingResultError
from miniplm_assets.core.stop import Stop
from miniplm_assets.lineage.fingerprints import RAW_CORPUS
from miniplm_assets.lineage.outcome import CATALOG
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.snapshot import Snapshot, latest_snapshot
from miniplm_assets.lineage.tally import Tally
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.catalog import catalog_problems
from miniplm_assets.storage.store import Store


def verify_store(store: Store, report: Callable[[str], None]) -> Iterator[str]:
    """Re-read every stored file, and say what differs from its manifest and what the catalog shows of elsewhere."""
    num_results = num_bytes = 0
    unreadable: list[str] = []
    for result in store.results(on_problem=unreadable.append):
        num_results += 1
        num_bytes += result.manifest.num_bytes
        try:
            yield from result.problems()
        except OSError as error:
            yield f"{result.folder}: cannot be read ({error})"
    yield from unreadable
    yield from catalog_problems(store.root / CATALOG)
    report(f"{num_results:,} results, {num_bytes / 1e6:,.1f} MB re-read")


def verify_derived(pipeline: Pipeline, report: Callable[[str], None]) -> Iterator[str]:
    """Derive again by other means whatever a kind knows how to, and say what differs from what is stored."""
    try:
        looking = _Looking(report, latest_snapshot(pipeline.graph[RAW_CORPUS], pipeline.store))
    except MissingResultError as error:  # nobody has looked at the corpus in this place: it may have been moved here
        report(f"nothing is derived again: {error}")
        return
    except MiniplmError as error:
        yield str(error)
        return
    for node in pipeline.graph.values():
        if node.kind.verify is None:
            continue
        try:
            work = Work(pipeline, node, looking)
            if work.is_stored:
                yield from node.kind.verify(work)
            else:
                report(f"{node.key}: not stored, nothing to verify")
        except (MiniplmError, OSError) as error:
            yield f"{node.key} cannot be verified: {error}"


@dataclass(frozen=True)
class _Looking:
    """A run that makes nothing."""

    report: Callable[[str], None]
    seen: Snapshot
    errands: "queue.SimpleQueue[Callable[[], object]]" = field(default_factory=queue.SimpleQueue)
    stop: Stop = field(default_factory=Stop)
    run_id: None = None

    def progressed(self, tally: Tally, pieces: Collection[str]) -> None:
        raise AssertionError(f"a run that makes nothing is at {pieces} of {tally}")

    def snapshot(self) -> Snapshot:
        return self.seen

    def asked_snapshot(self) -> Snapshot | None:
        return self.seen

    def maker_of(self, _key: str) -> str | None:
        return None

    def pin(self, snapshot: Snapshot) -> None:
        raise AssertionError(f"a run that makes nothing pinned {snapshot.recipe.fingerprint}")

    def device(self) -> AbstractContextManager[None]:
        raise AssertionError("a run that makes nothing loads no model")

    def connect_ray(self) -> None:
        raise AssertionError("a run that makes nothing scores nothing")
