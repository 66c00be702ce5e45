"""When the sensor and the schedule ask for a run. Nothing of it is in a fingerprint: it changes no result."""

import re
from typing import Annotated, Final
from zoneinfo import available_timezones

from pydantic import Field, field_validator

from miniplm_assets.experiment.settings import Settings, nearest

KeyOrKind = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+(/[A-Za-z0-9_]+)*$", max_length=300)]
Hours = Annotated[float, Field(ge=0.1, le=100_000, strict=True)]
# A URL of apprise holds a password or a token, so that the file names where it is, and never holds it.
Variable = Annotated[str, Field(max_length=100)]
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
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
    fresh_within_hours: dict[KeyOrKind, Hours] = Field(
        {}, description="by asset or kind: Dagster shows it as late when it was not made or found for so long"
    )
    on_failure: tuple[Variable, ...] = Field(
        (), description="environment variables, each with URLs of apprise that are told when a run fails"
    )

    @field_validator("on_failure")
    @classmethod
    def _are_variables(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_VARIABLE.fullmatch(name) for name in names):  # which may be a secret, and is not repeated
            raise ValueError(
                "names environment variables, such as MINIPLM_FAILURE_URLS, and one of these is no such name. The URLs "
                "themselves stay out of the file: they hold passwords and tokens"
            )
        return names

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
