"""The sensor and the schedule, tick by tick, without a daemon."""

import dagster as dg
import pytest

from miniplm_assets.assets.build import build_assets
from miniplm_assets.automation import corpus_sensor, nightly_schedule
from miniplm_assets.kinds.registry import open_pipeline
from tests.corpora import tiny_experiment, write_experiment, write_shard


@pytest.fixture
def pipeline(tmp_path):
    write_shard(tmp_path / "corpus" / "a.jsonl", ("textwrap",))
    content = tiny_experiment(tmp_path / "corpus", tmp_path / "warehouse")
    return open_pipeline(write_experiment(tmp_path / "e.yaml", content))


def tick(pipeline, cursor=None):
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance=instance, cursor=cursor)
        return corpus_sensor(pipeline).evaluate_tick(context)


def test_a_corpus_that_nobody_has_looked_at_makes_everything_stale(pipeline):
    result = tick(pipeline)
    (request,) = result.run_requests
    assert {"/".join(key.path) for key in request.asset_selection} == set(pipeline.graph)
    # The same state is asked for once.
    again = tick(pipeline, result.cursor)
    assert again.run_requests == []
    assert "as they were at the last request" in again.skip_message


def test_a_new_file_is_a_new_state(pipeline, tmp_path):
    first = tick(pipeline)
    write_shard(tmp_path / "corpus" / "b.jsonl", ("shlex",))
    second = tick(pipeline, first.cursor)
    assert len(second.run_requests) == 1
    assert second.cursor != first.cursor


def test_a_corpus_that_is_gone_is_told_and_asks_for_nothing(pipeline, tmp_path):
    (tmp_path / "corpus" / "a.jsonl").unlink()
    result = tick(pipeline)
    assert result.run_requests == []
    assert str(tmp_path / "corpus") in result.skip_message


def test_the_schedule_asks_for_the_whole_graph_at_night(pipeline):
    definitions = dg.Definitions(assets=build_assets(pipeline), schedules=[nightly_schedule()])
    schedule = definitions.resolve_schedule_def("nightly")
    assert schedule.cron_schedule == "0 3 * * *"
    with dg.DagsterInstance.ephemeral() as instance:
        tick = schedule.evaluate_tick(dg.build_schedule_context(instance=instance))
    assert len(tick.run_requests) == 1
