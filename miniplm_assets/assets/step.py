"""One asset in one run: its inputs, and making its result unless it is stored."""

import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import dagster as dg

from miniplm_assets.assets.device_time import DeviceTime
from miniplm_assets.core.errors import StoreError
from miniplm_assets.core.facts import model_tokens, sum_facts
from miniplm_assets.core.recipe import Recipe
from miniplm_assets.lineage.fingerprints import Fingerprints
from miniplm_assets.lineage.graph import RAW_CORPUS, Node
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.plan import missing_recipes
from miniplm_assets.lineage.snapshot import Snapshot, latest_snapshot, load_snapshot
from miniplm_assets.storage.store import Draft, Result, Store, shard_facts
from miniplm_assets.storage.tables import TABLE_OF_STEP


class Workers(Protocol):
    """What several shards are made with at once; a `Scorer` is one.

    Attributes:
        num_devices: how many devices the shards share.
    """

    num_devices: int

    def close(self) -> None:
        """End the work that is going on."""


Value = TypeVar("Value")

# How soon a step's own thread does what its other threads ask of it.
POLL_SECONDS: Final = 0.1
# Every step of a run works on the same state of the corpus, whatever happens to its files meanwhile.
SNAPSHOT_TAG = "miniplm/raw_corpus"


@dataclass(frozen=True)
class Made:
    """A result, and what making it took.

    Attributes:
        result: of the whole asset.
        num_computed: results made in this run: files for an asset that works by shard, else one.
        num_reused: results found in the store.
        seconds_computing: in this run.
        seconds_saved: what the re-used results took when they were made.
        tokens_saved: tokens that went through a model for them.
        notes: what the page of the asset shows of this run alone.
    """

    result: Result
    num_computed: int
    num_reused: int
    seconds_computing: float
    seconds_saved: float
    tokens_saved: int
    notes: Mapping[str, Any] = field(default_factory=dict)


class Step:
    """One asset in one run."""

    def __init__(self, pipeline: Pipeline, key: str, context: dg.AssetExecutionContext) -> None:
        self.pipeline = pipeline
        self.node: Node = pipeline.graph[key]
        self._context = context
        self._thread = threading.get_ident()
        self._errands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._is_stopped = threading.Event()
        self._was_stored = False

    def report(self, line: str) -> None:
        """Show a line of progress. Dagster's log belongs to the step's own thread; lines of others wait for it."""
        if threading.get_ident() != self._thread:
            self._errands.put(partial(self._context.log.info, line))
            return
        self._run_errands()
        self._context.log.info(line)

    def in_own_thread(self, call: Callable[[], Value]) -> Value:
        """Return what a call returns that the step's own thread makes: the only one that an interrupt reaches.

        Raises:
            StoreError: if the step is stopped before the call's turn.
        """
        if threading.get_ident() == self._thread:
            return call()
        answer: Future[Value] = Future()

        def errand() -> None:
            if self._is_stopped.is_set():
                return
            try:
                answer.set_result(call())
            except Exception as error:  # noqa: BLE001 - for the thread that asked
                answer.set_exception(error)

        self._errands.put(errand)
        while not wait([answer], timeout=POLL_SECONDS).done:
            if self._is_stopped.is_set():
                raise StoreError(f"{self.node.key}: stopped")
        return answer.result()

    def _run_errands(self) -> None:
        """Do what other threads have asked of this one."""
        while not self._errands.empty():
            self._errands.get()()

    def connect_ray(self) -> None:
        """Connect to the Ray cluster, or start Ray on this machine; the resource disconnects when the step is over."""
        resource = self._context.resources.ray
        if not resource.connected:
            resource.connect(self._context)

    @property
    def store(self) -> Store:
        """The warehouse."""
        return self.pipeline.store

    @cached_property
    def snapshot(self) -> Snapshot:
        """The state of the corpus that this run works on: the one that its first step saw."""
        run = self._context.instance.get_run_by_id(self._context.run.run_id)
        pinned = run.tags.get(SNAPSHOT_TAG) if run else None
        if pinned is not None:
            return load_snapshot(self.pipeline.graph[RAW_CORPUS], self.store, pinned)
        snapshot = latest_snapshot(self.pipeline.graph[RAW_CORPUS], self.store)
        self.pin(snapshot)
        return snapshot

    def pin(self, snapshot: Snapshot) -> None:
        """Let all later steps of this run work on this state of the corpus."""
        self._context.instance.add_run_tags(self._context.run.run_id, {SNAPSHOT_TAG: snapshot.recipe.fingerprint})

    @cached_property
    def fingerprints(self) -> Fingerprints:
        """The recipes of all results on that state."""
        return self.pipeline.fingerprints(self.snapshot)

    @property
    def recipe(self) -> Recipe:
        """The recipe of the whole asset."""
        return self.fingerprints.recipe(self.node.key)

    @property
    def is_stored(self) -> bool:
        """Whether nothing is left to make: each corpus file's result is there, where it works by shard."""
        if not self._was_stored:  # what is stored stays; what is missing another run may be making
            self._was_stored = not missing_recipes(self.store, self.fingerprints, self.node.key)
        return self._was_stored

    def input(self, role: str) -> Result:
        """Return the stored result of an input that is not by shard.

        Raises:
            MissingResultError: if it has not been materialised.
        """
        return self.store.require(self.fingerprints.recipe(self.node.inputs[role]))

    def input_shards(self, role: str) -> dict[str, Result]:
        """Return the stored results of a by-shard input, for the corpus files that this asset reads.

        Raises:
            MissingResultError: if one has not been materialised.
        """
        recipes = self.fingerprints.shard_recipes(self.node.inputs[role])
        return {shard: self.store.require(recipes[shard]) for shard in self.fingerprints.matching_shards(self.node)}

    def input_tables(self, role: str) -> list[Path]:
        """Return the Parquet files of an input: the table of each corpus file that this asset reads, or all it has."""
        key = self.node.inputs[role]
        needed = self.pipeline.graph[key]
        table = TABLE_OF_STEP.get(needed.step)
        results = self.input_shards(role).values() if needed.is_stored_by_shard else [self.input(role)]
        return [path for result in results for path in ([result.file(table)] if table else result.files(".parquet"))]

    def make(self, write: Callable[[Draft], None]) -> Made:
        """Return the asset's result; make it unless it is stored."""
        made = self.make_as(self.recipe, write)
        self._report_reuse(made)
        return made

    def make_as(self, recipe: Recipe, write: Callable[[Draft], None]) -> Made:
        """Return the result of a recipe; make it unless it is stored, or another run makes it meanwhile."""
        is_computed = False

        def write_and_tell(draft: Draft) -> None:
            nonlocal is_computed
            is_computed = True
            self.report(f"{recipe.describe()}: making {recipe.fingerprint}")
            write(draft)

        result = self.store.make(recipe, write_and_tell, self.report, is_stopped=self._is_stopped.is_set)
        if is_computed:
            return Made(result, 1, 0, result.manifest.seconds, 0.0, 0)
        return Made(result, 0, 1, 0.0, result.manifest.seconds, model_tokens(result.facts))

    def make_by_shard(
        self,
        write_shard: Callable[[str, Draft], None],
        finish: Callable[[Draft], None] | None = None,
        *,
        workers: Workers | None = None,
    ) -> Made:
        """Make what is missing of a by-shard asset, corpus file by corpus file, each published on its own.

        Args:
            write_shard: fills the draft of one corpus file.
            finish: adds to the sums of the shards' facts what follows from them: a mean, the outcome of a check.
            workers: where `write_shard` is to run for several files at once, one more than there are devices, so that
                none waits where a file ends; else one after the other.
        """
        recipes = self.fingerprints.shard_recipes(self.node.key)
        write = {shard: partial(write_shard, shard) for shard in recipes}
        if workers is None:
            shards = {shard: self.make_as(recipe, write[shard]) for shard, recipe in recipes.items()}
        else:
            shards = self._make_at_once(recipes, write, workers)
        results = {shard: made.result for shard, made in shards.items()}

        def write_whole(draft: Draft) -> None:
            draft.facts = sum_facts(result.facts for result in results.values())
            if finish is not None:
                finish(draft)
            draft.facts["shards"] = shard_facts(results)
            draft.facts["columns"] = next(iter(results.values())).columns

        made = Made(
            self.store.make(self.recipe, write_whole, self.report),
            num_computed=sum(made.num_computed for made in shards.values()),
            num_reused=sum(made.num_reused for made in shards.values()),
            seconds_computing=sum(made.seconds_computing for made in shards.values()),
            seconds_saved=sum(made.seconds_saved for made in shards.values()),
            tokens_saved=sum(made.tokens_saved for made in shards.values()),
        )
        self._report_reuse(made)
        return made

    def _make_at_once(
        self, recipes: Mapping[str, Recipe], write: Mapping[str, Callable[[Draft], None]], workers: Workers
    ) -> dict[str, Made]:
        device_time = DeviceTime(workers.num_devices)

        def write_in_shared_time(shard: str, draft: Draft) -> None:
            with device_time.shared() as seconds:
                write[shard](draft)
                draft.seconds = seconds()

        with ThreadPoolExecutor(workers.num_devices + 1, thread_name_prefix="shard") as threads:
            try:
                futures = {
                    shard: threads.submit(self.make_as, recipe, partial(write_in_shared_time, shard))
                    for shard, recipe in recipes.items()
                }
                while wait(futures.values(), timeout=POLL_SECONDS, return_when=FIRST_EXCEPTION).not_done:
                    self._run_errands()
                    if any(future.done() and future.exception() for future in futures.values()):
                        break
                for future in futures.values():
                    if future.done():
                        future.result()
            except BaseException:  # an interrupt, too, must not wait for shards that are hours from their end
                self._is_stopped.set()
                threads.shutdown(wait=False, cancel_futures=True)
                workers.close()
                raise
            finally:
                self._run_errands()
        return {shard: future.result() for shard, future in futures.items()}

    def _report_reuse(self, made: Made) -> None:
        if not made.num_computed:
            self.report(f"{self.node.key}: stored as {made.result.manifest.fingerprint}, nothing to do")
        elif made.num_reused:
            self.report(f"{self.node.key}: {made.num_computed} computed, {made.num_reused} found stored")
