"""Name the checks that failed in the last run, and end with 1 where there are any; with 2 where there is no run.

For CI: `dagster asset materialize` ends with 0 where the checks that failed only warn. Run it from the folder of
dagster.yaml, or with DAGSTER_HOME set to it.
"""

import os
import sys
from collections.abc import Iterator

import dagster as dg


def failed_checks(instance: dg.DagsterInstance, run_id: str) -> Iterator[str]:
    """Yield a line for each check that failed in a run."""
    of_checks = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    for record in of_checks.records:
        event = record.event_log_entry.get_dagster_event()
        check = event.asset_check_evaluation_data
        if not check.passed:
            word = "FAILED" if check.severity == dg.AssetCheckSeverity.ERROR else "WARNING"
            why = " ".join((check.description or "").split())
            yield f"{word} {check.asset_key.to_user_string()}, {check.check_name}: {why}"


def main() -> int:
    """Print them."""
    with dg.DagsterInstance.from_config(os.environ.get("DAGSTER_HOME") or ".") as instance:
        runs = instance.get_runs(limit=1)
        if not runs:
            print(
                "error: Dagster's history holds no run; materialise first, with the same DAGSTER_HOME", file=sys.stderr
            )
            return 2
        failed = list(failed_checks(instance, runs[0].run_id))
    print("\n".join(failed) or "every check has passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
