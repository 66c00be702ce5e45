"""Which documents of the corpus are left out before anything is paid for: those that are there twice."""

from typing import Literal

from pydantic import Field

from miniplm_assets.experiment.settings import Settings


class Cleaning(Settings):
    """What is left out of the documents, and kept as rejected rows. Without it, every document stays."""

    duplicates: Literal["none", "exact"] = Field(
        "none",
        description="exact: of documents with the same text the first stays, in the order of the files' names",
    )

    @property
    def drops_duplicates(self) -> bool:
        """Whether a document stays only where none before it is its twin."""
        return self.duplicates != "none"
