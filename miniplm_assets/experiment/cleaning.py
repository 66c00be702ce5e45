"""Which documents of the corpus are dropped before anything is paid for: twins, and those of other languages."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from miniplm_assets.experiment.languages import LANGUAGES, nearest_language
from miniplm_assets.experiment.settings import Settings

EVERY_LANGUAGE = ("*",)


class NearDuplicates(Settings):
    """When two texts are as good as the same: by MinHash over the runs of words that they have in common."""

    min_similarity: float = Field(
        0.8, gt=0, le=1, description="of the sets of shingles: what both have, by what either has (Jaccard), estimated"
    )
    shingle_words: int = Field(5, ge=1, le=100, description="words that follow each other are a shingle")
    num_permutations: int = Field(
        128, ge=16, le=1024, description="bytes of a signature: with more, the estimate is closer, and dearer"
    )


class Cleaning(Settings):
    """What is dropped of the documents, and kept as rejected rows. Without it, every document stays."""

    languages: tuple[str, ...] = Field(
        (),
        description="documents of these stay, for example [en, de]; ['*']: of all, each with its language. Without it, "
        "nobody looks which it is",
    )
    duplicates: Literal["none", "exact", "near"] = Field(
        "none",
        description="exact: of documents with the same text the first stays, in the order of the files' names; near: "
        "of those that are much alike, too",
    )
    near: NearDuplicates = NearDuplicates()

    @field_validator("languages")
    @classmethod
    def _languages_are_known(cls, languages: tuple[str, ...]) -> tuple[str, ...]:
        if EVERY_LANGUAGE[0] in languages:
            if languages != EVERY_LANGUAGE:
                raise ValueError("'*' stands for every language, and stands alone")
            return languages
        unknown = [code for code in languages if code not in LANGUAGES]
        if unknown:
            raise ValueError("; ".join(f"'{code}' is no known language, {nearest_language(code)}" for code in unknown))
        return tuple(sorted(set(languages)))  # in whatever order they are named, the same ones stay

    @model_validator(mode="after")
    def _near_is_read(self) -> "Cleaning":
        if "near" in self.model_fields_set and self.duplicates != "near":
            raise ValueError(f"near: is read with duplicates: near alone, and that is {self.duplicates}; leave one out")
        return self

    @property
    def drops_duplicates(self) -> bool:
        """Whether a document stays only where none before it is its twin."""
        return self.duplicates != "none"

    @property
    def alike(self) -> NearDuplicates | None:
        """When two texts are as good as the same; None where they are not unless they are the same."""
        return self.near if self.duplicates == "near" else None

    @property
    def names_languages(self) -> bool:
        """Whether documents have a language."""
        return bool(self.languages)
