"""Leases: objects that say who makes a result, or uses the warehouse, and that run out when nobody renews them.

A lease is taken by a conditional put, so that one of two gets it, and renewed by a thread for as long as its process
lives. It has run out when the server's own clock is past its time: the clocks of the machines are never compared.
A process that was killed leaves one; whoever comes next on the same machine knows by the lock beside the copies that
it is nobody's, and another machine waits for its end.

Nothing that is stored rests on a lease: were two to make one result, the manifest of one would be put, and both would
go on with that. A lease saves the second the work.
"""

import json
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic, sleep
from typing import Any, Final

from miniplm_assets.core.errors import StoreError, UnreachableStoreError
from miniplm_assets.storage.bucket.door import Bucket, Content, Version

# How long a lease of a process that died keeps others on other machines waiting.
LEASE_SECONDS: Final = 60.0
RENEWALS: Final = 4  # in this time: some may be lost on the way
POLLS: Final = 30
LEASES: Final = "leases"
USERS: Final = "users"
CLOCK: Final = "clock"
DELETING: Final = "deleting.json"


@dataclass
class Lease:
    """A lease that this process holds, or has lost.

    Attributes:
        name: of its object.
        token: nobody else's.
        version: of the object as this process last wrote it.
        beat: how often that was.
        is_lost: whether somebody else has taken it over.
    """

    name: str
    token: str
    version: Version
    beat: int = 0
    is_lost: bool = False
    guard: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, in words."""

    who: str


class Leases:
    """The leases of a warehouse.

    Args:
        bucket: of the warehouse.
        place: names this machine's copies of the warehouse; a lease that was taken there is known to be nobody's by
            whoever holds the lock there.
        seconds: after which a lease that is not renewed has run out.
    """

    def __init__(self, bucket: Bucket, place: str, seconds: float = LEASE_SECONDS) -> None:
        self._bucket = bucket
        self._place = place
        self._seconds = seconds
        self._held: dict[str, Lease] = {}
        self._renewing: threading.Thread | None = None
        self._guard = threading.Lock()

    @property
    def poll_seconds(self) -> float:
        """How often somebody who waits looks again."""
        return self._seconds / POLLS

    def take(self, name: str, *, is_locked_here: bool = False) -> Lease | Holder:
        """Take a lease that nobody holds.

        Args:
            name: of its object.
            is_locked_here: whether this process holds the lock of the same thing beside the copies, so that no other
                on this machine has the lease.

        Returns:
            The lease, which is renewed from now on; or who holds it.
        """
        token = secrets.token_hex(16)
        while True:
            there = self._bucket.read(name)
            content = self._content(token, 0)
            if there is None:
                version = self._bucket.create(name, content)
            else:
                noted = _noted(there)
                is_left = is_locked_here and noted.get("place") == self._place
                if not (is_left or noted.get("is_released") or self._has_run_out(there)):
                    return Holder(str(noted.get("who", "somebody")))
                version = self._bucket.replace(name, content, there.version)
            if version is not None:
                return self._hold(Lease(name, token, version))

    def release(self, lease: Lease) -> None:
        """Let go of a lease: the next one need not wait for its end. Where the store is out of reach, it runs out."""
        with self._guard:
            self._held.pop(lease.token, None)
        with lease.guard:
            if not lease.is_lost:
                try:
                    self._bucket.replace(lease.name, self._content(lease.token, -1), lease.version)
                except StoreError:  # it is let go of in any case: nobody renews it any more
                    lease.is_lost = True

    def remove(self, lease: Lease) -> None:
        """Let go of a lease that nobody will want again: its object goes."""
        with self._guard:
            self._held.pop(lease.token, None)
        with lease.guard:
            if not lease.is_lost:
                self._bucket.delete([lease.name])

    def is_held(self, name: str) -> bool:
        """Whether somebody holds a lease."""
        there = self._bucket.read(name)
        return there is not None and not _noted(there).get("is_released") and not self._has_run_out(there)

    @contextmanager
    def in_use(self, report: Callable[[str], None]) -> Iterator[None]:
        """Keep what is stored from being deleted, after whoever deletes now; see `storage.leases.in_use`."""
        user = self.take(f"{USERS}/{secrets.token_hex(16)}.json")
        assert isinstance(user, Lease), "a name of its own is nobody else's"
        try:
            # Its name is there before it looks, and so is that of who deletes: one of them sees the other.
            if self.is_held(DELETING):
                report(f"results of {self._bucket.url} are being deleted; waiting for that")
                while self.is_held(DELETING):
                    sleep(self.poll_seconds)
            yield
        finally:
            try:
                self.remove(user)
            except UnreachableStoreError:  # it runs out
                user.is_lost = True

    @contextmanager
    def unused(self) -> Iterator[None]:
        """Have the warehouse for oneself, to delete from it; see `storage.leases.unused`.

        Raises:
            StoreError: if a run uses it, or somebody else deletes.
        """
        deleting = self.take(DELETING)
        if isinstance(deleting, Holder):
            raise StoreError(f"{deleting.who} is deleting results of {self._bucket.url}; nothing was deleted here.")
        try:
            for one in self._bucket.list(f"{USERS}/"):
                there = self._bucket.read(one.name)
                if there is None:
                    continue
                if not self._has_run_out(there):
                    raise StoreError(
                        f"a run ({_noted(there).get('who')}) is using the warehouse {self._bucket.url}, and may read "
                        "what would be deleted; nothing was deleted. Try again when it has ended; one that was killed "
                        f"counts for {self._seconds:.0f} s."
                    )
                self._bucket.delete([one.name])
            self._tidy()
            yield
        finally:
            self.release(deleting)

    def _tidy(self) -> None:
        """Delete what killed processes left, and leases that nobody holds; no run is at work."""
        self._bucket.delete([one.name for one in self._bucket.list(f"{CLOCK}/")])
        left = [one.name for one in self._bucket.list(f"{LEASES}/") if not self.is_held(one.name)]
        self._bucket.delete(left)

    def _content(self, token: str, beat: int) -> bytes:
        content = {
            "token": token,
            "who": f"process {os.getpid()} of {socket.gethostname()}",
            "place": self._place,
            "beat": beat,
            "seconds": self._seconds,
            "is_released": beat < 0,
        }
        return json.dumps(content).encode()

    def _has_run_out(self, there: Content) -> bool:
        """Whether the server's clock is past the end of a lease: asked by an object that is written now."""
        name = f"{CLOCK}/{secrets.token_hex(16)}"
        self._bucket.write(name, b"")
        now = self._bucket.read(name)
        self._bucket.delete([name])
        seconds = float(_noted(there).get("seconds", self._seconds))
        # Servers count in whole seconds.
        return now is not None and _seconds_between(there.written_at, now.written_at) > seconds + 1

    def _hold(self, lease: Lease) -> Lease:
        with self._guard:
            self._held[lease.token] = lease
            if self._renewing is None or not self._renewing.is_alive():
                self._renewing = threading.Thread(target=self._renew, name="leases", daemon=True)
                self._renewing.start()
        return lease

    def _renew(self) -> None:
        while True:
            began = monotonic()
            with self._guard:
                held = list(self._held.values())
                if not held:
                    self._renewing = None
                    return
            for lease in held:
                self._renew_one(lease)
            sleep(max(0.0, self._seconds / RENEWALS - (monotonic() - began)))

    def _renew_one(self, lease: Lease) -> None:
        with lease.guard:
            if lease.token not in self._held or lease.is_lost:
                return
            try:
                version = self._bucket.replace(lease.name, self._content(lease.token, lease.beat + 1), lease.version)
            except StoreError:  # the next one may get through; if none does it runs out, and is another's then
                return
            if version is None:
                lease.is_lost = True
            else:
                lease.version, lease.beat = version, lease.beat + 1


def _noted(there: Content) -> dict[str, Any]:
    try:
        noted = json.loads(there.content)
    except ValueError:
        return {}
    return noted if isinstance(noted, dict) else {}


def _seconds_between(before: datetime, after: datetime) -> float:
    return (after - before).total_seconds()
