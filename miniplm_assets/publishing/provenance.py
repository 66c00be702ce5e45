"""Where something that is published comes from: every asset behind it, with its settings and fingerprints."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from miniplm_assets.publishing.markdown import plain, table

PROVENANCE: Final = "provenance.json"
PAPER: Final = "https://arxiv.org/abs/2410.17215"


@dataclass(frozen=True, kw_only=True)
class Ancestor:
    """One asset that went into what is published, or that itself.

    Attributes:
        key: its name in the experiment, then its kind.
        fingerprint: of its result: of its settings, code and inputs.
        code_version: of its kind.
        settings: those that are not at their default, without places of this machine.
        inputs: the key of each input, by its role.
    """

    key: str
    fingerprint: str
    code_version: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """A file that is published as it is stored.

    Attributes:
        name: in the repository.
        stored_as: its name in the warehouse.
        num_bytes: its size.
        sha256: of its content.
        num_rows: of a table.
    """

    name: str
    stored_as: str
    num_bytes: int
    sha256: str
    num_rows: int | None


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where something comes from.

    Attributes:
        key: of the asset.
        fingerprint: of the very result that is published: of one seed, where there are several.
        created_at: when that was made, in UTC.
        versions: of the packages that made it.
        files: those that are published as they are stored.
        ancestors: what went into it, itself last.
    """

    key: str
    fingerprint: str
    created_at: str
    versions: Mapping[str, str]
    files: tuple[PublishedFile, ...]
    ancestors: tuple[Ancestor, ...]

    def to_json(self) -> dict[str, Any]:
        """Return all of it as a JSON value."""
        return {
            "asset": self.key,
            "fingerprint": self.fingerprint,
            "created_at": self.created_at,
            "versions": dict(self.versions),
            "files": [asdict(file) for file in self.files],
            "ancestors": [asdict(one) for one in self.ancestors],
        }

    def to_markdown(self) -> str:
        """Return the fingerprints and versions as two sections of a card."""
        fingerprints = [(plain(one.key), f"`{one.fingerprint}`") for one in self.ancestors]
        of_all = (
            "" if self.ancestors[-1].fingerprint == self.fingerprint else " The last row is of all its seeds together."
        )
        versions = ", ".join(f"{plain(package)} {version}" for package, version in self.versions.items())
        return f"""## Fingerprints

This is `{self.fingerprint}` of {plain(self.key)}. A fingerprint hashes the settings, the code version and the
fingerprints of the inputs: with the same code and corpus, the same experiment finds the same ones. Settings, inputs and
the checksum of each file are in `{PROVENANCE}`.{of_all}

{table(["asset", "fingerprint"], fingerprints)}

## Versions

Made {self.created_at} with {versions}."""


def method_section() -> str:
    """Return whose method it is."""
    return (
        f"## Method\n\nDifference Sampling, of MiniPLM: Knowledge Distillation for Pre-Training Language Models "
        f"([arXiv 2410.17215]({PAPER})): kept is what a large teacher finds easier than a small reference does."
    )


def made_section(made: Mapping[str, str]) -> str:
    """Return how it was made, a row a thing."""
    return f"## How it was made\n\n{table(['', ''], [(what, plain(words)) for what, words in made.items()])}"


@dataclass(frozen=True, kw_only=True)
class Published:
    """What the card of anything that is published shows.

    Attributes:
        name: of the student or the selection.
        summary: of what it is, a sentence.
        tags: of its repository.
        corpus_id: of the data set on the hub that its corpus is, if it is one.
        license_id: of the hub; None where none is stated.
        repository: where it will lie, if that is known.
        made: how it was made, a row a thing.
        is_by_difference: whether the difference of teacher and reference went into it.
        provenance: where it comes from.
    """

    name: str
    summary: str
    tags: tuple[str, ...]
    corpus_id: str | None
    license_id: str | None
    repository: str | None
    made: Mapping[str, str]
    is_by_difference: bool
    provenance: Provenance
