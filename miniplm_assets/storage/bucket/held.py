"""What is held of a result in the making, by one process on one machine."""

from miniplm_assets.core.errors import StoreError
from miniplm_assets.storage.bucket.leases import Lease, Leases
from miniplm_assets.storage.bucket.work import CarriedWork
from miniplm_assets.storage.store import Lock


class HeldResult:
    """What is held of a result in the making: the lock on this machine, and the lease for all of them."""

    def __init__(self, lock: Lock, leases: Leases, lease: Lease) -> None:
        self._lock = lock
        self._leases = leases
        self.lease = lease
        self.work: CarriedWork | None = None

    @property
    def closed(self) -> bool:
        """Whether it is held no longer."""
        return self._lock.closed

    def close(self) -> None:
        """Carry what there is, and let go: the next one goes on with it."""
        if self.closed:
            return
        try:
            if self.work is None:  # nothing was begun: somebody else has made it
                self._leases.remove(self.lease)
            else:
                self.work.give_up()
                self._leases.release(self.lease)
        finally:
            self._lock.close()

    def finish(self) -> None:
        """Let go of a result that is stored: nobody will make it."""
        try:
            if self.work is not None:
                self.work.finish()
            self._leases.remove(self.lease)
        except StoreError:  # it is stored; what is left of its making goes when somebody prunes
            self._leases.release(self.lease)
        finally:
            self._lock.close()
