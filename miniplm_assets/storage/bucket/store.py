"""The store of a warehouse on an object store: everything computes in, and reads from, a folder of this machine.

What the bucket holds is stored; the folder has copies, laid out as a warehouse that is a folder, by the same locks and
readers. A result is found by its manifest in the bucket, and its files come when somebody reads them. It is published
in the bucket first, then here. What is here and not there, since somebody pruned it, is not stored; whoever is to make
it puts it back instead.
"""

import secrets
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from time import monotonic, sleep
from typing import Final

from miniplm_assets.core.errors import StoreError
from miniplm_assets.core.recipe import Recipe
from miniplm_assets.storage.bucket.aside import ASIDE, BucketSetAside
from miniplm_assets.storage.bucket.door import PATIENCE, Bucket
from miniplm_assets.storage.bucket.held import HeldResult
from miniplm_assets.storage.bucket.leases import LEASE_SECONDS, LEASES, Holder, Leases
from miniplm_assets.storage.bucket.notes import BucketNotes
from miniplm_assets.storage.bucket.results import (
    FILES,
    SEEN_SECONDS,
    BucketResults,
    LeftObjects,
    in_threads,
    manifest_name,
)
from miniplm_assets.storage.bucket.work import WORK_OBJECTS, CarriedWork
from miniplm_assets.storage.files import read_note, take_lock, write_note
from miniplm_assets.storage.latest import hide
from miniplm_assets.storage.leases import in_use, unused
from miniplm_assets.storage.manifest import MANIFEST, Manifest
from miniplm_assets.storage.result import VERIFIED, Result
from miniplm_assets.storage.set_aside import Ground
from miniplm_assets.storage.store import Draft, Lock, Store

FETCHED: Final = ".fetched"
PLACE: Final = ".place.json"


class BucketResult(Result):
    """A result in the bucket; its files are copied here when somebody asks for its folder."""

    _store: "BucketStore"

    def __init__(self, store: "BucketStore", manifest: Manifest) -> None:
        object.__setattr__(self, "manifest", manifest)
        object.__setattr__(self, "_store", store)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address})"  # the folder is there once somebody asks for it

    @property
    def folder(self) -> Path:
        """The folder of its files, on this machine."""
        return self._store.copy_of(self.manifest)

    @property
    def address(self) -> str:
        """Where it is stored, as messages show it."""
        return self._store.bucket.address(manifest_name(self.manifest.kind, self.manifest.fingerprint))

    def problems(self) -> Iterator[str]:
        """Say what differs between the objects, and the copies that are here, and the manifest."""
        yield from self._store.stored.problems(self.manifest)
        if self._store.has_copy(self.manifest):
            yield from self._local_problems()


class BucketStore(Store):
    """All results of a warehouse on an object store.

    Args:
        url: of the warehouse; see `door.Bucket`.
        root: the folder for what is computed here, and for copies.
        patience: for how long a request that fails is tried again.
        lease_seconds: see `Leases`.
    """

    def __init__(
        self, url: str, root: Path, *, patience: timedelta = PATIENCE, lease_seconds: float = LEASE_SECONDS
    ) -> None:
        super().__init__(root)
        self.bucket = Bucket(url, patience)
        self.stored = BucketResults(self.bucket)
        self.notes = BucketNotes(self.bucket)
        self.aside: BucketSetAside = BucketSetAside(self.bucket)
        self._lease_seconds = lease_seconds
        self._manifests: dict[tuple[str, str], tuple[float, Manifest]] = {}
        self._listed: dict[str, tuple[float, frozenset[str]]] = {}
        self._copies: dict[tuple[str, str], Path] = {}

    @property
    def address(self) -> str:
        """The URL of the warehouse."""
        return self.bucket.url

    @cached_property
    def leases(self) -> Leases:
        """The leases of the warehouse."""
        return Leases(self.bucket, self.place, self._lease_seconds)

    @cached_property
    def place(self) -> str:
        """What names this folder of this machine, and no copy of it."""
        path, here = self.root / PLACE, [socket.gethostname(), str(self.root)]
        with take_lock(self.root / f"{PLACE}.lock", lambda: None):
            noted = read_note(path)
            if noted is None or noted["here"] != here:
                noted = {"here": here, "name": secrets.token_hex(16)}
                write_note(path, noted)
        return str(noted["name"])

    @contextmanager
    def in_use(self, report: Callable[[str], None]) -> Iterator[None]:
        """Keep what is stored, and its copies here, from being deleted."""
        with in_use(self.root, report), self.leases.in_use(report):
            yield

    @contextmanager
    def unused(self) -> Iterator[None]:
        """Have the warehouse, and its copies here, for oneself."""
        with unused(self.root), self.leases.unused():
            yield

    def lookup(self, key: str, kind: str, fingerprint: str) -> Result | None:  # noqa: ARG002 - known there by kind
        """Return a stored result by its fingerprint, or None; its files are copied when they are read.

        Raises:
            DamagedResultError: if its manifest cannot be read, or describes another result.
            StoreError: if the bucket cannot be read.
        """
        seen, manifest = self._manifests.get((kind, fingerprint), (0.0, None))
        if manifest is None or monotonic() - seen > SEEN_SECONDS:
            manifest = self.stored.manifest(kind, fingerprint)
            if manifest is None:
                return None
            self._manifests[kind, fingerprint] = monotonic(), manifest
        return BucketResult(self, manifest)

    def holds(self, recipe: Recipe) -> bool:
        """Return whether a recipe has a stored result; see `Store.holds`.

        Of many of a kind, a listing tells at once; what it does not show is asked for by its name.
        """
        seen, listed = self._listed.get(recipe.kind, (-SEEN_SECONDS, frozenset()))
        if monotonic() - seen > SEEN_SECONDS:
            listed = frozenset(fingerprint for _, fingerprint in self.stored.all(recipe.kind))
            self._listed[recipe.kind] = monotonic(), listed
        name = manifest_name(recipe.kind, recipe.fingerprint)
        return recipe.fingerprint in listed or self.bucket.size(name) is not None

    def begin(self, recipe: Recipe, report: Callable[[str], None] | None = None) -> Result | Draft:
        """Return the stored result of a recipe, or else a draft that no other machine makes; see `Store.begin`."""
        begun = super().begin(recipe, report)
        if isinstance(begun, Draft):
            held = begun.lock
            assert isinstance(held, HeldResult)
            try:
                held.work = CarriedWork(
                    self.bucket,
                    f"{recipe.kind}/{recipe.fingerprint}",
                    begun.work,
                    place=self.place,
                    lease=held.lease,
                    report=report or (lambda _line: None),
                )
                held.work.begin()
            except BaseException as error:
                held.work = None
                self.give_up(begun, error)
                raise
        return begun

    def publish(self, draft: Draft) -> Result:
        """Put a finished draft into the bucket, its manifest last, then into its place here.

        Raises:
            StoreError: if the bucket or the folder cannot be written.
        """
        held = draft.lock
        assert isinstance(held, HeldResult)
        manifest = self._seal(draft)
        first = self.stored.publish(draft.path, manifest)
        self.aside.drop(first)
        self._manifests[first.kind, first.fingerprint] = monotonic(), first
        if first is manifest:
            self._put_in_place(draft.path, manifest)
        held.finish()
        shutil.rmtree(draft.path.parent, ignore_errors=True)
        return BucketResult(self, first)

    def results(self, key: str = "**", *, on_problem: Callable[[str], None]) -> Iterator[Result]:
        """Go through everything that is stored, or all results of one asset; see `Store.results`."""
        kind = None if key == "**" else key.rpartition("/")[2]
        found: list[Manifest] = []

        def read(address: tuple[str, str]) -> None:
            try:
                result = self.lookup("", *address)
            except StoreError as error:
                on_problem(str(error))
                return
            if result is not None and key in ("**", result.manifest.key):
                found.append(result.manifest)

        in_threads(read, list(self.stored.all(kind)))
        for manifest in sorted(found, key=lambda one: (one.key, one.fingerprint)):
            yield BucketResult(self, manifest)

    def remove(self, result: Result) -> None:
        """Delete a result from the bucket, and its copy here."""
        manifest = result.manifest
        self.stored.remove(manifest)
        self._forget(manifest)
        folder = self._folder_of(manifest)
        if folder is not None:
            super().remove(Result(folder, manifest))

    def set_aside(self, result: Result, rests_on: list[Ground] | None) -> None:
        """Put a result out of sight in the bucket; its copy here goes, so that nobody puts that back."""
        super().set_aside(result, rests_on)
        self._forget(result.manifest)
        folder = self._folder_of(result.manifest)
        if folder is not None:  # no name leads to it: see `hide`
            self._delete(Result(folder, result.manifest))

    def hide(self, results: Iterable[Result]) -> None:
        """Take away the names that lead to copies of some results here."""
        folders = map(self._folder_of, (one.manifest for one in results))
        hide(self.root, [folder for folder in folders if folder is not None])

    def left_objects(self) -> Iterator[LeftObjects]:
        """Go through what killed runs left in the bucket, and nobody works on."""
        for prefix in (ASIDE, FILES, WORK_OBJECTS):
            for left in self.stored.left_below(prefix):
                if not self.leases.is_held(f"{LEASES}/{left.kind}/{left.fingerprint}.json"):
                    yield left

    def remove_objects(self, left: LeftObjects) -> None:
        """Delete what killed runs left of a result; the caller has the warehouse for himself."""
        self.bucket.delete([*left.names, f"{LEASES}/{left.kind}/{left.fingerprint}.json"])

    def has_copy(self, manifest: Manifest) -> bool:
        """Whether the files of a result are on this machine."""
        return self._folder_of(manifest) is not None

    def copy_of(self, manifest: Manifest) -> Path:
        """Return the folder on this machine that holds the files of a result, after copying them there if need be.

        Raises:
            DamagedResultError: if they are not what the manifest says.
            StoreError: if the bucket cannot be read, or the folder not written.
        """
        address = (manifest.kind, manifest.fingerprint)
        folder = self._copies.get(address)
        if folder is None or not (folder / MANIFEST).exists():
            VERIFIED.discard(self.root / manifest.key / manifest.fingerprint)
            folder = self._copies[address] = self._folder_of(manifest) or self._fetch(manifest)
        return folder

    def _fetch(self, manifest: Manifest) -> Path:
        beside = self.root / FETCHED / f"{manifest.kind}-{manifest.fingerprint}"
        lock = take_lock(beside / "lock", lambda: None)
        try:
            folder = self._folder_of(manifest)
            if folder is None:
                self.stored.fetch(manifest, beside / "files")
                folder = self._put_in_place(beside / "files", manifest)
                VERIFIED.add(folder)  # each file was, as it came
            shutil.rmtree(beside, ignore_errors=True)
        finally:
            lock.close()
        return folder

    def _folder_of(self, manifest: Manifest) -> Path | None:
        """Return the folder of the copies of a result; None where there are none, or those of another making."""
        here = super().lookup(manifest.key, manifest.kind, manifest.fingerprint)
        return here.folder if here is not None and _is_same(here.manifest, manifest) else None

    def _forget(self, manifest: Manifest) -> None:
        self._listed.pop(manifest.kind, None)
        self._manifests.pop((manifest.kind, manifest.fingerprint), None)
        self._copies.pop((manifest.kind, manifest.fingerprint), None)

    def _back(self, recipe: Recipe) -> Result | None:
        """Put a result back that is set aside and still holds; or one that is here, and not there: it was pruned."""
        here = super().lookup(recipe.key, recipe.kind, recipe.fingerprint)
        if here is None and not self.aside.holds(recipe):
            return None
        if self.aside.find(recipe.kind, recipe.fingerprint) is not None:  # then no copy of it is put back
            return super()._back(recipe)
        if here is None:
            return None
        first = self.stored.publish(here.verified_folder(), here.manifest)
        return self.lookup(first.key, first.kind, first.fingerprint)

    def _lock(self, recipe: Recipe, folder: Path, report: Callable[[str], None] | None) -> Lock:
        with ExitStack() as held:
            lock = super()._lock(recipe, folder, report)
            held.callback(lock.close)
            name = f"{LEASES}/{recipe.kind}/{recipe.fingerprint}.json"
            waited_for = None
            while isinstance(lease := self.leases.take(name, is_locked_here=True), Holder):
                if report is not None and lease.who != waited_for:
                    report(f"{recipe.describe()}: {lease.who} is making it; waiting for that")
                    waited_for = lease.who
                sleep(self.leases.poll_seconds)
                if self.find(recipe) is not None:
                    break
            held.pop_all()
        return lock if isinstance(lease, Holder) else HeldResult(lock, self.leases, lease)


def _is_same(one: Manifest, other: Manifest) -> bool:
    """Whether two manifests are of one making; of facts that were read again, tuples have become lists."""
    return (one.checksum, one.created_at, one.files) == (other.checksum, other.created_at, other.files)
