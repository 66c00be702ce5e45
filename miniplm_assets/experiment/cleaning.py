"""Which documents of the corpus are dropped before anything is paid for: twins, and those of other languages."""

from typing import Literal

from pydantic import Field, field_validator

from miniplm_assets.experiment.languages import LANGUAGES, nearest_language
from miniplm_assets.experiment.settings import Settings

EVERY_LANGUAGE = ("*",)


class Cleaning(Settings):
    """What is dropped of the documents, and kept as rejected rows. Without it, every document stays."""

    languages: tuple[str, ...] = Field(
        (),
        description="documents of these stay, for example [en, de]; ['*']: of all, each with its language. Without it, "
        "nobody looks which it is",
    )
    duplicates: Literal["none", "exact"] = Field(
        "none",
        description="exact: of documents with the same text the first stays, in the order of the files' names",
    )

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

    @property
    def drops_duplicates(self) -> bool:
        """Whether a document stays only where none before it is its twin."""
        return self.duplicates != "none"

    @property
    def names_languages(self) -> bool:
        """Whether documents have a language."""
        return bool(self.languages)
