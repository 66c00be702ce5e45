"""The state of the corpus that all assets of a run work on: the first that was asked for, or seen, is a tag of it."""

import dagster as dg

from miniplm_assets.assets.run_tags import SEEN_TAG, SNAPSHOT_TAG
from miniplm_assets.lineage.fingerprints import RAW_CORPUS
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.snapshot import Snapshot, latest_snapshot, load_snapshot


def snapshot_of_run(pipeline: Pipeline, instance: dg.DagsterInstance, run: dg.DagsterRun) -> Snapshot:
    """Return the state of the corpus that a run works on: the latest, where none is pinned, and pin that.

    Raises:
        MissingResultError: if nobody has looked at the corpus yet.
    """
    pinned = pinned_snapshot(pipeline, instance, run)
    if pinned is None:
        pinned = latest_snapshot(pipeline.graph[RAW_CORPUS], pipeline.store)
        pin(instance, run, pinned)
    return pinned


def pinned_snapshot(pipeline: Pipeline, instance: dg.DagsterInstance, run: dg.DagsterRun) -> Snapshot | None:
    """Return the state of the corpus that is pinned to a run; None where none is.

    Raises:
        MissingResultError: if it is not stored any more.
    """
    now = instance.get_run_by_id(run.run_id)
    pinned = now.tags.get(SNAPSHOT_TAG) if now else None
    if pinned is None:
        return None
    seen_ns = int(run.tags.get(SEEN_TAG, 0))
    return load_snapshot(pipeline.graph[RAW_CORPUS], pipeline.store, pinned, seen_ns=seen_ns)


def pin(instance: dg.DagsterInstance, run: dg.DagsterRun, snapshot: Snapshot) -> None:
    """Let all later assets of a run work on this state of the corpus."""
    instance.add_run_tags(run.run_id, {SNAPSHOT_TAG: snapshot.recipe.fingerprint})
