"""An asset of the project's own behind those of an experiment: their keys are the experiment's, behind its prefix."""

import dagster as dg

REFINED = dg.AssetKey(["keep_half", "half", "refined_corpus"])


@dg.asset(deps=[REFINED], group_name="own")
def kept_sequences(context: dg.AssetExecutionContext) -> int:
    """How many sequences the refined corpus holds, as its page in Dagster says."""
    event = context.instance.get_latest_materialization_event(REFINED)
    assert event is not None and event.asset_materialization is not None, f"{REFINED} comes before"
    rows = event.asset_materialization.metadata["dagster/row_count"].value
    assert isinstance(rows, int)
    context.log.info(f"{rows:,} sequences are kept")
    return rows
