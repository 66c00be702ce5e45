"""The artifact store: every result that was ever computed, by what went into it.

    <warehouse>/<asset key>/<fingerprint>/...parquet | model files + manifest.json

A result is complete or invisible. It is written into a folder beside its place, flushed, described by
a manifest and renamed; a crash leaves a folder that nobody reads and the next writer removes. A lock
for each result makes a second run wait and then find it stored. What a step needs to go on after a crash
lies in a work folder of its own, which goes when the result is there.

Reading verifies: sizes and checksums against the manifest, once for each result and process.
"""

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from miniplm_assets.core.errors import DamagedResultError, MissingResultError, StoreError
from miniplm_assets.core.recipe import Recipe
from miniplm_assets.storage.files import flush_to_disk, sha256_of, wait_for_lock, write_json
from miniplm_assets.storage.manifest import (
    MANIFEST,
    CheckOutcome,
    Manifest,
    StoredFile,
    package_versions,
    read_manifest,
)


@dataclass(frozen=True)
class Result:
    """One stored result: its folder and what its manifest says."""

    folder: Path
    manifest: Manifest

    @property
    def facts(self) -> dict[str, Any]:
        """What its step reported."""
        return self.manifest.facts

    @property
    def columns(self) -> dict[str, str]:
        """Column types of its first table, by name; empty where it has none."""
        return next((file.columns for file in self.manifest.files if file.columns), {})

    def file(self, name: str) -> Path:
        """Return the path of one verified file."""
        self._verify()
        return self.folder / name

    def files(self, suffix: str) -> list[Path]:
        """Return the paths of its verified files with this ending, in the manifest's order."""
        self._verify()
        return [self.folder / file.name for file in self.manifest.files if file.name.endswith(suffix)]

    def verified_folder(self) -> Path:
        """Return its folder, all files verified: for a model or a tokenizer, which is read as a whole."""
        self._verify()
        return self.folder

    def problems(self) -> Iterator[str]:
        """Say what differs between the files and the manifest; re-reads every byte."""
        for file in self.manifest.files:
            path = self.folder / file.name
            try:
                found = path.stat().st_size
            except FileNotFoundError:
                yield f"{path}: missing"
                continue
            if found != file.num_bytes:
                yield f"{path}: {found:,} bytes, the manifest says {file.num_bytes:,}"
            elif sha256_of(path) != file.sha256:
                yield f"{path}: the content does not fit the checksum of the manifest"
            elif file.num_rows is not None and pq.read_metadata(path).num_rows != file.num_rows:
                yield f"{path}: {pq.read_metadata(path).num_rows:,} rows, the manifest says {file.num_rows:,}"

    def _verify(self) -> None:
        if self.folder in _VERIFIED:
            return
        problem = next(self.problems(), None)
        if problem is not None:
            raise DamagedResultError(f"{problem}. Delete the folder {self.folder} and materialise {self.manifest.key}.")
        _VERIFIED.add(self.folder)


# Published folders never change, so that one look at each is enough for a process.
_VERIFIED: set[Path] = set()


@dataclass
class Draft:
    """A result in the making.

    Attributes:
        path: an empty folder for its files.
        work: a folder that survives a crash, for parts and checkpoints; only the holder of the lock sees it.
        facts: what the step reports: JSON values, kept in the manifest.
        checks: outcomes of the asset checks.
        seconds: what making it took, where that is not the time that went by: a share of a device's.
    """

    path: Path
    work: Path
    facts: dict[str, Any] = field(default_factory=dict)
    checks: list[CheckOutcome] = field(default_factory=list)
    seconds: float | None = None


class Store:
    """All results of one warehouse.

    Args:
        root: the folder of the warehouse; made when the first result is written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, recipe: Recipe) -> Result | None:
        """Return the stored result of a recipe, or None."""
        return self.lookup(recipe.key, recipe.fingerprint)

    def lookup(self, key: str, fingerprint: str) -> Result | None:
        """Return a stored result by its address, or None."""
        folder = self.root / key / fingerprint
        manifest = read_manifest(folder)
        if manifest is None:
            return None
        if (manifest.key, manifest.fingerprint) != (key, fingerprint):
            raise DamagedResultError(
                f"{folder / MANIFEST}: describes {manifest.key} {manifest.fingerprint}, which is not where it lies. "
                f"Delete the folder {folder} and materialise {key} again."
            )
        return Result(folder, manifest)

    def require(self, recipe: Recipe) -> Result:
        """Return the stored result of a recipe.

        Raises:
            MissingResultError: if it is not there; the message says what to materialise.
        """
        found = self.find(recipe)
        if found is None:
            raise MissingResultError(
                f"{recipe.describe()} has no stored result {recipe.fingerprint} in {self.root}. Materialise it first: "
                f"dagster asset materialize --select '+key:\"{recipe.key}\"' -m miniplm_assets.definitions"
            )
        return found

    def make(
        self,
        recipe: Recipe,
        write: Callable[[Draft], None],
        report: Callable[[str], None] | None = None,
        *,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> Result:
        """Return the stored result of a recipe; where there is none, let `write` fill a draft and publish it.

        Args:
            recipe: what goes into it.
            write: fills the draft.
            report: told where another run is at it, and this one waits.
            is_stopped: asked again and again while it waits; where it says so, the wait ends with an error.

        Raises:
            StoreError: if the warehouse cannot be written, or the disk is full.
        """
        found = self.find(recipe)
        if found is not None:
            # What a process left that was killed after it had published, and before it had tidied up.
            shutil.rmtree(self.root / recipe.key / f".work-{recipe.fingerprint}", ignore_errors=True)
            return found
        with self._locked(recipe, report, is_stopped) as place:
            found = self.find(recipe)  # another run may have made it while this one waited
            if found is not None:
                return found
            return self._write(recipe, place, write)

    def results(self, key: str = "**", *, on_problem: Callable[[str], None] | None = None) -> Iterator[Result]:
        """Go through everything that is stored, or all results of one asset.

        Args:
            key: of the asset.
            on_problem: takes what is wrong with a manifest that cannot be read; absent: that is an error.

        Raises:
            DamagedResultError: if a manifest cannot be read, and nobody takes the problem.
        """
        for path in sorted(self.root.glob(f"{key}/*/{MANIFEST}")):
            if any(part.startswith(".") for part in path.relative_to(self.root).parts):
                continue
            try:
                manifest = read_manifest(path.parent)
            except DamagedResultError as error:
                if on_problem is None:
                    raise
                on_problem(str(error))
                continue
            if manifest is not None:
                yield Result(path.parent, manifest)

    def remove(self, result: Result) -> None:
        """Delete a result. Its manifest goes first, so that what is left of it is never taken for a result."""
        (result.folder / MANIFEST).unlink()
        flush_to_disk(result.folder)
        shutil.rmtree(result.folder)
        _VERIFIED.discard(result.folder)

    def _write(self, recipe: Recipe, place: Path, write: Callable[[Draft], None]) -> Result:
        started = time.monotonic()
        staging = place / f".writing-{recipe.fingerprint}"
        work = place / f".work-{recipe.fingerprint}"
        draft = Draft(path=staging, work=work)
        try:
            shutil.rmtree(staging, ignore_errors=True)  # of a killed writer: this one holds the lock
            staging.mkdir()
            work.mkdir(exist_ok=True)
            write(draft)
            manifest = Manifest(
                key=recipe.key,
                fingerprint=recipe.fingerprint,
                ingredients=recipe.ingredients,
                files=tuple(_describe_files(staging)),
                facts=draft.facts,
                checks=tuple(draft.checks),
                seconds=round(time.monotonic() - started if draft.seconds is None else draft.seconds, 3),
                created_at=datetime.now(UTC).isoformat(timespec="seconds"),
                versions=package_versions(),
            )
            write_json(staging / MANIFEST, manifest.model_dump(mode="json"))
            final = place / recipe.fingerprint
            if final.exists():  # no manifest, else it would have been found: somebody deleted it, or copied half
                shutil.rmtree(final)
            staging.rename(final)
            flush_to_disk(place)
        except Exception as error:
            _explain(error, recipe, self.root)
            raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        shutil.rmtree(work, ignore_errors=True)
        return Result(final, manifest)

    @contextmanager
    def _locked(
        self, recipe: Recipe, report: Callable[[str], None] | None, is_stopped: Callable[[], bool]
    ) -> Iterator[Path]:
        """Hold the lock of one result; the system lets go of it when the process ends, however it ends."""

        def tell() -> None:
            if report is not None:
                report(f"{recipe.describe()}: another run is making it; waiting for that")

        place = self.root / recipe.key
        try:
            place.mkdir(parents=True, exist_ok=True)
            lock = (place / f".lock-{recipe.fingerprint}").open("a")
        except OSError as error:
            _explain(error, recipe, self.root)
            raise
        with lock:
            if not wait_for_lock(lock, tell, is_stopped):
                raise StoreError(f"{recipe.describe()}: stopped while it waited for another run")
            yield place


def _describe_files(folder: Path) -> Iterator[StoredFile]:
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


def _explain(error: Exception, recipe: Recipe, root: Path) -> None:
    """Raise a StoreError where an error says that the warehouse cannot be written; else note where it happened.

    Libraries tell of a full disk in errors of their own, in which the system's words stand.
    """
    code = error.errno if isinstance(error, OSError) else None
    words = str(error)
    if code in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in words or "os error 28" in words:
        raise StoreError(
            f"{recipe.describe()}: the disk of the warehouse {root} is full. Free some space (`prune` lists what no "
            "experiment needs) and start again: what is stored stays, and the work goes on where it stopped."
        ) from error
    if isinstance(error, OSError) and code in (errno.EACCES, errno.EPERM, errno.EROFS):
        raise StoreError(
            f"{recipe.describe()}: the warehouse {root} cannot be written ({error.strerror}: {error.filename}). Give "
            "this user write access, or set MINIPLM_WAREHOUSE to a folder that can be written."
        ) from error
    error.add_note(f"while making {recipe.describe()} in the warehouse {root}; what was stored before stays")


def shard_facts(shards: Mapping[str, Result]) -> list[dict[str, Any]]:
    """Describe the shard results that a whole asset consists of."""
    return [
        {
            "shard": shard,
            "fingerprint": result.manifest.fingerprint,
            "num_rows": result.manifest.num_rows,
            "num_bytes": result.manifest.num_bytes,
        }
        for shard, result in shards.items()
    ]
