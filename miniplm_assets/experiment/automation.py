"""When the sensor and the schedule ask for a run. Nothing of it is in a fingerprint: it changes no result."""

import re
from typing import Final
from zoneinfo import available_timezones

from pydantic import Field, field_validator

from miniplm_assets.experiment.settings import Settings, nearest

_CRON: Final = re.compile(r"[-0-9A-Za-z*,/?#]+( +[-0-9A-Za-z*,/?#]+){4}|@(hourly|daily|weekly|monthly|yearly)")


class Automation(Settings):
    """When what runs by itself looks at the corpus, and when it asks for a run."""

    seconds_between_looks: int = Field(15, ge=1, description="how often the sensor looks at the corpus files")
    quiet_seconds: int = Field(
        60, ge=0, description="nothing is asked for while a corpus file is younger, or files come and go"
    )
    nightly: str = Field("0 3 * * *", description="cron expression of the schedule")
    timezone: str = Field("UTC", description="of the schedule, such as Europe/Berlin")
    keep_runs: int = Field(
        200, ge=10, description="of Dagster's history; older ones the sensor forgets, but for what asset pages show"
    )

    @field_validator("nightly")
    @classmethod
    def _is_cron(cls, value: str) -> str:
        if not _CRON.fullmatch(value):
            raise ValueError(
                f"{value!r} is no cron expression: minute hour day month weekday, such as 0 3 * * * for 3 at night"
            )
        return value

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, value: str) -> str:
        known = available_timezones()
        if value not in known:
            raise ValueError(f"{value!r} is no time zone; {nearest(value, sorted(known)) if value else 'such as UTC'}")
        return value
