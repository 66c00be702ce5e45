"""Parts that are computed in threads, several at once, and come back in their order."""

import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Final, TypeVar

Owner = TypeVar("Owner")
Part = TypeVar("Part")

# Parts that may wait for an earlier one to end, for each that is computed: a device that is lost, and made up for in
# minutes, does not keep the others waiting at once. Each may hold a file open.
MAX_WAITING: Final = 4


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
        works: Iterable[tuple[Owner, Callable[[], Part] | None]],
        errands: "queue.SimpleQueue[Callable[[], object]]",
    ) -> Iterator[tuple[Owner, Part | None]]:
        """Do as many of the works at once as there are threads; give what each returns, in their order.

        Args:
            works: each with whoever it is for; the next one is taken when there is a thread for it. None is no work: a
                mark, which is given back in its place.
            errands: what the threads leave for the caller's own thread, done while it waits for them.

        Yields:
            The owner of each work, and what the work returned.

        Raises:
            Whatever a work raises, as soon as it does.
        """
        waiting: deque[tuple[Owner, Future[Part] | None]] = deque()
        for owner, work in works:
            waiting.append((owner, None if work is None else self._begin(work, errands)))
            yield from _ended(waiting)
            while _num_under_way(waiting) >= self._num_at_once or len(waiting) >= MAX_WAITING * self._num_at_once:
                errands.get()()
                yield from _ended(waiting)
        while waiting:
            yield from _ended(waiting)
            if waiting:
                errands.get()()
        while not errands.empty():
            errands.get()()

    def _begin(self, work: Callable[[], Part], errands: "queue.SimpleQueue[Callable[[], object]]") -> Future[Part]:
        future = self._pool.submit(work)
        future.add_done_callback(partial(_wake, errands))
        return future


def _num_under_way(waiting: "deque[tuple[Owner, Future[Part] | None]]") -> int:
    return sum(future is not None and not future.done() for _, future in waiting)


def _ended(waiting: "deque[tuple[Owner, Future[Part] | None]]") -> Iterator[tuple[Owner, Part | None]]:
    """Take what has ended from the head of those that wait; raise what any of them has raised."""
    for _, future in waiting:
        if future is not None and future.done():
            future.result()
    while waiting and (waiting[0][1] is None or waiting[0][1].done()):
        owner, future = waiting.popleft()
        yield owner, None if future is None else future.result()


def _wake(errands: "queue.SimpleQueue[Callable[[], object]]", _future: Future[Part]) -> None:
    """Let the one who waits for an errand look again."""
    errands.put(_nothing)


def _nothing() -> None:
    """Is an errand that asks for nothing."""
