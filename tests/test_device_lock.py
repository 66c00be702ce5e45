"""One model at a time on a device; a run that was killed keeps nobody from it."""

import os
import subprocess
import sys
import threading

import pytest

from miniplm_assets.assets.device_lock import device_lock, is_free, lock_path
from miniplm_assets.core.errors import StoreError
from miniplm_assets.storage.files import runtime_folder

HOLDER = """
import time
from miniplm_assets.assets.device_lock import device_lock
with device_lock("run 17 of demo.yaml", print, ["0"]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def own_runtime_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def holder():
    """Another run, with a model on the device."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_waits_and_says_for_whom_until_the_first_is_killed(holder):
    lines = []

    def report(line):
        lines.append(line)
        threading.Timer(1.2, holder.kill).start()

    with device_lock("run 18", report, ["1", "0"]):
        assert holder.wait(60) == -9
        assert lock_path("0").read_text().startswith("run 18 (process ")
        assert not is_free("1")
    (line,) = lines
    assert f"which run 17 of demo.yaml (process {holder.pid}, since 20" in line
    assert "end that run to go on at once" in line


def test_who_has_another_device_does_not_wait(holder):
    assert (is_free("0"), is_free("1")) == (False, True)
    with device_lock("another", pytest.fail, ["1"]):
        assert holder.poll() is None


def test_a_lock_is_let_go():
    for _ in range(2):
        with device_lock("run", pytest.fail, ["0", "1"]):
            pass
    assert lock_path("0").read_text() == ""
    assert is_free("0") and is_free("1")


def test_nobody_else_can_write_where_the_lock_is(tmp_path, monkeypatch):
    assert runtime_folder() == tmp_path / "miniplm_assets"
    assert runtime_folder().stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    runtime_folder().chmod(0o777)
    assert runtime_folder() != tmp_path / "miniplm_assets"


def test_a_link_that_somebody_made_is_not_followed(tmp_path, monkeypatch):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "miniplm_assets").symlink_to(tmp_path / "theirs")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "miniplm_assets"))
    monkeypatch.setattr(os, "getuid", lambda: 54_321)
    with pytest.raises(StoreError, match="set XDG_RUNTIME_DIR"):
        runtime_folder()
