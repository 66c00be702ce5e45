"""Parts that are computed in threads, several at once, and come back in their order."""

import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

Owner = TypeVar("Owner")
Part = TypeVar("Part")


class PartThreads:
    """One thread more than there are devices, so that none waits at the border of a part or of a file.

    Args:
        num_devices: how many parts are computed at the same time.
    """

    def __init__(self, num_devices: int) -> None:
        self._num_at_once = num_devices + 1
        self._pool = ThreadPoolExecutor(self._num_at_once, thread_name_prefix="part")

    def __enter__(self) -> "PartThreads":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # An interrupt, too, must not wait for parts that are minutes from their end.
        self._pool.shutdown(wait=error is None, cancel_futures=True)

    def in_order(
        self,
        works: Iterable[tuple[Owner, Callable[[], Part]]],
        errands: "queue.SimpleQueue[Callable[[], object]]",
    ) -> Iterator[tuple[Owner, Part]]:
        """Do as many of the works at once as there are threads; give what each returns, in their order.

        Args:
            works: each with whoever it is for; the next one is taken when there is a thread for it.
            errands: what the threads leave for the caller's own thread, done while it waits for them.

        Yields:
            The owner of each work, and what the work returned.
        """
        waiting: deque[tuple[Owner, Future[Part]]] = deque()
        for owner, work in works:
            future = self._pool.submit(work)
            future.add_done_callback(lambda _: errands.put(_nothing))  # wakes the one who waits
            waiting.append((owner, future))
            if len(waiting) == self._num_at_once:
                yield self._next(waiting, errands)
        while waiting:
            yield self._next(waiting, errands)

    @staticmethod
    def _next(
        waiting: "deque[tuple[Owner, Future[Part]]]", errands: "queue.SimpleQueue[Callable[[], object]]"
    ) -> tuple[Owner, Part]:
        owner, future = waiting.popleft()
        while not future.done():
            errands.get()()
        while not errands.empty():
            errands.get()()
        return owner, future.result()


def _nothing() -> None:
    """Wakes a thread that waits for an errand."""
