"""One model at a time on a device; a run that was killed keeps nobody from it."""

import os
import subprocess
import sys
import tempfile
import threading

import pytest

from miniplm_assets.assets.device_lock import device_lock

HOLDER = """
import time
from miniplm_assets.assets.device_lock import device_lock
with device_lock(print):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path, monkeypatch):
    """Another run, with a model on the device."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_waits_and_says_so_until_the_first_is_killed(holder):
    lines = []

    def report(line):
        lines.append(line)
        threading.Timer(1.2, holder.kill).start()

    with device_lock(report):
        assert holder.wait(10) == -9
    assert len(lines) == 1 and "another run has a model on the device; waiting for it" in lines[0]


def test_who_sees_another_device_does_not_wait(holder, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with device_lock(pytest.fail):
        assert holder.poll() is None


def test_a_lock_is_let_go(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for _ in range(2):
        with device_lock(pytest.fail):
            pass
