"""The sensor and the schedule, tick by tick, without a daemon."""

import threading
import time
from dataclasses import replace

import dagster as dg
import pytest

from miniplm_assets.assets.build import asset_key, build_assets
from miniplm_assets.assets.run_tags import PUT_DOWN_TAG, SEEN_TAG, SNAPSHOT_TAG, STATE_TAG, put_down
from miniplm_assets.automation import corpus_sensor as sensor_module
from miniplm_assets.automation import corpus_watch
from miniplm_assets.automation.corpus_sensor import CorpusNotReadableError, corpus_sensor
from miniplm_assets.automation.nightly import nightly_schedule
from miniplm_assets.automation.own_job import own_job
from miniplm_assets.core.errors import ExperimentError
from miniplm_assets.experiment.automation import Automation
from miniplm_assets.kinds.registry import open_pipeline
from miniplm_assets.lineage.snapshot import load_snapshot
from tests.corpora import tiny_experiment, write_experiment, write_shard

STATUS = dg.DagsterRunStatus


@pytest.fixture
def pipeline(tmp_path):
    write_shard(tmp_path / "corpus" / "a.jsonl", ("textwrap",))
    content = tiny_experiment(tmp_path / "corpus", tmp_path / "warehouse")
    pipeline = open_pipeline(write_experiment(tmp_path / "e.yaml", content))
    return replace(pipeline, automation=Automation(quiet_seconds=0))


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


class Sensor:
    """The sensor of an experiment on an instance, with its cursor."""

    def __init__(self, pipeline, instance):
        self.pipeline, self.instance, self.cursor = pipeline, instance, None
        self.definition = corpus_sensor(pipeline, own_job(pipeline))
        self.job = dg.Definitions(build_assets(pipeline)).resolve_implicit_global_asset_job_def()

    def tick(self):
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor)
        result = self.definition.evaluate_tick(context)
        self.cursor = result.cursor
        return result

    def request(self, status=STATUS.NOT_STARTED):
        """Tick, and return what is asked for as a run that has not begun."""
        [request] = self.tick().run_requests
        run = self.instance.create_run_for_job(
            self.job,
            asset_selection=frozenset(request.asset_selection),
            tags=request.tags | {"dagster/sensor_name": self.definition.name},
            status=status,
        )
        return request, run

    def end(self, run, status):
        event = {
            STATUS.STARTED: dg.DagsterEventType.RUN_START,
            STATUS.SUCCESS: dg.DagsterEventType.RUN_SUCCESS,
            STATUS.FAILURE: dg.DagsterEventType.RUN_FAILURE,
            STATUS.CANCELED: dg.DagsterEventType.RUN_CANCELED,
        }[status]
        self.instance.report_dagster_event(dg.DagsterEvent(event.value, "__ASSET_JOB", message="as told"), run.run_id)


@pytest.fixture
def sensor(pipeline, instance):
    return Sensor(pipeline, instance)


def keys(request):
    return {"/".join(key.path) for key in request.asset_selection}


def test_a_corpus_that_nobody_has_looked_at_makes_everything_stale(sensor):
    request, run = sensor.request()
    assert keys(request) == set(sensor.pipeline.graph)
    # What the run works on is what the sensor saw, whatever the files are when it starts.
    seen = load_snapshot(
        sensor.pipeline.graph["raw_corpus"],
        sensor.pipeline.store,
        request.tags[SNAPSHOT_TAG],
        seen_ns=int(request.tags[SEEN_TAG]),
    )
    assert [shard.name for shard in seen.shards] == ["a.jsonl"]
    assert 0 <= time.time_ns() - seen.seen_ns < 60 * 10**9
    # The same state is asked for once.
    again = sensor.tick()
    assert again.run_requests == []
    assert f"run {run.run_id} is at it" in again.skip_message


def test_a_file_that_is_still_being_written_is_waited_for(sensor, tmp_path):
    sensor.pipeline = replace(sensor.pipeline, automation=Automation(quiet_seconds=3_600))
    sensor.definition = corpus_sensor(sensor.pipeline, own_job(sensor.pipeline))
    result = sensor.tick()
    assert result.run_requests == []
    assert "waiting until the corpus files rest: a.jsonl changed less than 3600 s ago" in result.skip_message


@pytest.mark.parametrize("age_s", [10.0, -7_200.0])
def test_when_files_rest(age_s):
    """By their own stamps at the first sighting; by what was listed before at any later one, or of another clock."""
    now = 10**18
    shard = corpus_watch.Shard(
        name="a.jsonl", files=(), file_names=(), domain="", num_bytes=1, stamp="1", modified_ns=now - int(age_s * 1e9)
    )
    first = corpus_watch.Sighting.of([shard], before=None, now_ns=now)
    assert first.why_not_quiet([shard], quiet_seconds=5, now_ns=now) is None
    assert (first.why_not_quiet([shard], quiet_seconds=11, now_ns=now) is None) == (age_s < 0)
    # A second one that came meanwhile, or one that went: nothing in the files themselves tells of that.
    later = corpus_watch.Sighting.of([], before=first, now_ns=now + 10**9)
    assert "came, changed or went" in later.why_not_quiet([], quiet_seconds=5, now_ns=now + 5 * 10**9)
    kept = corpus_watch.Sighting.of([], before=later, now_ns=now + 5 * 10**9)
    assert kept == later
    assert kept.why_not_quiet([], quiet_seconds=5, now_ns=now + 6 * 10**9) is None


def test_the_cursor_of_an_earlier_version_is_a_first_sighting(sensor):
    sensor.cursor = "0123456789abcdef0123456789abcdef"
    assert len(sensor.tick().run_requests) == 1


def test_a_run_that_has_not_begun_is_superseded_by_a_newer_state(sensor, tmp_path):
    _, older = sensor.request()
    write_shard(tmp_path / "corpus" / "b.jsonl", ("shlex",))
    told = []
    sensor.instance.run_coordinator.cancel_run = lambda run_id: told.append(run_id) or True
    assert f"run {older.run_id}, which works on an older state of the corpus, was told to stop" in (
        sensor.tick().skip_message
    )
    assert told == [older.run_id]
    assert "a newer state" in sensor.instance.get_run_by_id(older.run_id).tags[PUT_DOWN_TAG]
    sensor.end(older, STATUS.CANCELED)
    request, _ = sensor.request()
    assert request.tags[STATE_TAG] != older.tags[STATE_TAG]


def test_a_run_that_loads_its_code_is_not_told_to_stop_yet(sensor, tmp_path):
    _, older = sensor.request(STATUS.STARTING)
    write_shard(tmp_path / "corpus" / "b.jsonl", ("shlex",))
    sensor.instance.run_coordinator.cancel_run = pytest.fail
    assert f"run {older.run_id}, which works on an older state of the corpus, is told to stop when it has started" in (
        sensor.tick().skip_message
    )


def begin_step(sensor, run, key):
    sensor.end(run, STATUS.STARTED)
    step = asset_key(key, sensor.pipeline.key_prefix).to_python_identifier()
    sensor.instance.report_dagster_event(
        dg.DagsterEvent(dg.DagsterEventType.STEP_START.value, "__ASSET_JOB", step_key=step), run.run_id
    )


@pytest.mark.parametrize("prefix", [(), ("lm", "paper")])
@pytest.mark.parametrize(("making", "goes_on"), [("documents", True), ("comparison", False)])
def test_an_older_run_goes_on_while_it_makes_what_is_wanted_still(
    pipeline, instance, tmp_path, making, goes_on, prefix
):
    """The documents of a file are those of the newer state too; no comparison is."""
    sensor = Sensor(replace(pipeline, key_prefix=prefix), instance)
    request, older = sensor.request()
    assert keys(request) == {"/".join([*prefix, key]) for key in pipeline.graph}
    begin_step(sensor, older, making)
    write_shard(tmp_path / "corpus" / "b.jsonl", ("shlex",))
    told = []
    sensor.instance.run_coordinator.cancel_run = lambda run_id: told.append(run_id) or True
    message = sensor.tick().skip_message
    assert told == ([] if goes_on else [older.run_id]), message
    assert (f"goes on: {'__'.join([*prefix, 'documents'])}" in message) == goes_on


def test_a_run_that_cannot_be_told_to_stop_is_named(sensor, tmp_path):
    _, older = sensor.request()
    write_shard(tmp_path / "corpus" / "b.jsonl", ("shlex",))
    sensor.instance.run_coordinator.cancel_run = lambda _: False
    assert f"run {older.run_id}, which works on an older state of the corpus, cannot be told" in (
        sensor.tick().skip_message
    )


@pytest.mark.parametrize(
    ("status", "is_put_down", "told"),
    [
        (
            STATUS.FAILURE,
            False,
            "run {run} failed on the corpus and the experiment as they are: as told. It is asked for",
        ),
        (STATUS.CANCELED, False, "run {run} was cancelled by hand"),
        (STATUS.CANCELED, True, None),
        (STATUS.SUCCESS, False, None),
    ],
)
def test_how_the_last_run_on_the_same_state_ended_decides(sensor, status, is_put_down, told):
    _, run = sensor.request()
    # What it tries again was put down: that it has the tag of.
    sensor.instance.add_run_tags(run.run_id, put_down(run.run_id if is_put_down else "before", "its files changed"))
    sensor.end(run, status)
    result = sensor.tick()
    assert len(result.run_requests) == (told is None)
    if told is not None:
        assert told.format(run=run.run_id) in result.skip_message


def test_a_corpus_that_is_gone_is_a_failed_tick(sensor, tmp_path):
    (tmp_path / "corpus" / "a.jsonl").unlink()
    with pytest.raises(CorpusNotReadableError, match="no corpus file found") as failure:
        sensor.tick()
    assert str(tmp_path / "corpus") in str(failure.value)
    assert failure.value.__suppress_context__


def test_while_nothing_changes_nothing_is_looked_at_again(sensor, monkeypatch, tmp_path):
    _, run = sensor.request()
    first = sensor.tick().skip_message
    assert "is at it" in first
    looks = []
    found = corpus_watch.look_for_stale
    monkeypatch.setattr(corpus_watch, "look_for_stale", lambda *given: looks.append(given) or found(*given))
    assert sensor.tick().skip_message == first
    assert looks == []
    sensor.end(run, STATUS.FAILURE)
    assert "failed" in sensor.tick().skip_message
    assert len(looks) == 1
    assert "failed" in sensor.tick().skip_message
    assert len(looks) == 1
    monkeypatch.setattr(sensor_module, "SECONDS_BETWEEN_EQUAL_LOOKS", 0)
    assert "failed" in sensor.tick().skip_message
    assert len(looks) == 2
    monkeypatch.undo()
    write_shard(tmp_path / "corpus" / "b.jsonl", ("shlex",))
    assert len(sensor.tick().run_requests) == 1


def test_a_look_that_takes_longer_than_a_tick_goes_on_in_the_next(sensor, monkeypatch):
    looks, may_end = [], threading.Event()

    def slow(pipeline, report):
        looks.append(pipeline)
        report("looking at the corpus: 1 of 2 files")
        may_end.wait(60)
        return found(pipeline, report)

    found = corpus_watch.look_for_stale
    monkeypatch.setattr(corpus_watch, "look_for_stale", slow)
    monkeypatch.setattr(sensor_module, "SECONDS_FOR_A_LOOK", 0.2)
    for _ in range(2):
        result = sensor.tick()
        assert result.run_requests == []
        assert "looking at the corpus: 1 of 2 files; this goes on until the next tick" in result.skip_message
    may_end.set()
    monkeypatch.setattr(sensor_module, "SECONDS_FOR_A_LOOK", 60.0)
    assert len(sensor.tick().run_requests) == 1
    assert len(looks) == 1


def test_what_a_look_fails_with_is_told_and_the_next_tick_looks_again(sensor, monkeypatch):
    def fail(_pipeline, _report):
        raise ExperimentError("a folder is gone")

    found = corpus_watch.look_for_stale
    monkeypatch.setattr(corpus_watch, "look_for_stale", fail)
    with pytest.raises(CorpusNotReadableError, match="a folder is gone"):
        sensor.tick()
    monkeypatch.setattr(corpus_watch, "look_for_stale", found)
    assert len(sensor.tick().run_requests) == 1


def test_the_schedule_asks_for_the_whole_graph_at_night(pipeline):
    pipeline = replace(pipeline, automation=Automation(nightly="30 2 * * 1", timezone="Europe/Berlin"))
    schedule = nightly_schedule(pipeline, own_job(pipeline))
    definitions = dg.Definitions(assets=build_assets(pipeline), schedules=[schedule])
    schedule = definitions.resolve_schedule_def("nightly")
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("30 2 * * 1", "Europe/Berlin")
    with dg.DagsterInstance.ephemeral() as instance:
        tick = schedule.evaluate_tick(dg.build_schedule_context(instance=instance))
    assert len(tick.run_requests) == 1


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"nightly": "at three"}, "is no cron expression"),
        ({"timezone": "Europe/Berlim"}, "did you mean 'Europe/Berlin'?"),
        ({"quiet_seconds": -1}, "greater than or equal to 0"),
        ({"seconds_between_look": 1}, "did you mean 'seconds_between_looks'?"),
    ],
)
def test_a_wrong_setting_is_refused(settings, told):
    with pytest.raises(ValueError, match=".") as failure:
        Automation.model_validate(settings)
    assert told in str(failure.value)
