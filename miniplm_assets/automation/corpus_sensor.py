"""On new, changed or removed corpus files: one run for one state of the corpus, once its files rest.

Off until somebody starts it, since it may cost hundreds of device hours. Whatever else runs beside it, by hand or by
the clock: what one has made, the other finds stored.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

import dagster as dg

from miniplm_assets.assets.build import asset_key, named
from miniplm_assets.assets.gone_runs import report_gone_runs
from miniplm_assets.assets.old_runs import forget_old_runs
from miniplm_assets.assets.run_tags import SEEN_TAG, SNAPSHOT_TAG, STATE_TAG, is_put_down
from miniplm_assets.automation.corpus_watch import CorpusWatch, Sighting, Wanted
from miniplm_assets.automation.own_job import Job
from miniplm_assets.automation.own_runs import OwnRuns
from miniplm_assets.core.errors import MiniplmError, MissingResultError
from miniplm_assets.core.recipe import fingerprint_of
from miniplm_assets.corpus.listing import Shard
from miniplm_assets.lineage.fingerprints import RAW_CORPUS
from miniplm_assets.lineage.graph import definition_digests
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.snapshot import corpus_listing

SENSOR: Final = "corpus_changed"
# Of the 60 s that Dagster gives a tick.
SECONDS_FOR_A_LOOK: Final = 20.0
# A look goes through what is stored of every file: while no file, no run and no setting changes, it is not repeated for
# so long. It finds then what changed by itself: a folder with a model, a warehouse that was pruned.
SECONDS_BETWEEN_EQUAL_LOOKS: Final = 600


class CorpusNotReadableError(dg.DagsterError):
    """The tick failed: what the sensor looks at cannot be read."""


def corpus_sensor(pipeline: Pipeline, job: Job) -> dg.SensorDefinition:
    """Return the sensor that looks at the corpus files and asks for what they make stale, in one run.

    Args:
        pipeline: the experiment.
        job: that holds its assets.
    """
    watch = CorpusWatch(pipeline)
    experiment = fingerprint_of(definition_digests(pipeline.graph))

    @dg.sensor(
        name=named(pipeline, SENSOR),
        job=job,
        minimum_interval_seconds=pipeline.automation.seconds_between_looks,
        description="Looks at the corpus files; where one is new, changed or gone, and they rest, requests a run of "
        "what that makes stale. A file that was only touched is read once and changes nothing. One run at a time: one "
        "that works on an older state is stopped as soon as it makes what is not wanted any more. A run that failed is "
        "not asked for again until something changes; start it again by hand.",
    )
    def corpus_changed(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        try:
            return _tick(pipeline, watch, experiment, context)
        except MiniplmError as error:
            raise CorpusNotReadableError(str(error)) from None

    return corpus_changed


@dataclass(frozen=True)
class Memory:
    """What one tick leaves for the next.

    Attributes:
        sighting: the corpus files as they were listed.
        settled: digest of all that was looked at when nothing was asked for; None where something is under way.
        reason: why nothing was asked for then.
        looked_ns: when that was.
    """

    sighting: Sighting
    settled: str | None = None
    reason: str = ""
    looked_ns: int = 0

    def as_cursor(self) -> str:
        """Return it as Dagster keeps it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_cursor(cls, cursor: str | None) -> "Memory | None":
        """Return what the last tick left; None at the first one, and of a release that left something else."""
        try:
            noted = json.loads(cursor or "")
            return cls(**(noted | {"sighting": Sighting(**noted["sighting"])}))
        except (ValueError, LookupError, TypeError):
            return None


def _tick(
    pipeline: Pipeline, watch: CorpusWatch, experiment: str, context: dg.SensorEvaluationContext
) -> dg.SensorResult:
    before = Memory.from_cursor(context.cursor)
    now_ns, shards = time.time_ns(), _listed(pipeline)
    sighting = Sighting.of(shards, before=None if before is None else before.sighting, now_ns=now_ns)
    memory = Memory(sighting)

    def skip(reason: str, memory: Memory = memory) -> dg.SensorResult:
        return dg.SensorResult(skip_reason=reason, cursor=memory.as_cursor())

    unrest = sighting.why_not_quiet(shards, quiet_seconds=pipeline.automation.quiet_seconds, now_ns=now_ns)
    if unrest is not None:
        return skip(f"waiting until the corpus files rest: {unrest}")
    report_gone_runs(context.instance)
    runs = OwnRuns(context.instance, sensor=named(pipeline, SENSOR), repository=_repository(context))
    seen = fingerprint_of([experiment, sighting.listing, runs.newest()])
    if before and before.settled == seen and now_ns - before.looked_ns < SECONDS_BETWEEN_EQUAL_LOOKS * 10**9:
        return skip(before.reason, replace(before, sighting=sighting))
    wanted = watch.wanted(sighting.listing, seconds=SECONDS_FOR_A_LOOK)
    if isinstance(wanted, str):
        return skip(f"{wanted}; this goes on until the next tick")
    older = [runs.supersede(run, wanted, pipeline) for run in runs.of_older_states(wanted.state)]
    if older:
        return skip("; ".join(older))
    reason = _why_not_ask(runs, wanted)
    if reason is not None:
        forget_old_runs(context.instance, num_kept=pipeline.automation.keep_runs)
        return skip(reason, Memory(sighting, settled=seen, reason=reason, looked_ns=now_ns))
    return dg.SensorResult([_request(wanted, pipeline.key_prefix)], cursor=memory.as_cursor())


def _listed(pipeline: Pipeline) -> tuple[Shard, ...]:
    try:
        return corpus_listing(pipeline.graph[RAW_CORPUS], pipeline.store).shards
    except MissingResultError:  # the demo's, which the first look writes
        return ()


def _why_not_ask(runs: OwnRuns, wanted: Wanted) -> str | None:
    if not wanted.stale:
        return "everything is stored for the corpus and the experiment as they are"
    last = runs.last()
    if last is None or last.tags.get(STATE_TAG) != wanted.state:
        return None
    match last.status:
        case dg.DagsterRunStatus.FAILURE:
            return (
                f"run {last.run_id} failed on the corpus and the experiment as they are: {runs.failure(last)}. It is "
                "asked for again when something changes; or start it again by hand"
            )
        case dg.DagsterRunStatus.CANCELED:
            if is_put_down(last.run_id, last.tags):
                return None
            return f"run {last.run_id} was cancelled by hand; start it again by hand, or change something"
        case dg.DagsterRunStatus.SUCCESS:  # and something is stale again: another state was made the latest meanwhile
            return None
        case _:
            return f"run {last.run_id} is at it"


def _request(wanted: Wanted, prefix: Sequence[str]) -> dg.RunRequest:
    return dg.RunRequest(
        asset_selection=[asset_key(key, prefix) for key in wanted.stale],
        tags={
            "miniplm/reason": f"{len(wanted.stale)} assets are stale",
            STATE_TAG: wanted.state,
            SNAPSHOT_TAG: wanted.snapshot.recipe.fingerprint,
            SEEN_TAG: str(wanted.snapshot.seen_ns),
        },
    )


def _repository(context: dg.SensorEvaluationContext) -> str | None:
    location = context.code_location_origin
    return None if location is None else f"{context.repository_name}@{location.location_name}"
