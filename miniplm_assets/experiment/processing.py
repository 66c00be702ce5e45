"""Where corpus files are read, packed and selected from, and how many at once."""

from typing import Literal

from pydantic import Field

from miniplm_assets.experiment.settings import Settings


class Processing(Settings):
    """Where `documents`, `sequences` and the tables of selections are made: the same bytes, whatever stands here."""

    engine: Literal["local", "ray"] = Field(
        "local", description="local: in processes of this machine; ray: as tasks of a Ray cluster"
    )
    num_processes: int | None = Field(
        None,
        ge=1,
        description="corpus files that are worked on at once, each by a process of some hundred megabytes; default: as "
        "many as there are cores (ray: of the cluster), and none beside the run's own where there is little to do",
    )
