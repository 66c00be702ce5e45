"""The helper process: it cannot outlive, hang or silently lose its owner. Played by a few lines of Python."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import miniplm_assets
from miniplm_assets.lm.engine_process import EngineFailure, EngineProcess

PACKAGE_ROOT = Path(miniplm_assets.__file__).parents[1]

# It starts a process of its own, as an engine does, and answers or fails as it is told.
ENGINE = """
import json, os, subprocess, sys, time
from miniplm_assets.lm.engine_process import serve

def answer(connection, settings):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    connection.send_bytes(json.dumps({"ready": child.pid}).encode())
    while "end" not in (message := json.loads(connection.recv_bytes())):
        if "echo" in message:
            connection.send_bytes(json.dumps({"echo": message["echo"] * settings["times"]}).encode())
            connection.send_bytes(connection.recv_bytes()[::-1])
        if "raise" in message:
            print("(Worker) RuntimeError: the device is on fire", flush=True)
            raise ValueError("waiting for the worker")
        if "warn" in message:
            for number in range(30):
                print(f"WARNING 11-25 15:16:36 [utils.py:{number}] falling back to slower code", flush=True)
            print("[rank0]:[W1125 15:16:36.1 ProcessGroup.cpp:1538] destroy_process_group() was not called", flush=True)
            print("/a/b.py:7: UserWarning: resource_tracker: There appear to be 1 leaked objects", flush=True)
            print("  warnings.warn(", flush=True)
            print("out of luck", flush=True)
        if "exit" in message:
            os._exit(message["exit"])
        if "leave" in message:
            import tempfile
            from pathlib import Path
            Path(tempfile.mkdtemp(), "socket").touch()
        if "hang" in message:
            time.sleep(600)

if __name__ == "__main__":
    serve(answer)
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # a failure leaves its log there
    (tmp_path / "played_engine.py").write_text(ENGINE)
    started = []

    def begin():
        engine = EngineProcess("played_engine", {"times": 3}, environment={**os.environ, "PYTHONPATH": str(tmp_path)})
        started.append(engine)
        return engine, engine.receive(silence_seconds=60)["ready"]

    yield begin
    for engine in started:
        engine.end()


def is_gone(pid):
    """Whether a process ends within 10 seconds; one that is dead but not yet collected counts as ended."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False


def test_messages_and_bytes_go_both_ways_and_the_end_ends_all(start):
    engine, grandchild = start()
    engine.send({"echo": "ab"}, b"123")
    assert engine.receive(silence_seconds=60) == {"echo": "ababab"}
    assert engine.receive_bytes() == b"321"
    engine.end()
    assert is_gone(grandchild)
    with pytest.raises(EngineFailure, match="has ended"):
        engine.send({"echo": "ab"}, b"123")


def test_a_failure_quotes_the_first_cause_and_keeps_the_log(start):
    engine, grandchild = start()
    engine.send({"raise": True})
    with pytest.raises(EngineFailure, match="waiting for the worker") as failure:
        engine.receive(silence_seconds=60)
    assert "RuntimeError: the device is on fire" in str(failure.value)
    assert is_gone(grandchild)
    engine.end()
    log = str(failure.value).rpartition("Its whole log: ")[2]
    assert "on fire" in Path(log).read_text()
    Path(log).unlink()


def test_harmless_warnings_are_not_quoted_in_place_of_a_cause(start):
    engine, _ = start()
    engine.send({"warn": True})
    engine.send({"echo": "ab"}, b"123")
    engine.receive(silence_seconds=60)
    engine.receive_bytes()
    engine.send({"exit": 3})
    with pytest.raises(EngineFailure) as failure:
        engine.receive(silence_seconds=60)
    told, _, log = str(failure.value).partition("\nIts whole log: ")
    assert told == "the engine has ended: exit status 3; it printed:\nout of luck"
    assert Path(log).read_text().count("WARNING") == 30


@pytest.mark.parametrize("how", ["end", "raise", "kill"])
def test_what_an_engine_leaves_behind_goes_with_it(start, tmp_path, how):
    def left():
        folders = list(tmp_path.glob("miniplm-engine-*"))
        assert all(folder.stat().st_mode & 0o077 == 0 for folder in folders)
        return sorted(path.name for folder in folders for path in folder.rglob("*") if path.is_file())

    engine, _ = start()
    engine.send({"leave": True})
    engine.send({"echo": "ab"}, b"123")
    engine.receive(silence_seconds=60)
    engine.receive_bytes()
    assert left() == ["engine.log", "socket"]
    if how == "end":
        engine.end()
        assert left() == []
        return
    if how == "raise":
        engine.send({"raise": True})
    else:
        os.kill(engine.session, signal.SIGKILL)
    with pytest.raises(EngineFailure):
        engine.receive(silence_seconds=60)
    assert left() == ["engine.log"]


def test_an_engine_that_does_not_listen_can_be_ended_at_once(start, monkeypatch):
    engine, grandchild = start()
    engine.send({"hang": True})
    waited = []
    real = engine._process.wait
    monkeypatch.setattr(engine._process, "wait", lambda timeout=None: waited.append(timeout) or real(timeout))
    engine.end(patience_seconds=0)
    assert waited == [0, None]
    assert is_gone(grandchild)


def test_a_killed_engine_is_noticed(start):
    engine, grandchild = start()
    os.kill(engine.session, signal.SIGKILL)
    with pytest.raises(
        EngineFailure, match="has ended: SIGKILL ended it, as a machine does that is out of memory\nIts whole log"
    ):
        engine.receive(silence_seconds=60)
    assert is_gone(grandchild)


def test_a_hung_engine_is_ended(start):
    engine, grandchild = start()
    engine.send({"hang": True})
    with pytest.raises(EngineFailure, match="was ended: it has said nothing for 1 seconds"):
        engine.receive(silence_seconds=1)
    assert is_gone(grandchild)


def test_a_killed_parent_takes_the_engine_with_it(start, tmp_path):
    start()  # writes the module
    [first] = [folder.name for folder in tmp_path.glob("miniplm-engine-*")]
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, time\n"
            "from miniplm_assets.lm.engine_process import EngineProcess\n"
            "engine = EngineProcess('played_engine', {'times': 1}, environment=dict(os.environ))\n"
            "print(engine.session, engine.receive(silence_seconds=60)['ready'], flush=True)\n"
            "time.sleep(600)\n",
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join([str(tmp_path), str(PACKAGE_ROOT)])},
    )
    engine, grandchild = (int(pid) for pid in parent.stdout.readline().split())
    parent.kill()
    parent.communicate()
    assert is_gone(engine)
    assert is_gone(grandchild)
    assert [folder.name for folder in tmp_path.glob("miniplm-engine-*")] == [first]
