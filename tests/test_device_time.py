"""Time that several threads share is dealt out among them, on a clock that the test moves."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from miniplm_assets.lm import device_time
from miniplm_assets.lm.device_time import DeviceTime


class Sharer:
    """A thread that shares when it is told to."""

    def __init__(self, shared):
        self._thread, self._stack, self._shared = ThreadPoolExecutor(1), ExitStack(), shared

    def begin(self):
        self._seconds = self._thread.submit(self._stack.enter_context, self._shared.shared()).result()

    def end(self):
        found = self._thread.submit(self._seconds).result()
        self._thread.submit(self._stack.close).result()
        self._thread.shutdown()
        return found


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(device_time.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("num_devices", "first", "second"), [(1, 4 + 6 / 2, 6 / 2 + 5), (4, 4 * 4 + 6 * 2, 6 * 2 + 5 * 4)]
)
def test_time_is_dealt_out_among_those_who_share_a_device(num_devices, first, second, clock):
    shared = DeviceTime(num_devices)
    one, other = Sharer(shared), Sharer(shared)
    one.begin()
    clock[0] += 4
    other.begin()
    clock[0] += 6
    assert one.end() == pytest.approx(first)
    clock[0] += 5
    assert other.end() == pytest.approx(second)


def test_a_thread_that_comes_back_begins_anew(clock):
    shared = DeviceTime(1)
    with shared.shared() as seconds:
        clock[0] += 3
        assert seconds() == pytest.approx(3)
    clock[0] += 50
    with shared.shared() as seconds:
        clock[0] += 2
        assert seconds() == pytest.approx(2)
