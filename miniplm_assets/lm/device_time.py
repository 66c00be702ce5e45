"""Whose time it was: of several parts that are scored at once, with fewer devices than parts."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class DeviceTime:
    """Deals out the time of some devices among the threads that share them.

    What all of them had adds up to what the devices had while one of them shared, so that a cost that is worked out
    from it is the cost of the whole.
    """

    def __init__(self, num_devices: int) -> None:
        """Begin with nobody."""
        self._num_devices = num_devices
        self._lock = threading.Lock()
        self._dealt_at = 0.0
        self._seconds: dict[int, float] = {}  # by thread

    @contextmanager
    def shared(self) -> Iterator[Callable[[], float]]:
        """Let this thread be one of those who share; gives what tells the device seconds that it has had so far."""
        thread = threading.get_ident()
        with self._lock:
            self._deal()
            self._seconds[thread] = 0.0
        try:
            yield self._had
        finally:
            with self._lock:
                self._deal()
                del self._seconds[thread]

    def _had(self) -> float:
        with self._lock:
            self._deal()
            return self._seconds[threading.get_ident()]

    def _deal(self) -> None:
        now = time.monotonic()
        for thread in self._seconds:
            self._seconds[thread] += (now - self._dealt_at) * self._num_devices / len(self._seconds)
        self._dealt_at = now
