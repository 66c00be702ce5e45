"""The processes of a training, as torchrun's agent starts them: lost, stopped and started again.

The oracle: the run of one process that nothing disturbed.
"""

import json
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from miniplm_assets.core.errors import TrainingError
from miniplm_assets.core.stop import Stop, Stopped
from miniplm_assets.experiment import Training
from miniplm_assets.experiment.objectives import CrossEntropy, MiniLlm, VanillaKd
from miniplm_assets.lm.engine_process import EngineFailure
from miniplm_assets.training import TrainingJob, train_language_model
from miniplm_assets.training.launch import parallelism_problems, require_devices
from miniplm_assets.training.nodes import Launchers
from miniplm_assets.training.objectives import Input
from tests.test_training import NO_DROPOUT, every_step, train
from tests.test_training import job as job
from tests.test_training_processes import require_same

pytestmark = pytest.mark.long


def wait_until(is_so: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 600
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def workers() -> dict[int, psutil.Process]:
    """Return the workers below this process, by rank."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        try:
            if "miniplm_assets.training.worker" in process.cmdline():
                found[int(process.environ()["RANK"])] = process
        except psutil.Error:
            continue
    return found


class Added:
    """Curves that keep what they are told."""

    def __init__(self) -> None:
        self.first_steps: list[int] = []
        self.steps: dict[int, dict[str, float]] = {}

    def begin(self, first_step: int) -> None:
        self.first_steps.append(first_step)

    def add(self, step: int, values: Any) -> None:
        self.steps.setdefault(step, {}).update(values)


def test_a_lost_process_ends_all_with_its_name_and_the_run_goes_on_from_its_checkpoint(
    job: TrainingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # a failure leaves its log there
    job = replace(job, architecture=NO_DROPOUT)
    train(job, tmp_path / "whole")
    two = replace(job, training=job.training.model_copy(update={"num_processes": 2}))
    ran: dict[int, psutil.Process] = {}

    def kill_one() -> None:
        wait_until(lambda: list((tmp_path / "cut" / "work").glob("checkpoint-*")))
        ran.update(workers())
        ran[1].kill()

    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(TrainingError) as lost:
        train(every_step(two), tmp_path / "cut")
    killer.join()
    assert "tiny/student_checkpoint: the training failed: process 1 of 2 has ended: SIGKILL ended" in str(lost.value)
    assert "run again to go on from there, by any number of processes" in str(lost.value)
    assert set(ran) == {0, 1}
    psutil.wait_procs(ran.values(), timeout=30)
    assert not any(process.is_running() for process in ran.values())

    lines: list[str] = []
    stop, curves = Stop(), Added()

    def ask() -> None:
        [first] = (tmp_path / "cut" / "work").glob("checkpoint-*")
        wait_until(lambda: not first.exists())  # a later one is there
        stop.is_asked = True

    asker = threading.Thread(target=ask)
    asker.start()
    with pytest.raises(Stopped):
        train_language_model(
            every_step(two),
            work=tmp_path / "cut" / "work",
            target=tmp_path / "cut" / "target",
            report=lines.append,
            stop=stop,
            curves=curves,
        )
    asker.join()
    [checkpoint] = (tmp_path / "cut" / "work").glob("checkpoint-*")
    step = int(checkpoint.name.split("-")[1])
    assert any("on cpu:0 by 2 processes; going on after step" in line for line in lines)
    assert lines[-1].startswith(f"told to stop: a checkpoint holds all up to step {step} of")
    assert max(curves.steps) == step and curves.first_steps == [min(curves.steps)]
    assert not workers()

    assert train(job, tmp_path / "cut")["resumed_from_step"] == step
    require_same(tmp_path / "whole", tmp_path / "cut")


def test_a_process_that_a_signal_ended_is_the_cause_and_not_those_that_missed_it(tmp_path: Path) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    from miniplm_assets.training.launcher import why_they_ended

    def failure(rank: int, status: int) -> ProcessFailure:
        return ProcessFailure(local_rank=rank, pid=1, exitcode=status, error_file="")

    missed = {"failed": "process 0 failed: RuntimeError: Connection closed by peer"}
    log = tmp_path / "run_x" / "attempt_0" / "1" / "stderr.log"
    log.parent.mkdir(parents=True)
    log.write_text("loading\nFatal Python error: Segmentation fault\n")
    both = {0: failure(0, -signal.SIGTERM), 1: failure(1, -signal.SIGSEGV)}
    text = why_they_ended(both, missed, number=2, logs=tmp_path)["failed"]
    assert text == (
        "process 1 of 2 has ended: SIGSEGV ended it; it printed:\nloading\nFatal Python error: Segmentation fault"
    )
    assert why_they_ended({0: failure(0, 1)}, missed, number=2, logs=tmp_path) == missed
    silent = why_they_ended({1: failure(1, 7)}, None, number=2, logs=tmp_path)["failed"]
    assert silent.startswith("process 1 of 2 has ended: exit status 7; it printed:")


class Played:
    """A launcher that has said all that it will, and notes what it is told."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.messages, self.told = list(messages), []

    def has_message(self, seconds: float) -> bool:  # noqa: ARG002
        return bool(self.messages)

    def receive(self, *, silence_seconds: float) -> dict[str, Any]:  # noqa: ARG002
        return self.messages.pop(0)

    def send(self, message: dict[str, Any]) -> None:
        self.told.append(message)
        self.messages.append({"stopped": True})


class OwnError(TrainingError):
    """Of a class that the parent does not know."""


def test_what_workers_say_is_passed_on_and_their_error_is_that_of_the_run() -> None:
    from multiprocessing import AuthenticationError
    from multiprocessing.connection import Client, Pipe

    from miniplm_assets.lm.engine_process import Sender
    from miniplm_assets.training.launch import HERE, error_message, follow
    from miniplm_assets.training.launcher import Switchboard

    ours, theirs = Pipe()
    switchboard = Switchboard(Sender(theirs))
    with pytest.raises(AuthenticationError):
        Client((HERE, switchboard.port), authkey=b"somebody else's")
    workers = [Client((HERE, switchboard.port), authkey=switchboard.key) for _ in range(2)]
    workers[0].send_bytes(json.dumps({"line": "step 1 of 2", "done": 1, "total": 2}).encode())
    said = json.loads(ours.recv_bytes())
    switchboard.pass_on_stop()
    assert [json.loads(worker.recv_bytes()) for worker in workers] == [{"stop": True}] * 2
    Sender(workers[1]).send(error_message(OwnError("split 'teacher' holds nothing")))
    wait_until(lambda: switchboard.first_trouble)
    workers[0].send_bytes(json.dumps({"failed": "process 0 missed process 1"}).encode())
    for worker in workers:
        worker.close()
    switchboard.hear_all()

    lines: list[str] = []
    with pytest.raises(TrainingError, match="^split 'teacher' holds nothing$"):
        follow(Played(said, switchboard.first_trouble), report=lines.append, stop=Stop(), curves=Added())
    assert lines == ["step 1 of 2"] and (lines[0].done, lines[0].total) == (1, 2)
    stop = Stop()
    stop.is_asked = True
    launcher = Played()
    with pytest.raises(Stopped):
        follow(launcher, report=lines.append, stop=stop, curves=Added())
    assert launcher.told == [{"stop": True}]


def test_a_job_is_the_same_behind_its_json(job: TrainingJob, tmp_path: Path) -> None:
    assert TrainingJob.from_json(json.loads(json.dumps(job.to_json()))) == job
    taught = replace(
        job,
        objective=VanillaKd(type="vanilla_kd", teacher="large", weight=0.25),
        objective_inputs={
            "teacher": Input(folder=tmp_path, begin_of_sequence_id=1),
            "teacher_scores": Input(files=(tmp_path / "a.parquet",)),
        },
    )
    assert TrainingJob.from_json(json.loads(json.dumps(taught.to_json()))) == taught


def test_more_processes_than_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    require_devices(2, name="tiny")
    with pytest.raises(TrainingError, match="num_processes is 3, and this machine has 2 devices.*lower it to 2"):
        require_devices(3, name="tiny")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    with pytest.raises(TrainingError, match="takes CUDA devices or a CPU alone, and this machine has mps"):
        require_devices(2, name="tiny")


def test_what_cannot_be_shared_or_spread_is_refused_in_the_file() -> None:
    with pytest.raises(ValueError, match="num_processes is 5, but a step has 4 sequences to share"):
        Training(token_budget=10, sequences_per_step=4, num_processes=5)
    with pytest.raises(ValueError, match="num_processes is 3, of which 2 nodes cannot have as many each"):
        Training(token_budget=10, num_processes=3, num_nodes=2)
    with pytest.raises(ValueError, match="fsdp scales no loss, which dtype float16 needs; set dtype to bfloat16"):
        Training(token_budget=10, dtype="float16", parallelism="fsdp")
    spread = Training(token_budget=10, num_processes=2, parallelism="fsdp")
    minillm = MiniLlm(type="minillm", teacher="large")
    [problem] = parallelism_problems(spread, minillm)
    assert "minillm reads texts of different lengths" in problem and problem.endswith("set parallelism to ddp")
    assert not list(parallelism_problems(spread, CrossEntropy()))
    assert not list(parallelism_problems(spread.model_copy(update={"parallelism": "ddp"}), minillm))


class Node:
    """An actor that has said all that it will, a list each time that it is asked, and notes what it is told."""

    def __init__(self, *said: list[dict[str, Any]]) -> None:
        self.said, self.told = list(said), []
        self.heard = SimpleNamespace(remote=lambda _seconds: self.said.pop(0) if self.said else [])
        self.tell = SimpleNamespace(remote=self.told.append)


def nodes(monkeypatch: pytest.MonkeyPatch, *actors: Node) -> Launchers:
    """Return the launchers of some nodes, as if Ray had started them."""
    monkeypatch.setattr("miniplm_assets.training.nodes._answer", lambda asked: asked)
    launchers = object.__new__(Launchers)
    launchers._actors, launchers._under_way, launchers._messages = list(actors), set(range(len(actors))), deque()
    return launchers


def test_what_the_first_node_says_counts_also_after_another_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Node([], [{"line": "step 2"}, {"facts": {}}, {"ended": True}]), Node([{"ended": True}])
    launchers = nodes(monkeypatch, first, second)
    assert not launchers.has_message(0.1)
    launchers.send({"stop": True})
    assert (first.told, second.told) == ([{"stop": True}], [])  # who has ended hears nothing
    assert [launchers.receive(silence_seconds=1) for _ in range(2)] == [{"line": "step 2"}, {"facts": {}}]
    with pytest.raises(EngineFailure, match="the nodes have ended, and the first said nothing of what came of it"):
        launchers.receive(silence_seconds=1)


def test_each_node_says_why_it_fails_and_an_error_in_words_is_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    late = Node([], [], [{"lost": "node b: process 3 of 4 has ended: SIGKILL ended it"}])
    launchers = nodes(monkeypatch, Node([{"lost": "node a: process 0 failed: connection closed"}]), late)
    with pytest.raises(EngineFailure) as failed:
        launchers.has_message(0.1)
    assert str(failed.value).splitlines() == [
        "node a: process 0 failed: connection closed",
        "node b: process 3 of 4 has ended: SIGKILL ended it",
    ]
    error = {"error": "TrainingError", "message": "the loss is not finite"}
    launchers = nodes(monkeypatch, Node([{"lost": "node a: connection closed"}]), Node([error, {"lost": "node b"}]))
    assert launchers.receive(silence_seconds=1) == error
