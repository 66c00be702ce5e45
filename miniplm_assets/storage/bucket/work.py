"""What a machine has of a result in the making, carried to the bucket as it comes: parts, checkpoints.

    work/<kind>/<fingerprint>/index.json                        what there is; put when all of it is there
    work/<kind>/<fingerprint>/<checksum>/<name in the folder>   the files

Whoever makes the result after a machine was lost goes on from there. The index names the files as they stood together
at one time: it is put only if none of them changed or went while they were uploaded. Names that begin with a dot are
files in the writing, and `tokens` are those of the inputs in another form, made again in seconds.
"""

import hashlib
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from miniplm_assets.core.errors import StoreError
from miniplm_assets.storage.bucket.door import Bucket
from miniplm_assets.storage.bucket.leases import Lease
from miniplm_assets.storage.bucket.results import CHECKSUM_DIGITS
from miniplm_assets.storage.files import flush_to_disk, sha256_of

WORK_OBJECTS: Final = "work"
INDEX: Final = "index.json"
CARRY_SECONDS: Final = 5.0
NOT_CARRIED: Final = frozenset({"tokens"})
# Tells one state of a file from another: its size, times and inode.
State = tuple[int, int, int]


class CarriedWork:
    """The folder of a result in the making, and its copy in the bucket.

    Args:
        bucket: of the warehouse.
        name: kind and fingerprint of the result.
        folder: where it is worked on.
        place: names this machine's copies of the warehouse.
        lease: of the result; who has lost it carries nothing any more.
        report: takes a line of progress.
    """

    def __init__(
        self, bucket: Bucket, name: str, folder: Path, *, place: str, lease: Lease, report: Callable[[str], None]
    ) -> None:
        self._bucket = bucket
        self._prefix = f"{WORK_OBJECTS}/{name}"
        self._folder = folder
        self._place = place
        self._lease = lease
        self._report = report
        self._known: dict[tuple[str, State], dict[str, Any]] = {}
        self._there: set[str] = set()
        self._index: bytes | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._carry_on, name="carrier", daemon=True)

    def begin(self) -> None:
        """Fetch what another machine has left, and carry what comes from now on.

        Raises:
            StoreError: if the bucket cannot be read.
        """
        there = self._bucket.read(f"{self._prefix}/{INDEX}")
        if there is not None:
            index = json.loads(there.content)
            self._there = {self._object(file) for file in index["files"]}
            is_of_here = index["place"] == self._place and any(self._folder.iterdir())
            if not is_of_here:  # what lies here is of before the other machine went on
                self._fetch(index)
        self._thread.start()

    def give_up(self) -> None:
        """Carry what there is, and stop; the next one goes on with it."""
        self._stop()
        self._try_to_carry()

    def finish(self) -> None:
        """Stop, and delete what was carried: the result is there."""
        self._stop()
        if self._there or self._index is not None:
            self._bucket.delete([f"{self._prefix}/{INDEX}"])
            self._bucket.delete([one.name for one in self._bucket.list(f"{self._prefix}/")])

    def _stop(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _carry_on(self) -> None:
        while not self._ended.wait(CARRY_SECONDS):
            self._try_to_carry()

    def _try_to_carry(self) -> None:
        try:
            if not self._lease.is_lost:
                self.carry()
        except (StoreError, OSError) as error:  # the work itself goes on, and the next attempt may get through
            self._report(f"what there is of {self._prefix} was not carried to the bucket: {error}")

    def carry(self) -> None:
        """Upload what is new, then say what there is; nothing where something changed on the way.

        Raises:
            StoreError: if the bucket cannot be written.
        """
        before, again = self._states(), self._states()
        while before != again:  # a folder that is looked through while it changes may show what never was
            before, again = again, self._states()
        files = []
        for name, state in before.items():
            file = self._known.get((name, state)) or self._upload(name)
            if file is None:
                return  # gone by now: the next time
            self._known[name, state] = file
            files.append(file)
        now = self._states()
        if any(now.get(name) != state for name, state in before.items()):
            self._known = {(name, state): file for (name, state), file in self._known.items() if now.get(name) == state}
            return
        index = json.dumps({"place": self._place, "files": files}).encode()
        if (files or self._there) and index != self._index:
            self._bucket.write(f"{self._prefix}/{INDEX}", index)
            self._index = index
            wanted = {self._object(file) for file in files}
            self._bucket.delete(sorted(self._there - wanted))
            self._there = wanted

    def _upload(self, name: str) -> dict[str, Any] | None:
        path = self._folder / name
        try:
            file = {"name": name, "num_bytes": path.stat().st_size, "sha256": sha256_of(path)}
            if self._object(file) not in self._there:
                self._bucket.upload(self._object(file), path)
                self._there.add(self._object(file))
        except FileNotFoundError:
            return None
        return file

    def _fetch(self, index: dict[str, Any]) -> None:
        beside = self._folder.with_name(f".{self._folder.name}")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        for file in index["files"]:
            target = beside / file["name"]
            target.parent.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256()
            with target.open("wb") as writer:
                is_there = self._bucket.download(self._object(file), file["num_bytes"], writer, digest.update)
            if not is_there or digest.hexdigest() != file["sha256"]:
                self._report(f"what another machine left at {self._bucket.address(self._prefix)} is damaged: not used")
                shutil.rmtree(beside)
                return
            flush_to_disk(target)
        shutil.rmtree(self._folder)
        beside.rename(self._folder)
        self._report(f"goes on from {len(index['files']):,} files that another machine left")

    def _object(self, file: dict[str, Any]) -> str:
        return f"{self._prefix}/{file['sha256'][:CHECKSUM_DIGITS]}/{file['name']}"

    def _states(self) -> dict[str, State]:
        """Return the state of each file that is whole, by its name in the folder."""
        states = {}
        for path in sorted(self._folder.rglob("*")):
            parts = path.relative_to(self._folder).parts
            if any(part.startswith(".") for part in parts) or parts[0] in NOT_CARRIED:
                continue
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            if path.is_file():
                states["/".join(parts)] = (status.st_size, status.st_mtime_ns, status.st_ino)
        return states
