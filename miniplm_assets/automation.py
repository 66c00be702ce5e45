"""What runs by itself: on new, changed or removed corpus files, by the clock, or asset by asset.

All three are off until somebody starts them, since they may cost hundreds of device hours. They may be on
together: what one has made, the others find stored.
"""

import dagster as dg

from miniplm_assets.assets.build import asset_key
from miniplm_assets.core.errors import MiniplmError
from miniplm_assets.core.recipe import fingerprint_of
from miniplm_assets.lineage.graph import RAW_CORPUS
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.plan import missing_recipes
from miniplm_assets.lineage.snapshot import look

NIGHTLY = "0 3 * * *"
SECONDS_BETWEEN_LOOKS = 30


def corpus_sensor(pipeline: Pipeline) -> dg.SensorDefinition:
    """Return the sensor that looks at the corpus files and asks for what they make stale, in one run."""

    @dg.sensor(
        name="corpus_changed",
        target=dg.AssetSelection.all(),
        minimum_interval_seconds=SECONDS_BETWEEN_LOOKS,
        description="Looks at the corpus files; where one is new, changed or gone, requests a run of what that makes "
        "stale. A file that was only touched is read once and changes nothing.",
    )
    def corpus_changed(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        source = pipeline.experiment.corpus.source
        try:
            snapshot = look(source, pipeline.graph[RAW_CORPUS], pipeline.store, context.log.info)
        except MiniplmError as error:
            return dg.SkipReason(str(error))
        fingerprints = pipeline.fingerprints(snapshot)
        stale = [key for key in pipeline.graph if missing_recipes(pipeline.store, fingerprints, key)]
        if not stale:
            return dg.SkipReason("all is stored for the corpus as it is")
        state = fingerprint_of([fingerprints.recipe(key).fingerprint for key in pipeline.graph])
        return dg.SensorResult(
            [
                dg.RunRequest(
                    # The same state is asked for once, however long its run takes.
                    run_key=state,
                    asset_selection=[asset_key(key) for key in dict.fromkeys([RAW_CORPUS, *stale])],
                    tags={"miniplm/reason": f"{len(stale)} assets are stale"},
                )
            ]
        )

    return corpus_changed


def nightly_schedule() -> dg.ScheduleDefinition:
    """Return the schedule that materialises everything; what is stored costs nothing."""
    return dg.ScheduleDefinition(
        name="nightly",
        target=dg.AssetSelection.all(),
        cron_schedule=NIGHTLY,
        description="Materialises the whole graph; what is stored is found, not computed.",
    )
