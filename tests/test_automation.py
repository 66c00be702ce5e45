"""The separate daemon and webserver at work: a file is dropped, changed, touched and taken away."""

import time

import pytest

from tests.corpora import MODULES, tiny_experiment, write_experiment, write_shard
from tests.dagster_server import RUNS, running_dagster, separate_services

pytestmark = pytest.mark.long

QUIET_SECONDS = 10
FINISHED = ("SUCCESS", "FAILURE", "CANCELED")


@pytest.fixture
def watched(tmp_path):
    write_shard(tmp_path / "corpus" / "a.jsonl", MODULES)
    content = tiny_experiment(tmp_path / "corpus", tmp_path / "warehouse")
    for learner in (
        content["tokenizers"]["bpe"],
        content["teachers"]["large"]["model"],
        content["references"]["small"]["model"],
    ):
        learner["shards"] = ["a.jsonl"]
    content["automation"] = {"seconds_between_looks": 1, "quiet_seconds": QUIET_SECONDS}
    experiment_file = write_experiment(tmp_path / "experiment.yaml", content)
    with running_dagster(experiment_file, tmp_path / "home", *separate_services()) as server:
        server.start_sensor("corpus_changed")
        yield tmp_path / "corpus", server


def runs(server):
    return server.query(RUNS)["runsOrError"]["results"]


def wait_for_runs(server, number, *, seconds, may_be_put_down=False):
    """Wait until so many runs have ended well; no other has ended, but for those that were put down where they may."""
    asked = ("SUCCESS",) if may_be_put_down else FINISHED
    server.wait_until(lambda: sum(run["status"] in asked for run in runs(server)) >= number, seconds=seconds)
    ended = [run["status"] for run in runs(server)]
    if may_be_put_down:
        ended = [status for status in ended if status != "CANCELED"]
    assert ended == ["SUCCESS"] * number, server.log.read_text()[-5_000:]


def write_bit_by_bit(path, lines, *, seconds):
    """Write a file over some seconds, and return the longest pause: a busy machine makes its own."""
    longest, before = 0.0, time.monotonic()
    with path.open("w") as file:
        for line in lines:
            file.write(line)
            file.flush()
            time.sleep(seconds / len(lines))
            now = time.monotonic()
            longest, before = max(longest, now - before), now
    return longest


def test_the_sensor_asks_for_what_the_files_make_stale_and_for_nothing_else(watched):
    corpus, server = watched
    wait_for_runs(server, 1, seconds=600)
    assert server.materialisations("large/teacher_scores")[0]["num_results_computed"] == 1

    # Written bit by bit, over more than a look: one run, of the whole file.
    lines = write_shard(corpus.with_name("b.jsonl"), ("textwrap", "shlex")).read_text().splitlines(keepends=True)
    pause = write_bit_by_bit(corpus / "b.jsonl", lines, seconds=2 * QUIET_SECONDS)
    # Of a file that rested as long as is waited for, less a look, the first lines are rightly asked for, and put down.
    wait_for_runs(server, 2, seconds=300, may_be_put_down=pause > QUIET_SECONDS / 2)
    num_put_down = sum(run["status"] == "CANCELED" for run in runs(server))
    newest = {key: server.materialisations(key)[0] for key in ("large/teacher_scores", "small/reference_scores")}
    for one in newest.values():
        assert (one["num_results_computed"], one["num_results_reused"]) == (1, 1)
    documents = server.materialisations("documents")
    assert documents[0]["num_documents"] - documents[-1]["num_documents"] == len(lines)
    for key in ("half/refined_corpus", "miniplm/student_checkpoint", "comparison"):
        assert server.materialisations(key)[0]["num_results_computed"] == 1
    # The teacher does not learn from the new file, and is not even asked for.
    assert len(server.materialisations("large/teacher_model")) == 1

    (corpus / "b.jsonl").touch()
    started = len(runs(server))
    time.sleep(3 * QUIET_SECONDS)
    assert len(runs(server)) == started

    (corpus / "b.jsonl").unlink()
    wait_for_runs(server, 3, seconds=300, may_be_put_down=num_put_down > 0)
    back = server.materialisations("half/refined_corpus")
    assert back[0]["num_results_computed"] == 0
    assert back[0]["fingerprint"] == back[-1]["fingerprint"] != back[1]["fingerprint"]
