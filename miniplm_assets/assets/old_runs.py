"""The bound of Dagster's history: old runs are forgotten, but for what the pages of the assets show."""

from typing import Final

import dagster as dg

from miniplm_assets.assets.run_tags import PROCESS_TAG

_FINISHED: Final = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
# Forgetting a run takes a tenth of a second; a tick has sixty of them.
MAX_AT_ONCE: Final = 50


def forget_old_runs(instance: dg.DagsterInstance, *, num_kept: int) -> int:
    """Delete the oldest finished runs from Dagster's history, never one that made what is the latest of an asset.

    Runs of other projects on the same instance are left alone: what is executed here carries its process.

    Args:
        instance: Dagster's.
        num_kept: how many of the newest stay.

    Returns:
        How many are deleted now; more may be next time.
    """
    runs = instance.get_runs(dg.RunsFilter(statuses=_FINISHED))
    old = [run.run_id for run in runs if PROCESS_TAG in run.tags][num_kept:]
    if not old:
        return 0
    records = (record.asset_entry.last_materialization_record for record in instance.get_asset_records())
    shown = {record.run_id for record in records if record is not None}
    forgotten = [run_id for run_id in reversed(old) if run_id not in shown][:MAX_AT_ONCE]
    for run_id in forgotten:
        instance.delete_run(run_id)
    return len(forgotten)
