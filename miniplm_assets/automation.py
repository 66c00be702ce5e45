"""What runs by itself: on new, changed or removed corpus files, by the clock, or asset by asset.

All three are off until somebody starts them, since they may cost hundreds of device hours. They may be on
together: what one has made, the others find stored.
"""

import dagster as dg

from miniplm_assets.assets.build import asset_key
from miniplm_assets.core.errors import MiniplmError, MissingResultError
from miniplm_assets.core.recipe import fingerprint_of
from miniplm_assets.lineage.fingerprints import RAW_CORPUS, Fingerprints
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.plan import missing_recipes
from miniplm_assets.lineage.snapshot import look

NIGHTLY = "0 3 * * *"
SECONDS_BETWEEN_LOOKS = 15


def corpus_sensor(pipeline: Pipeline) -> dg.SensorDefinition:
    """Return the sensor that looks at the corpus files and asks for what they make stale, in one run."""

    @dg.sensor(
        name="corpus_changed",
        target=dg.AssetSelection.all(),
        minimum_interval_seconds=SECONDS_BETWEEN_LOOKS,
        description="Looks at the corpus files; where one is new, changed or gone, requests a run of what that makes "
        "stale. A file that was only touched is read once and changes nothing. A run that failed is not asked for "
        "again until something changes; start it again by hand.",
    )
    def corpus_changed(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        try:
            snapshot = look(pipeline.graph[RAW_CORPUS], pipeline.store, context.log.info)
            fingerprints = pipeline.fingerprints(snapshot)
            state = fingerprint_of([fingerprints.recipe(key).fingerprint for key in pipeline.graph])
            if state == context.cursor:  # asked for once, however long its run takes and however it ends
                return dg.SkipReason("the corpus and the experiment are as they were at the last request")
            wanted = _stale(pipeline, fingerprints)
        except MiniplmError as error:
            return dg.SkipReason(str(error))
        request = dg.RunRequest(
            asset_selection=[asset_key(key) for key in wanted],
            tags={"miniplm/reason": f"{len(wanted)} assets are stale"},
        )
        return dg.SensorResult([request] if wanted else [], cursor=state)

    return corpus_changed


def _stale(pipeline: Pipeline, fingerprints: Fingerprints) -> list[str]:
    """Return the assets whose result is missing, or is another one than on the state that was looked at last."""
    try:
        latest = pipeline.latest_fingerprints()
    except MissingResultError:
        return list(pipeline.graph)
    return [
        key
        for key in pipeline.graph
        if fingerprints.recipe(key) != latest.recipe(key) or missing_recipes(pipeline.store, fingerprints, key)
    ]


def nightly_schedule() -> dg.ScheduleDefinition:
    """Return the schedule that materialises everything; what is stored costs nothing."""
    return dg.ScheduleDefinition(
        name="nightly",
        target=dg.AssetSelection.all(),
        cron_schedule=NIGHTLY,
        description="Materialises the whole graph; what is stored is found, not computed.",
    )
