"""What an experiment may say of its report."""

from pydantic import Field

from miniplm_assets.core.paper import PaperStudent
from miniplm_assets.experiment.settings import Name, Settings


class Reporting(Settings):
    """What the report shows beside what is stored."""

    paper: dict[Name, PaperStudent] = Field(
        {}, description="students that repeat one of the paper: its accuracy on nine tasks stands beside theirs"
    )
