"""What Dagster remembers, and of which runs: where it lies, and whose process is gone."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from miniplm_assets.assets import gone_runs
from miniplm_assets.assets.gone_runs import note_process, report_gone_runs
from miniplm_assets.assets.old_runs import forget_old_runs
from miniplm_assets.assets.run_tags import PROCESS_TAG
from miniplm_assets.kinds.registry import PROJECT
from tests.corpora import tiny_experiment, write_experiment, write_shard
from tests.dagster_server import running_dagster, separate_services

DAGSTER = str(Path(sys.executable).with_name("dagster"))


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@dg.job
def nothing():
    """Do nothing."""


def run_of(instance, status=dg.DagsterRunStatus.STARTED, **noted):
    """Return a run of this process, as it noted itself, but for what differs."""
    run = instance.create_run_for_job(nothing, status=status)
    note_process(instance, run.run_id)
    mine = json.loads(instance.get_run_by_id(run.run_id).tags[PROCESS_TAG])
    instance.add_run_tags(run.run_id, {PROCESS_TAG: json.dumps(mine | noted)})
    return run


def ended(instance, run):
    report_gone_runs(instance)
    return instance.get_run_by_id(run.run_id).status


@pytest.fixture
def gone():
    """The process id of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_a_run_whose_process_lives_or_is_elsewhere_is_left_alone(instance, gone):
    assert ended(instance, run_of(instance)) == dg.DagsterRunStatus.STARTED
    assert ended(instance, run_of(instance, place="another machine", pid=gone)) == dg.DagsterRunStatus.STARTED
    untold = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED)
    assert ended(instance, untold) == dg.DagsterRunStatus.STARTED


def test_a_run_whose_process_is_gone_has_failed_or_is_cancelled(instance, gone):
    failed = run_of(instance, pid=gone)
    assert ended(instance, failed) == dg.DagsterRunStatus.FAILURE
    [entry] = instance.all_logs(failed.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
    assert entry.message == f"Its process {gone} is gone: killed, or ended with the machine. What was finished is kept."
    assert ended(instance, run_of(instance, dg.DagsterRunStatus.CANCELING, pid=gone)) == dg.DagsterRunStatus.CANCELED


def test_a_process_id_that_was_given_out_again_is_another_process(instance):
    assert ended(instance, run_of(instance, began="another boot 7")) == dg.DagsterRunStatus.FAILURE


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")
def test_a_process_of_another_user_that_the_machine_hides_is_not_gone():
    looks = """
import os, sys
from unittest import mock
from miniplm_assets.assets import gone_runs

os.setgroups([])
os.setgid(65534)
os.setuid(65534)
with mock.patch.object(gone_runs, "_began", side_effect=FileNotFoundError):  # as under hidepid=2
    print(gone_runs._is_alive({"pid": int(sys.argv[1]), "began": ""}))
"""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        told = subprocess.run([sys.executable, "-B", "-c", looks, str(process.pid)], capture_output=True, text=True)
        process.stdin.close()
    assert told.stdout == "True\n", told.stderr
    told = subprocess.run([sys.executable, "-B", "-c", looks, str(process.pid)], capture_output=True, text=True)
    assert told.stdout == "False\n", told.stderr


def test_a_child_that_nobody_has_waited_for_is_gone(instance):
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        run = run_of(instance, pid=process.pid, began=gone_runs._began(process.pid))
        assert ended(instance, run) == dg.DagsterRunStatus.FAILURE


def test_a_retry_is_not_taken_for_the_run_whose_tags_it_carries(instance, gone):
    killed = run_of(instance, pid=gone)
    tags = instance.get_run_by_id(killed.run_id).tags  # Dagster gives all of them to the next try
    retry = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED, tags=tags)
    assert ended(instance, retry) == dg.DagsterRunStatus.STARTED
    assert instance.get_run_by_id(killed.run_id).status == dg.DagsterRunStatus.FAILURE
    note_process(instance, retry.run_id)
    mine = json.loads(instance.get_run_by_id(retry.run_id).tags[PROCESS_TAG])
    assert mine["pid"] == os.getpid()


@pytest.mark.filterwarnings("ignore::dagster.SupersessionWarning", "ignore::ResourceWarning")
def test_a_run_of_the_daemon_that_was_killed_is_tried_again_once_and_ends_well(tmp_path):
    write_shard(tmp_path / "corpus" / "a.jsonl")
    content = tiny_experiment(tmp_path / "corpus", tmp_path / "warehouse")
    experiment_file, home = write_experiment(tmp_path / "experiment.yaml", content), tmp_path / "home"
    with running_dagster(experiment_file, home, *separate_services()) as server:
        killed = server.launch("raw_corpus", "documents", "bpe/tokenizer", "bpe/sequences", "large/teacher_model")
        with dg.DagsterInstance.from_config(str(home)) as instance:

            def noted() -> str | None:
                return instance.get_run_by_id(killed).tags.get(PROCESS_TAG)

            server.wait_until(lambda: noted() is not None, seconds=300)
            os.kill(json.loads(noted())["pid"], signal.SIGKILL)
            server.wait_until(
                lambda: any(run.is_success for run in instance.get_runs()) and server.status(killed) == "FAILURE",
                seconds=600,
            )
            retry, first = instance.get_runs()  # the newest first: one retry, no more
            assert (first.run_id, first.status, retry.parent_run_id) == (killed, dg.DagsterRunStatus.FAILURE, killed)
            assert retry.status == dg.DagsterRunStatus.SUCCESS
            assert instance.all_logs(retry.run_id, of_type=dg.DagsterEventType.RUN_FAILURE) == []


def test_old_runs_are_forgotten_but_for_what_the_pages_show(instance):
    @dg.asset(name="shown")
    def asset() -> None:
        """Be made once, by the oldest run."""

    def made() -> str:
        run_id = dg.materialize([asset], instance=instance).run_id
        note_process(instance, run_id)
        return run_id

    def finished() -> str:
        run = run_of(instance, dg.DagsterRunStatus.SUCCESS)
        return run.run_id

    oldest = [made(), made()]  # the second has made what is the latest
    others = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.SUCCESS).run_id
    old, new = [finished(), finished()], [finished(), finished()]
    under_way = run_of(instance).run_id
    assert forget_old_runs(instance, num_kept=2) == 3
    kept = {run.run_id for run in instance.get_runs()}
    assert kept == {oldest[1], others, *new, under_way}
    assert not kept & {oldest[0], *old}
    assert instance.get_latest_materialization_event(dg.AssetKey("shown")).run_id == oldest[1]
    assert forget_old_runs(instance, num_kept=2) == 0


def test_the_history_lies_beside_dagster_yaml_whatever_the_working_directory(tmp_path):
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    shutil.copy(PROJECT / "dagster.yaml", home)
    told = subprocess.run(
        [DAGSTER, "instance", "info"],
        cwd=elsewhere,
        env=os.environ | {"DAGSTER_HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert list(elsewhere.iterdir()) == []
    assert "max_concurrent_runs: 3" in told
    # All databases are there, so that webserver and daemon do not make them at once.
    assert {path.relative_to(home).as_posix() for path in home.rglob("*.db")} == {
        "history/runs.db", "history/runs/index.db", "schedules/schedules.db",
    }  # fmt: skip
