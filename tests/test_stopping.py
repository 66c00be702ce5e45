"""Signals: real ones, to this process or to a real run. What they stop is put down where nothing is lost."""

import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import weakref
from functools import partial
from pathlib import Path

import dagster as dg
import pytest

from miniplm_assets.assets import stopping
from miniplm_assets.assets.stopping import RunStoppedError, stopped_by_signals
from miniplm_assets.core.stop import Stop, Stopped
from miniplm_assets.lm.part_threads import PartThreads
from tests.corpora import tiny_experiment, write_experiment, write_shard

ROOT = Path(__file__).parents[1]
EITHER = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


def send(number):
    os.kill(os.getpid(), number)


@pytest.fixture
def stop(monkeypatch):
    monkeypatch.setattr(stopping, "ECHO_SECONDS", 0.0)
    handlers = [signal.getsignal(number) for number in stopping.SIGNALS]
    yield Stop()
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == handlers


def nobody_waits():
    pass


@EITHER
def test_a_signal_breaks_off_what_is_not_held(stop, number):
    done = []
    with pytest.raises(RunStoppedError, match="half/comparison: told to stop"):  # noqa: SIM117
        with stopped_by_signals(stop, key="half/comparison", wake=nobody_waits):
            send(number)
            done.append("more")
    assert done == []


@EITHER
def test_what_is_held_comes_to_its_end_unless_it_is_asked_twice(stop, number):
    done = []
    with pytest.raises(RunStoppedError):  # noqa: SIM117
        with stopped_by_signals(stop, key="half/comparison", wake=nobody_waits), stop.held():
            send(number)
            done.append("after one")
            send(number)
            done.append("after two")
    assert done == ["after one"]


def test_one_signal_that_comes_twice_is_one(stop, monkeypatch):
    monkeypatch.setattr(stopping, "ECHO_SECONDS", 600.0)
    done = []
    with pytest.raises(RunStoppedError):  # noqa: SIM117
        with stopped_by_signals(stop, key="half/comparison", wake=nobody_waits), stop.held():
            send(signal.SIGINT)
            send(signal.SIGTERM)
            done.append("after both")
    assert done == ["after both"]


@EITHER
def test_a_stop_that_python_drops_is_found_at_the_next_look(stop, number, monkeypatch):
    class Thing:
        pass

    def callback(_):
        send(number)
        return [None for _ in range(100)]  # where the handler runs, and what it raises has nowhere to go

    dropped, done = [], []
    monkeypatch.setattr(sys, "unraisablehook", lambda raised: dropped.append(raised.exc_type))
    thing = Thing()
    reference = weakref.ref(thing, callback)
    with pytest.raises(RunStoppedError):  # noqa: SIM117
        with stopped_by_signals(stop, key="half/comparison", wake=nobody_waits):
            del thing
            done.append("the rest of the asset")
    assert dropped == [Stopped]
    assert done == ["the rest of the asset"]
    assert reference() is None


def test_who_waits_for_other_threads_wakes_up(stop):
    errands, may_end, put_away = queue.SimpleQueue(), threading.Event(), []

    def works():
        yield "first", lambda: 1
        yield "second", lambda: may_end.wait(60)

    def keep_and_send(part):
        put_away.append(part)
        threading.Timer(0.2, send, [signal.SIGINT]).start()

    with pytest.raises(RunStoppedError):  # noqa: SIM117
        # Held, so that the handler raises nothing: as where what it raises is dropped.
        with stopped_by_signals(stop, key="x", wake=partial(errands.put, stop.look)), stop.held():
            with PartThreads(1) as threads:
                for owner, part in threads.in_order(works(), errands):
                    keep_and_send((owner, part))
    may_end.set()
    assert put_away == [("first", 1)]


def test_outside_of_a_main_thread_nobody_is_asked(stop):
    done = []

    def work():
        with stopped_by_signals(stop, key="x", wake=nobody_waits):
            done.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [signal.getsignal(signal.SIGINT)]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """One file, with everything but its one trained model stored, and a home for Dagster."""
    folder = tmp_path_factory.mktemp("stopping")
    write_shard(folder / "corpus" / "a.jsonl", ("argparse", "ast", "calendar"))
    content = tiny_experiment(folder / "corpus", folder / "warehouse")
    for part in ("teachers", "selections", "students"):
        del content[part]
    content["references"]["small"]["model"]["training"]["token_budget"] = 20_000
    (folder / "home").mkdir()
    shutil.copy(ROOT / "dagster.yaml", folder / "home")
    return write_experiment(folder / "experiment.yaml", content)


def run_dagster(experiment, name, step):
    """Materialise with a signal in the middle of a step; return the exit status, what was printed, and the run."""
    home = experiment.parent / "home"
    done = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-m", "tests.stop_at_step", name, str(step)),
            *("asset", "materialize", "--select", "*", "-m", "miniplm_assets.definitions"),
        ],
        cwd=home,
        env={**os.environ, "MINIPLM_EXPERIMENT": str(experiment), "PYTHONPATH": str(ROOT), "DAGSTER_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    with dg.DagsterInstance.from_config(str(home)) as instance:
        return done.returncode, done.stdout + done.stderr, instance.get_runs(limit=1)[0]


def checkpoints(experiment):
    return [path.name for path in (experiment.parent / "warehouse").glob(".work/*/kept/checkpoint-*")]


@pytest.mark.filterwarnings("ignore::dagster.SupersessionWarning", "ignore::ResourceWarning")
def test_a_run_that_is_stopped_in_training_is_cancelled_and_goes_on_from_that_step(experiment):
    status, printed, run = run_dagster(experiment, "SIGINT", 7)
    assert (status, run.status) == (1, dg.DagsterRunStatus.CANCELED), printed
    assert "Stack Trace" not in printed and "Traceback" not in printed
    assert "a checkpoint holds all up to step 7 of" in printed
    assert checkpoints(experiment) == ["checkpoint-7"]

    status, printed, run = run_dagster(experiment, "SIGTERM", 9)
    assert (status, run.status) == (1, dg.DagsterRunStatus.CANCELED), printed
    assert "going on after step 7" in printed
    assert checkpoints(experiment) == ["checkpoint-9"]

    # Killed, it can say nothing itself: whoever comes next does.
    status, printed, killed = run_dagster(experiment, "SIGKILL", 11)
    assert (status, killed.status) == (-9, dg.DagsterRunStatus.STARTED), printed

    status, printed, run = run_dagster(experiment, "SIGINT", 0)
    assert (status, run.status) == (0, dg.DagsterRunStatus.SUCCESS), printed
    assert "going on after step 9" in printed
    assert checkpoints(experiment) == []
    with dg.DagsterInstance.from_config(str(experiment.parent / "home")) as instance:
        assert instance.get_run_by_id(killed.run_id).status == dg.DagsterRunStatus.FAILURE
        [ended] = instance.all_logs(killed.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
        assert "is gone: killed, or ended with the machine" in ended.message
