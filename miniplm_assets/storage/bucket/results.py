"""Results in a bucket: complete or invisible by a manifest that is put last, if there is none.

    manifests/<kind>/<fingerprint>.json                      what makes it a result
    files/<kind>/<fingerprint>/<checksum>/<name in it>       its files; a name that is there holds those bytes

A result is found by one request under the name that its fingerprint gives, never by a listing, so that a store whose
listings lag shows no less. Of two that make the same result, the one whose manifest is there first made it; the other
goes on with that. What was uploaded of an attempt that did not come to its manifest is uploaded no second time.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, TypeVar

from miniplm_assets.core.doors import cause_of
from miniplm_assets.core.errors import DamagedResultError
from miniplm_assets.storage.bucket.door import Bucket, Listed
from miniplm_assets.storage.files import flush_to_disk, sha256_of, write_json
from miniplm_assets.storage.manifest import FORMAT, MANIFEST, Manifest, StoredFile

T = TypeVar("T")
MANIFESTS: Final = "manifests"
FILES: Final = "files"
THREADS: Final = 4
# What was seen is not asked for again for so long: nothing is deleted, or set aside, while a run is at work.
SEEN_SECONDS: Final = 30.0
# Of the checksum in a name: enough to tell apart what one file of one result ever was.
CHECKSUM_DIGITS: Final = 16


@dataclass(frozen=True, kw_only=True)
class LeftObjects:
    """Objects that are of no result.

    Attributes:
        address: that all of theirs begin with.
        kind: of what they were to become.
        fingerprint: of that.
        is_of_stored: whether that is stored, so that nobody goes on with them.
        names: of the objects.
        num_bytes: of all of them.
    """

    address: str
    kind: str
    fingerprint: str
    is_of_stored: bool
    names: tuple[str, ...]
    num_bytes: int


class BucketResults:
    """The results of a warehouse on an object store.

    Args:
        bucket: of the warehouse.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def manifest(self, kind: str, fingerprint: str) -> Manifest | None:
        """Return the manifest of a result; None where it is not stored.

        Raises:
            DamagedResultError: if it is no manifest, or that of another result.
        """
        name = manifest_name(kind, fingerprint)
        there = self._bucket.read(name)
        if there is None:
            return None
        remedy = f"Delete the object {self._bucket.address(name)} and materialise again."
        try:
            content = json.loads(there.content)
            if content.get("format") != FORMAT:
                raise DamagedResultError(
                    f"{self._bucket.address(name)}: written as format {content.get('format')}, this version reads "
                    f"format {FORMAT}. {remedy}"
                )
            manifest = Manifest.model_validate(content)
        except DamagedResultError:
            raise
        except (ValueError, AttributeError, RecursionError) as error:
            raise DamagedResultError(
                f"{self._bucket.address(name)}: not a manifest ({cause_of(error)}). {remedy}"
            ) from None
        if (manifest.kind, manifest.fingerprint) != (kind, fingerprint):
            raise DamagedResultError(
                f"{self._bucket.address(name)}: describes {manifest.key} {manifest.fingerprint}. {remedy}"
            )
        return manifest

    def publish(self, folder: Path, manifest: Manifest) -> Manifest:
        """Upload a sealed result, its manifest last.

        Args:
            folder: its files and its manifest.
            manifest: the same.

        Returns:
            The manifest that is stored: this one, or that of whoever was first.
        """

        def upload(file: StoredFile) -> None:
            name = file_name(manifest, file)
            if self._bucket.size(name) != file.num_bytes:
                self._bucket.upload(name, folder / file.name)

        in_threads(upload, manifest.files)
        name = manifest_name(manifest.kind, manifest.fingerprint)
        while self._bucket.create(name, (folder / MANIFEST).read_bytes()) is None:
            first = self.manifest(manifest.kind, manifest.fingerprint)
            if first is not None:  # None: deleted since
                return first
        return manifest

    def fetch(self, manifest: Manifest, folder: Path) -> None:
        """Copy a result into a folder, each file held against the manifest on the way; its manifest is written last.

        Args:
            manifest: of the result.
            folder: what is whole in it already, of an attempt before, is not fetched again.

        Raises:
            DamagedResultError: if an object is missing, or is not what the manifest says.
        """

        def fetch(file: StoredFile) -> None:
            target = folder / file.name
            if target.is_file() and target.stat().st_size == file.num_bytes and sha256_of(target) == file.sha256:
                return
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as writer:
                problem = self._copy(manifest, file, writer)
            if problem is not None:
                raise DamagedResultError(
                    f"{problem}. Delete the object "
                    f"{self._bucket.address(manifest_name(manifest.kind, manifest.fingerprint))} and materialise "
                    f"{manifest.key}."
                )
            flush_to_disk(target)

        folder.mkdir(parents=True, exist_ok=True)
        in_threads(fetch, manifest.files)
        write_json(folder / MANIFEST, manifest.model_dump(mode="json"))

    def problems(self, manifest: Manifest) -> Iterator[str]:
        """Say what differs between the objects of a result and its manifest; every byte is read."""
        with Path(os.devnull).open("wb") as nowhere:
            for file in manifest.files:
                problem = self._copy(manifest, file, nowhere)
                if problem is not None:
                    yield problem

    def _copy(self, manifest: Manifest, file: StoredFile, writer: IO[bytes]) -> str | None:
        """Copy one file; return what differs from its description, None where nothing does."""
        name = file_name(manifest, file)
        size = self._bucket.size(name)
        if size is None:
            return f"{self._bucket.address(name)}: missing"
        if size != file.num_bytes:
            return f"{self._bucket.address(name)}: {size:,} bytes, the manifest says {file.num_bytes:,}"
        digest = hashlib.sha256()
        if not self._bucket.download(name, file.num_bytes, writer, digest.update):
            return f"{self._bucket.address(name)}: missing"
        if digest.hexdigest() != file.sha256:
            return f"{self._bucket.address(name)}: the content does not fit the checksum of the manifest"
        return None

    def all(self, kind: str | None = None) -> Iterator[tuple[str, str]]:
        """Go through kind and fingerprint of all results, or those of a kind, as a listing has them."""
        for one in self._bucket.list(f"{MANIFESTS}/{kind}/" if kind else f"{MANIFESTS}/"):
            parts = one.name.split("/")
            if len(parts) == len(("manifests", "kind", "file")) and parts[2].endswith(".json"):
                yield parts[1], parts[2].removesuffix(".json")

    def remove(self, manifest: Manifest) -> None:
        """Delete a result. Its manifest goes first, so that what is left of it is never taken for a result."""
        self._bucket.delete([manifest_name(manifest.kind, manifest.fingerprint)])
        prefix = f"{FILES}/{manifest.kind}/{manifest.fingerprint}/"
        self._bucket.delete([one.name for one in self._bucket.list(prefix)])

    def left_below(self, prefix: str) -> Iterator[LeftObjects]:
        """Go through what lies below ``files``, ``work`` or ``aside`` and is named by no manifest, result by result."""
        found: dict[tuple[str, str], list[Listed]] = {}
        for one in self._bucket.list(f"{prefix}/"):
            _, kind, name, *_ = one.name.split("/")
            fingerprint = name.removesuffix(".json")
            found.setdefault((kind, fingerprint), []).append(one)
        for (kind, fingerprint), objects in found.items():
            manifest = self.manifest(kind, fingerprint)
            named = set() if manifest is None else {file_name(manifest, file) for file in manifest.files}
            left = [one for one in objects if one.name not in named]
            if left:
                yield LeftObjects(
                    address=self._bucket.address(f"{prefix}/{kind}/{fingerprint}"),
                    kind=kind,
                    fingerprint=fingerprint,
                    is_of_stored=manifest is not None,
                    names=tuple(one.name for one in left),
                    num_bytes=sum(one.num_bytes for one in left),
                )


def manifest_name(kind: str, fingerprint: str) -> str:
    """Return the name of the manifest of a result."""
    return f"{MANIFESTS}/{kind}/{fingerprint}.json"


def file_name(manifest: Manifest, file: StoredFile) -> str:
    """Return the name of a file of a result."""
    return f"{FILES}/{manifest.kind}/{manifest.fingerprint}/{file.sha256[:CHECKSUM_DIGITS]}/{file.name}"


def in_threads(action: Callable[[T], None], things: Sequence[T]) -> None:
    """Do something with each of some things, several at once; the first failure is raised, and nothing begun after."""
    with ThreadPoolExecutor(min(THREADS, len(things) or 1)) as threads:
        try:
            for done in [threads.submit(action, one) for one in things]:
                done.result()
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
