"""By the clock: everything, at night. What is stored costs nothing."""

import dagster as dg

from miniplm_assets.experiment.automation import Automation


def nightly_schedule(automation: Automation) -> dg.ScheduleDefinition:
    """Return the schedule that materialises everything; what is stored is found, not computed."""
    return dg.ScheduleDefinition(
        name="nightly",
        target=dg.AssetSelection.all(),
        cron_schedule=automation.nightly,
        execution_timezone=automation.timezone,
        description="Materialises the whole graph; what is stored is found, not computed.",
    )
