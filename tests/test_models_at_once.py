"""Models beside one another: real processes, of assets that wait for one another; then real students.

What must happen at once waits until the other has begun, so that one after the other it would never end.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import dagster as dg
import psutil
import pytest

from miniplm_assets.assets.build import build_assets
from miniplm_assets.kinds.registry import open_pipeline
from tests.corpora import tiny_experiment, write_experiment, write_shard

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[1]
PATIENCE_SECONDS = 240.0


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Where Dagster remembers the runs of this file."""
    home = tmp_path_factory.mktemp("home")
    shutil.copy(ROOT / "dagster.yaml", home)
    return home


@pytest.fixture(scope="module")
def instance(home):
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


@pytest.fixture
def job(tmp_path, monkeypatch):
    """The module of assets that need a device, which note what happens in a folder of this test."""
    monkeypatch.setenv("AT_ONCE_FOLDER", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    from miniplm_assets.assets import models_at_once
    from tests import at_once_job

    monkeypatch.setattr(models_at_once, "DeviceSteps", at_once_job.TaggedSteps)
    monkeypatch.setattr(models_at_once, "visible_devices", tuple)
    monkeypatch.setattr(models_at_once, "SECONDS_BEFORE_RETRY", 0.1)
    return at_once_job


def kinds_of_events(result):
    return {(event.step_key, event.event_type_value) for event in result.all_events}


def failure_of(result, step):
    [event] = [event for event in result.all_events if event.step_key == step and event.is_step_failure]
    return event.step_failure_data.error.to_string()


needs_two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two models share two cores")


@needs_two_cores
def test_two_are_made_at_once_each_with_cores_of_its_own(job, instance):
    result = job.execute("meeting", instance)
    assert result.success
    left, right, both = map(job.noted, ("left", "right", "both"))
    assert both["pid"] == os.getpid()
    assert len({left["pid"], right["pid"], os.getpid()}) == 3
    assert not set(left["cores"]) & set(right["cores"])
    assert left["threads"] == right["threads"] == str(len(os.sched_getaffinity(0)) // 2)
    assert [len(left["cores"]), len(right["cores"])] == [int(left["threads"])] * 2
    # The record of the run has it all, as if one process had made them.
    stored = {event.asset_key.to_user_string() for event in result.get_asset_materialization_events()}
    assert stored == {"left", "right", "both"}
    assert not psutil.pid_exists(left["pid"]) and not psutil.pid_exists(right["pid"])


@needs_two_cores
def test_a_model_of_a_cluster_waits_for_the_gate_before_it(job, instance):
    assert job.execute("held", instance).success
    assert job.noted("on_cluster")["pilot_has_spoken"]


def test_a_run_may_ask_for_one_at_a_time(job, instance, monkeypatch):
    monkeypatch.setattr(job, "SECONDS", 0.0)
    result = job.execute("meeting", instance, models_at_once=1)
    assert job.noted("left")["pid"] == job.noted("right")["pid"] == os.getpid()
    assert "were never noted together" in failure_of(result, "left")


@needs_two_cores
def test_a_lost_process_is_a_step_that_is_tried_again_and_then_fails(job, instance):
    result = job.execute("losing", instance)
    assert not result.success
    kinds = [event.event_type_value for event in result.all_events if event.step_key == "killed"]
    assert kinds.count("STEP_UP_FOR_RETRY") == 2 and kinds.count("STEP_FAILURE") == 1
    message = failure_of(result, "killed")
    assert message.startswith(
        "killed: the process has ended: SIGKILL ended it, as a machine does that is out of memory"
    )
    assert "models_at_once" in message
    assert job.noted("after_killed") is None


@needs_two_cores
def test_a_step_that_lives_the_second_time_is_a_success(job, instance):
    waiting = threading.Thread(target=lambda: (job.wait_for("killed"), job.note("may live")))
    waiting.start()
    result = job.execute("losing", instance)
    waiting.join()
    assert result.success
    assert ("killed", "STEP_UP_FOR_RETRY") in kinds_of_events(result)
    assert job.noted("after_killed")["pid"] == os.getpid()


@needs_two_cores
def test_a_blocking_check_blocks_what_follows(job, instance):
    result = job.execute("gated", instance)
    assert not result.success
    [check] = result.get_asset_check_evaluations()
    assert not check.passed
    assert ("after_gate", "STEP_START") not in kinds_of_events(result)
    assert job.noted("after_gate") is None


@needs_two_cores
@pytest.mark.parametrize("to", ["the run", "one of them"])
def test_a_signal_is_handed_on_and_the_run_is_cancelled(job, instance, to):
    def interrupt():
        job.wait_for("long", "as_long")
        os.kill(os.getpid() if to == "the run" else job.noted("as_long")["pid"], signal.SIGTERM)

    threading.Thread(target=interrupt).start()
    assert not job.execute("endless", instance).success
    assert job.noted("long is kept")["pid"] == job.noted("long")["pid"]
    assert job.noted("as_long is kept")["pid"] == job.noted("as_long")["pid"]
    assert not psutil.pid_exists(job.noted("long")["pid"])
    [run] = instance.get_runs(limit=1)
    assert run.status == dg.DagsterRunStatus.CANCELED
    failures = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    assert {one.dagster_event.step_failure_data.error.message.strip() for one in failures} == {
        f"{key}: told to stop. What was finished is kept; run again to go on from there." for key in ("long", "as_long")
    }


@needs_two_cores
def test_nobody_outlives_a_run_that_is_killed(job, home):
    run = subprocess.Popen([sys.executable, "-W", "ignore", "-m", "tests.at_once_job", str(home)], cwd=ROOT)
    try:
        job.wait_for("long", "as_long")
    finally:
        run.kill()
        run.wait()
    processes = [job.noted("long")["pid"], job.noted("as_long")["pid"]]
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any(map(psutil.pid_exists, processes)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(psutil.pid_exists, processes))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """An experiment of two students, of which all but the models is stored."""
    folder = tmp_path_factory.mktemp("students")
    write_shard(folder / "corpus" / "a.jsonl", ("argparse", "ast", "calendar"))
    content = tiny_experiment(folder / "corpus", folder / "stored", models_at_once=2)
    student = content["students"].pop("no_kd")
    content["students"] = {"one": student, "two": {**student, "seeds": [4]}}
    for part in ("teachers", "references", "selections"):
        del content[part]
    experiment = write_experiment(folder / "experiment.yaml", content)
    upstream = dg.AssetSelection.assets("bpe/sequences").upstream()
    assets = build_assets(open_pipeline(experiment))
    assert dg.materialize(assets, selection=upstream, instance=dg.DagsterInstance.ephemeral()).success
    return experiment


def train_students(prepared, home, warehouse, meeting=None, *options):
    """Train them by a command; return what it printed."""
    shutil.copytree(prepared.parent / "stored", warehouse)
    paths = [str(ROOT / "tests" / "meeting"), str(ROOT)] if meeting else [str(ROOT)]
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-W",
                "ignore",
                "-m",
                "dagster",
                "asset",
                "materialize",
                "-m",
                "miniplm_assets.definitions",
            ),
            *("--select", "tag:kind=student_checkpoint", *options),
        ],
        cwd=home,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "DAGSTER_HOME": str(home),
            "MINIPLM_EXPERIMENT": str(prepared),
            "MINIPLM_WAREHOUSE": str(warehouse),
            "MEETING_FOLDER": str(meeting or ""),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def weights(warehouse):
    return {
        str(path.relative_to(warehouse)): path.read_bytes()
        for path in warehouse.glob("*/student_checkpoint/**/model.safetensors")
    }


@needs_two_cores
def test_two_students_are_trained_at_once_and_are_what_one_after_the_other_gives(prepared, home, tmp_path):
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    printed = train_students(prepared, home, tmp_path / "two", meeting)
    assert len(list(meeting.iterdir())) == 2
    assert "asset 1 of 2" in printed and "asset 2 of 2" in printed
    assert "Traceback" not in printed and "Warning" not in printed
    one = '{"execution": {"config": {"models_at_once": 1}}}'
    train_students(prepared, home, tmp_path / "one", None, "--config-json", one)
    assert len(weights(tmp_path / "two")) == 2
    assert weights(tmp_path / "two") == weights(tmp_path / "one")  # under the same fingerprints
