"""Who is named is told once of a run that fails; what the message is sent to is left nowhere."""

import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import dagster as dg
import pytest

from miniplm_assets.assets.messages import MAX_CHARACTERS, NotToldError, send
from miniplm_assets.assets.run_tags import TOLD_TAG
from miniplm_assets.code_location import build_definitions
from miniplm_assets.core.errors import ExperimentError
from miniplm_assets.kinds.registry import open_pipeline
from tests.corpora import tiny_experiment, write_experiment, write_shard

pytestmark = pytest.mark.filterwarnings(
    "ignore::dagster.BetaWarning",
    "ignore::dagster.PreviewWarning",
    "ignore:'imghdr' is deprecated:DeprecationWarning",  # of apprise, as it is imported on Python 3.11 and 3.12
)
SECRET = "Plant3dT0ken"
VARIABLE = "MINIPLM_FAILURE_URLS"


class Webhook:
    """A server that takes messages, or refuses them."""

    def __init__(self):
        self.taken, self.status = [], 200
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                content = self.rfile.read(int(self.headers["Content-Length"]))
                if hook.status == 200:
                    hook.taken.append((self.path, json.loads(content)))
                self.send_response(hook.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"json://127.0.0.1:{self._server.server_port}/{SECRET}"

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def webhook(monkeypatch):
    server = Webhook()
    monkeypatch.setenv(VARIABLE, server.url)
    yield server
    server.close()


@pytest.fixture
def instance(tmp_path):
    (tmp_path / "instance").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "instance")) as instance:
        yield instance


def opened(tmp_path, **automation):
    content = tiny_experiment(tmp_path / "corpus", tmp_path / "warehouse", automation=automation)
    return open_pipeline(write_experiment(tmp_path / "e.yaml", content), key_prefix="paper")


@pytest.fixture
def broken(tmp_path):
    """An experiment of which two assets fail, each by itself: a corpus file, and a model that is not there."""
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.jsonl").write_text('{"words": "no text"}\n')
    content = tiny_experiment(tmp_path / "corpus", tmp_path / "warehouse", automation={"on_failure": [VARIABLE]})
    content["teachers"]["large"]["model"] = {"source": "folder", "path": str(tmp_path / "nowhere")}
    return open_pipeline(write_experiment(tmp_path / "e.yaml", content), key_prefix="paper")


def run(pipeline, instance, *keys):
    job = build_definitions(pipeline).resolve_job_def("paper_miniplm")
    selection = [dg.AssetKey(["paper", *key.split("/")]) for key in keys]
    return job.execute_in_process(instance=instance, asset_selection=selection, raise_on_error=False)


def left_behind(folder):
    return [path for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def test_a_run_tells_of_its_first_failure_by_itself(webhook, broken, instance, tmp_path, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    ended = run(broken, instance, "raw_corpus", "documents", "large/teacher_model")
    assert len([event for event in ended.all_events if event.is_step_failure]) == 2
    [(path, message)] = webhook.taken
    assert path == f"/{SECRET}" and message["title"] == "miniplm_assets: a run failed"
    assert message["message"].startswith("paper/")
    assert "none of its 1 rows" in message["message"] or "nowhere" in message["message"]
    assert f"Run {ended.run_id} of paper_miniplm" in message["message"]
    assert instance.get_run_by_id(ended.run_id).tags[TOLD_TAG] == ended.run_id
    assert left_behind(tmp_path) == []
    assert SECRET not in "".join(capfd.readouterr()) and SECRET not in caplog.text


def test_a_run_that_goes_well_tells_nothing(webhook, instance, tmp_path):
    write_shard(tmp_path / "corpus" / "a.jsonl", ("textwrap",))
    assert run(opened(tmp_path, on_failure=[VARIABLE]), instance, "raw_corpus").success
    assert webhook.taken == []


def test_nobody_is_told_by_default(webhook, instance, tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.jsonl").write_text('{"words": "no text"}\n')
    pipeline = opened(tmp_path)
    assert not run(pipeline, instance, "raw_corpus", "documents").success
    assert webhook.taken == []
    assert [one.name for one in build_definitions(pipeline).sensors] == ["paper_corpus_changed"]


def test_what_did_not_arrive_is_sent_again_by_the_sensor_and_once(webhook, broken, instance, tmp_path, capfd):
    webhook.status = 500
    ended = run(broken, instance, "raw_corpus", "documents")
    events = instance.all_logs(ended.run_id)
    assert any(f"the message was not taken by number 1 in {VARIABLE}" in entry.user_message for entry in events)
    assert TOLD_TAG not in instance.get_run_by_id(ended.run_id).tags
    webhook.status = 200
    [_, sensor] = build_definitions(broken).sensors
    assert sensor.name == "paper_failed_runs" and sensor.default_status == dg.DefaultSensorStatus.RUNNING
    failure = next(entry.dagster_event for entry in events if entry.is_dagster_event and entry.dagster_event.is_failure)
    for _ in range(2):
        told = instance.get_run_by_id(ended.run_id)
        sensor(
            dg.build_run_status_sensor_context(
                sensor_name=sensor.name, dagster_event=failure, dagster_instance=instance, dagster_run=told
            ).for_run_failure()
        )
    assert [message["title"] for _, message in webhook.taken] == ["miniplm_assets: a run failed"]
    assert left_behind(tmp_path) == [] and SECRET not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("changes", "num_told"),
    [
        ({}, 1),
        ({"asset_selection": frozenset({dg.AssetKey("of_somebody_else")})}, 0),
        ({"asset_selection": None, "job_name": "of_somebody_else"}, 0),
        ({"asset_selection": None, "job_name": "__ASSET_JOB"}, 1),
        ({"tags": {"dagster/will_retry": "true"}}, 0),
        ({"tags": {TOLD_TAG: "the run before, which it tries again"}}, 1),
    ],
)
def test_the_sensor_tells_of_its_own_runs_that_are_over(webhook, broken, instance, changes, num_told):
    """Of a process that was killed, no asset tells."""
    [_, sensor] = build_definitions(broken).sensors
    key = dg.AssetKey(["paper", "documents"])
    of_run = {"job_name": "paper_miniplm", "asset_selection": frozenset({key}), "tags": {}} | changes
    failed = dg.DagsterRun(run_id="00000000-0000-4000-8000-000000000001", status=dg.DagsterRunStatus.FAILURE, **of_run)
    instance.add_run(failed)
    event = dg.DagsterEvent(dg.DagsterEventType.RUN_FAILURE.value, failed.job_name, message="Its process 7 is gone")
    context = dg.build_run_status_sensor_context(
        sensor_name=sensor.name, dagster_event=event, dagster_instance=instance, dagster_run=failed
    )
    sensor(context.for_run_failure())
    assert len(webhook.taken) == num_told
    assert all("Its process 7 is gone" in message["message"] for _, message in webhook.taken)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "environment variable MINIPLM_FAILURE_URLS is not set here"),
        (" ", "environment variable MINIPLM_FAILURE_URLS is not set here"),
        (f"json://localhost/ nosuch://user:{SECRET}@host", "number 2 of the URLs in MINIPLM_FAILURE_URLS"),
    ],
)
def test_who_cannot_be_told_is_refused_when_the_definitions_are_loaded(tmp_path, monkeypatch, capfd, value, told):
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(ExperimentError, match=told) as refused:
        build_definitions(opened(tmp_path, on_failure=[VARIABLE]))
    assert SECRET not in str(refused.value) and SECRET not in "".join(capfd.readouterr())


def test_a_url_in_the_file_is_refused_and_not_repeated(tmp_path):
    with pytest.raises(ExperimentError, match="names environment variables") as refused:
        opened(tmp_path, on_failure=[f"json://user:{SECRET}@host"])
    assert "line " in str(refused.value) and SECRET not in str(refused.value)


def test_the_others_are_told_where_one_refuses(webhook):
    nobody = "json://127.0.0.1:1/"  # no server listens there
    environment = {"A": f"{nobody} {webhook.url}", "B": webhook.url}
    with pytest.raises(NotToldError, match=r"not taken by number 1 in A$"):
        send(["A", "B"], title="t", text="x" * 2 * MAX_CHARACTERS, environment=environment)
    assert [len(message["message"]) for _, message in webhook.taken] == [MAX_CHARACTERS + 2] * 2
