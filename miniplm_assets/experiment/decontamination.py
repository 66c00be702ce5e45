"""Against which texts documents are held, so that no student is trained on what it is measured by."""

from typing import Final, Literal

from pydantic import Field, field_validator

from miniplm_assets.experiment.settings import Settings

VALIDATION: Final = "validation"
ENDINGS: Final = (".txt", ".jsonl")


class Runs(Settings):
    """What documents are held against.

    Attributes:
        ngram: words of a run.
        against_validation: whether the validation split of the corpus is among the texts.
    """

    ngram: int
    against_validation: bool


class Decontamination(Settings):
    """Which documents share a run of words with a text that a model is measured by. Without it, nobody looks."""

    ngram: int = Field(
        13, ge=3, le=100, description="words that follow each other, without case and punctuation; 13 as for GPT-3"
    )
    against: tuple[str, ...] = Field(
        min_length=1,
        description="validation: the corpus' own validation split; else a file or a glob pattern of .txt and .jsonl "
        "files, of which every string counts: the texts of benchmarks",
    )
    action: Literal["count", "remove"] = Field(
        "count",
        description="count: such documents are listed. remove: they are rejected rows, too",
    )

    @field_validator("against")
    @classmethod
    def _files_are_read(cls, against: tuple[str, ...]) -> tuple[str, ...]:
        unread = [one for one in against if one != VALIDATION and not one.lower().endswith((*ENDINGS, "*"))]
        if unread:
            raise ValueError(f"{', '.join(unread)}: expected {VALIDATION}, or files whose names end in .txt or .jsonl")
        if "://" in "".join(against):
            raise ValueError("only files of this machine are read; copy those of a URL")
        return tuple(sorted(set(against)))  # in whatever order they are named, they are the same ones

    @property
    def runs(self) -> "Runs":
        """What results depend on: the texts of files are an input, wherever they lie."""
        return Runs(ngram=self.ngram, against_validation=VALIDATION in self.against)

    @property
    def removes(self) -> bool:
        """Whether documents are dropped."""
        return self.action == "remove"

    @property
    def patterns(self) -> tuple[str, ...]:
        """The files among them, or patterns of such."""
        return tuple(one for one in self.against if one != VALIDATION)
