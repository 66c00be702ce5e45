"""The artifact store: every result that was ever computed, by what went into it.

    <warehouse>/<asset key>/<fingerprint>/   parquet | model files + manifest.json
    <warehouse>/.work/<kind>-<fingerprint>/  of a result in the making: lock, draft/, kept/

A result is complete or invisible. It is written into a folder of its own, flushed, described by a manifest and
renamed into its place; a crash leaves a folder that nobody reads and the next writer removes. A lock for each
result makes a second run wait and then find it stored. What is needed to go on after a crash is kept beside the draft,
and goes when the result is there.
A name is no content: what is stored under another name is found by its kind and fingerprint.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

from miniplm_assets.core.errors import DamagedResultError, MissingResultError, StoreError
from miniplm_assets.core.recipe import Recipe
from miniplm_assets.storage.faults import explain_fault
from miniplm_assets.storage.files import flush_to_disk, take_lock, write_json
from miniplm_assets.storage.latest import hide
from miniplm_assets.storage.leases import in_use, unused
from miniplm_assets.storage.manifest import (
    MANIFEST,
    CheckOutcome,
    Manifest,
    described_files,
    package_versions,
    read_manifest,
)
from miniplm_assets.storage.notes import LocalNotes, Notes
from miniplm_assets.storage.result import VERIFIED
from miniplm_assets.storage.result import Result as Result
from miniplm_assets.storage.set_aside import WORK as WORK
from miniplm_assets.storage.set_aside import Ground, LocalSetAside, SetAside, work_folder

LOCK: Final = "lock"


class Lock(Protocol):
    """What is held of a result in the making, so that nobody else makes it."""

    @property
    def closed(self) -> bool:
        """Whether it is held no longer."""

    def close(self) -> None:
        """Let go of it."""


@dataclass
class Draft:
    """A result in the making: its lock is held until it is published or given up.

    Attributes:
        recipe: what goes into it.
        path: an empty folder for its files.
        work: a folder that survives a crash, for parts and checkpoints; only the holder of the lock sees it.
        facts: what is reported of it: JSON values, kept in the manifest.
        checks: outcomes of the asset checks.
        seconds: what making it took, where that is not the time that went by: a share of a device's.
        made_by: who makes it: `run` and `device`, as far as they are known.
    """

    recipe: Recipe
    path: Path
    work: Path
    lock: Lock
    facts: dict[str, Any] = field(default_factory=dict)
    checks: list[CheckOutcome] = field(default_factory=list)
    seconds: float | None = None
    made_by: dict[str, str] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)


class Store:
    """All results of one warehouse.

    Args:
        root: the folder of the warehouse; made when the first result is written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.notes: Notes = LocalNotes(root)
        self.aside: SetAside = LocalSetAside(root)
        self._places: dict[str, list[Path]] = {}

    @property
    def address(self) -> str:
        """Where results are stored, as the experiment file names it."""
        return str(self.root)

    def in_use(self, report: Callable[[str], None]) -> AbstractContextManager[None]:
        """Keep what is stored from being deleted; see `leases.in_use`."""
        return in_use(self.root, report)

    def unused(self) -> AbstractContextManager[None]:
        """Have the warehouse for oneself, to delete from it; see `leases.unused`."""
        return unused(self.root)

    def find(self, recipe: Recipe) -> Result | None:
        """Return the stored result of a recipe, under its own name or another, or None."""
        return self.lookup(recipe.key, recipe.kind, recipe.fingerprint)

    def holds(self, recipe: Recipe) -> bool:
        """Return whether a recipe has a stored result; it is not read, and may be damaged: who opens it finds out."""
        # A run asks this of every corpus file of every asset: as text, since paths take several times as long.
        places = (f"{self.root}/{recipe.key}", *self._other_places(recipe.kind))
        return any(os.path.exists(f"{place}/{recipe.fingerprint}/{MANIFEST}") for place in places)  # noqa: PTH110

    def lookup(self, key: str, kind: str, fingerprint: str) -> Result | None:
        """Return a stored result by its fingerprint, or None.

        Args:
            key: the asset under whose name it is looked for first.
            kind: of the asset; what another name of the same kind has stored is the same result.
            fingerprint: of the result.

        Raises:
            DamagedResultError: if its manifest cannot be read, or describes another result.
            StoreError: if this user may not read it.
        """
        for place in (self.root / key, *self._other_places(kind)):
            manifest = read_manifest(place / fingerprint)
            if manifest is None:
                continue
            if (manifest.kind, manifest.fingerprint) != (kind, fingerprint):
                raise DamagedResultError(
                    f"{place / fingerprint / MANIFEST}: describes {manifest.key} {manifest.fingerprint}, which is not "
                    f"where it lies. Delete the folder {place / fingerprint} and materialise {key} again."
                )
            return Result(place / fingerprint, manifest)
        return None

    def require(self, recipe: Recipe) -> Result:
        """Return the stored result of a recipe.

        Raises:
            MissingResultError: if it is not there; the message says what to materialise.
        """
        found = self.find(recipe)
        if found is None:
            raise MissingResultError(
                f"{recipe.describe()} has no stored result {recipe.fingerprint} in {self.address}. Materialise it "
                f"first: dagster asset materialize --select '+key:\"{recipe.key}\"' -m miniplm_assets.definitions"
            )
        return found

    def make(
        self, recipe: Recipe, write: Callable[[Draft], None], report: Callable[[str], None] | None = None
    ) -> Result:
        """Return the stored result of a recipe; where there is none, let `write` fill a draft and publish it.

        Args:
            recipe: what goes into it.
            write: fills the draft.
            report: told where another run is at it, and this one waits.

        Raises:
            StoreError: if the warehouse cannot be written, or the disk is full.
        """
        begun = self.begin(recipe, report)
        if isinstance(begun, Result):
            return begun
        try:
            write(begun)
            return self.publish(begun)
        except BaseException as error:
            self.give_up(begun, error)
            raise

    def begin(self, recipe: Recipe, report: Callable[[str], None] | None = None) -> Result | Draft:
        """Return the stored result of a recipe, or else a draft, to be published or given up.

        Args:
            recipe: what goes into it.
            report: told where another run is at it, and this one waits.

        Raises:
            StoreError: if the warehouse cannot be written, or the disk is full.
        """
        found = self.find(recipe)
        folder = self.work_folder(recipe.kind, recipe.fingerprint)
        if found is not None:
            # What a process left that was killed after it had published, and before it had tidied up.
            shutil.rmtree(folder, ignore_errors=True)
            return found
        try:
            lock = self._lock(recipe, folder, report)
            try:
                return self._begun(recipe, folder, lock)
            except BaseException:
                lock.close()
                raise
        except OSError as error:
            explain_fault(error, recipe.describe(), self.root)
            raise

    def _begun(self, recipe: Recipe, folder: Path, lock: Lock) -> Result | Draft:
        # Another run may have made it while this one waited; or it was set aside, and still holds.
        found = self.find(recipe) or self._back(recipe)
        if found is not None:
            shutil.rmtree(folder, ignore_errors=True)
            lock.close()
            return found
        draft = Draft(recipe=recipe, path=folder / "draft", work=folder / "kept", lock=lock)
        shutil.rmtree(draft.path, ignore_errors=True)  # of a killed writer: this one holds the lock
        draft.path.mkdir()
        draft.work.mkdir(exist_ok=True)
        return draft

    def set_aside(self, result: Result, rests_on: list[Ground] | None) -> None:
        """Put a result out of sight until it is made again; see `SetAside.put`. Nobody uses the warehouse meanwhile."""
        self.aside.put(result, rests_on)

    def hide(self, results: Iterable[Result]) -> None:
        """Take away the names that lead to some results, before these are put out of sight."""
        hide(self.root, [one.folder for one in results])

    def bring_back(self, recipe: Recipe) -> None:
        """Put a result back that was set aside, if it still holds."""
        if self.find(recipe) is None and self.aside.holds(recipe):
            folder = self.work_folder(recipe.kind, recipe.fingerprint)
            with closing(self._lock(recipe, folder, None)):
                self._back(recipe)

    def publish(self, draft: Draft) -> Result:
        """Put a finished draft in its place, its manifest last, and let go of its lock.

        Raises:
            StoreError: if the warehouse cannot be written, or the disk is full.
        """
        return self._place(draft, self._seal(draft))

    def _seal(self, draft: Draft) -> Manifest:
        """Describe a finished draft: its manifest is written into it, last."""
        recipe = draft.recipe
        seconds = time.monotonic() - draft.started if draft.seconds is None else draft.seconds
        manifest = Manifest(
            key=recipe.key,
            kind=recipe.kind,
            fingerprint=recipe.fingerprint,
            ingredients=recipe.ingredients,
            files=tuple(described_files(draft.path)),
            facts=draft.facts,
            checks=tuple(draft.checks),
            seconds=round(seconds, 3),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=package_versions(),
            made_by=draft.made_by,
        ).sealed()
        write_json(draft.path / MANIFEST, manifest.model_dump(mode="json"))
        return manifest

    def _place(self, draft: Draft, manifest: Manifest) -> Result:
        """Put a sealed draft in its place, and let go of its lock."""
        final = self._put_in_place(draft.path, manifest)
        shutil.rmtree(draft.path.parent, ignore_errors=True)
        draft.lock.close()
        return Result(final, manifest)

    def _put_in_place(self, folder: Path, manifest: Manifest) -> Path:
        """Rename a whole folder with its manifest into the place of its result."""
        final = self.root / manifest.key / manifest.fingerprint
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():  # no manifest, else it would have been found: somebody deleted it, or copied half
            shutil.rmtree(final)
        folder.rename(final)
        flush_to_disk(final.parent)
        if final.parent not in self._other_places(manifest.kind):
            self._places[manifest.kind].append(final.parent)
        return final

    def give_up(self, draft: Draft, error: BaseException) -> None:
        """Remove a draft and let go of its lock; what it kept stays, for the next one to go on with.

        Args:
            draft: not published.
            error: why.

        Raises:
            StoreError: if the error says that the warehouse cannot be written, or the disk is full.
        """
        shutil.rmtree(draft.path, ignore_errors=True)
        draft.lock.close()
        explain_fault(error, draft.recipe.describe(), self.root)

    def results(self, key: str = "**", *, on_problem: Callable[[str], None]) -> Iterator[Result]:
        """Go through everything that is stored, or all results of one asset.

        Args:
            key: of the asset.
            on_problem: takes what is wrong with a manifest that cannot be read; the others do not wait for that.
        """
        for path in sorted(self.root.glob(f"{key}/*/{MANIFEST}")):
            if any(part.startswith(".") for part in path.relative_to(self.root).parts):
                continue
            try:
                manifest = read_manifest(path.parent)
            except StoreError as error:
                on_problem(str(error))
                continue
            if manifest is not None:
                yield Result(path.parent, manifest)

    def remove(self, result: Result) -> None:
        """Delete a result. Its manifest goes first, so that what is left of it is never taken for a result."""
        hide(self.root, [result.folder])
        self._delete(result)

    def _delete(self, result: Result) -> None:
        (result.folder / MANIFEST).unlink()
        flush_to_disk(result.folder)
        shutil.rmtree(result.folder)
        VERIFIED.discard(result.folder)

    def _other_places(self, kind: str) -> list[Path]:
        """Return the folders that hold results of a kind, under whatever names."""
        if kind not in self._places:
            self._places[kind] = sorted(self.root.glob(f"*/{kind}"))
        return self._places[kind]

    def work_folder(self, kind: str, fingerprint: str) -> Path:
        """Return the folder that a result is made in."""
        return work_folder(self.root, kind, fingerprint)

    def _back(self, recipe: Recipe) -> Result | None:
        return self.find(recipe) if self.aside.come_back(recipe, self._stored) else None

    def _stored(self, ground: Ground) -> Result | None:
        return self.lookup(ground.key, ground.kind, ground.fingerprint)

    def _lock(self, recipe: Recipe, folder: Path, report: Callable[[str], None] | None) -> Lock:
        """Take the lock of one result; the system lets go of it when the process ends, however it ends."""

        def tell() -> None:
            self._places.pop(recipe.kind, None)  # the other run may store it under a name that is new here
            if report is not None:
                report(f"{recipe.describe()}: another run is making it; waiting for that")

        return take_lock(folder / LOCK, tell)
