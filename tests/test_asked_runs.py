"""A run makes what it was asked for: that state of the corpus, that experiment; or says why not."""

import os
import shutil
import time
from dataclasses import replace

import dagster as dg
import duckdb
import pytest
import yaml
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run

from miniplm_assets.assets.build import asset_key, build_assets
from miniplm_assets.assets.executor import own_executor
from miniplm_assets.assets.run_tags import PUT_DOWN_TAG, SEEN_TAG, SNAPSHOT_TAG
from miniplm_assets.kinds.registry import open_pipeline
from miniplm_assets.lineage.snapshot import complete_snapshot, latest_snapshot, look, make_latest, write_listing
from tests.corpora import MODULES, tiny_experiment, write_experiment, write_shard

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning")


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def experiment_file(tmp_path):
    for name, module in (("a", "textwrap"), ("b", "shlex")):
        write_shard(tmp_path / "corpus" / f"{name}.jsonl", (module,))
    return write_experiment(tmp_path / "e.yaml", tiny_experiment(tmp_path / "corpus", tmp_path / "warehouse"))


def job_of(pipeline):
    definitions = dg.Definitions(build_assets(pipeline), executor=own_executor(pipeline))
    return definitions.resolve_implicit_global_asset_job_def()


def asked(instance, pipeline, *keys, **tags):
    """Return a run that is asked for, and has not begun."""
    selection = frozenset(map(asset_key, keys))
    job = job_of(pipeline).get_subset(asset_selection=selection)
    return instance.create_run_for_job(
        job, asset_selection=selection, tags=tags, status=dg.DagsterRunStatus.NOT_STARTED
    )


def execute(instance, run, pipeline):
    """Let a process that has loaded this pipeline execute a run; return what it says of its failed steps."""
    job = job_of(pipeline).get_subset(asset_selection=run.asset_selection)
    execute_run(InMemoryJob(job), run, instance)
    failed = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    failures = [entry.dagster_event.step_failure_data for entry in failed]
    return [failure.user_failure_data.description if failure.user_failure_data else "" for failure in failures]


def status(instance, run):
    return instance.get_run_by_id(run.run_id).status


def sensor_tags(pipeline):
    """Look, as the sensor does, and return the tags of what it asks for."""
    seen = look(pipeline.graph["raw_corpus"], pipeline.store, print)
    pipeline.store.make(seen.recipe, lambda draft: write_listing(seen, draft))
    return {SNAPSHOT_TAG: seen.recipe.fingerprint, SEEN_TAG: str(seen.seen_ns)}


def test_a_run_works_on_what_the_sensor_saw_whatever_came_since(instance, experiment_file, tmp_path):
    pipeline = open_pipeline(experiment_file)
    run = asked(instance, pipeline, "raw_corpus", "documents", **sensor_tags(pipeline))
    write_shard(tmp_path / "corpus" / "c.jsonl", ("cmd",))
    assert execute(instance, run, pipeline) == []
    seen = latest_snapshot(pipeline.graph["raw_corpus"], pipeline.store)
    assert [shard.name for shard in seen.shards] == ["a.jsonl", "b.jsonl"]
    assert seen.seen_ns == int(run.tags[SEEN_TAG])


def test_a_file_that_changes_under_a_run_of_the_sensor_cancels_it(instance, experiment_file, tmp_path):
    pipeline = open_pipeline(experiment_file)
    run = asked(instance, pipeline, "raw_corpus", "documents", **sensor_tags(pipeline))
    write_shard(tmp_path / "corpus" / "b.jsonl", ("cmd",))
    execute(instance, run, pipeline)
    assert status(instance, run) == dg.DagsterRunStatus.CANCELED
    assert "shard b.jsonl: its files changed" in instance.get_run_by_id(run.run_id).tags[PUT_DOWN_TAG]


def test_a_file_that_changes_under_a_run_of_a_person_fails_it(instance, experiment_file, tmp_path):
    pipeline = open_pipeline(experiment_file)
    assert execute(instance, asked(instance, pipeline, "raw_corpus"), pipeline) == []
    write_shard(tmp_path / "corpus" / "b.jsonl", ("cmd",))
    run = asked(instance, pipeline, "documents")
    [sentence] = execute(instance, run, pipeline)
    assert "shard b.jsonl: its files changed while the run was at work" in sentence
    assert status(instance, run) == dg.DagsterRunStatus.FAILURE


def test_an_experiment_that_changed_after_it_was_asked_for_is_not_made(instance, experiment_file):
    """The code location has loaded the old file, and the process of the run loads the new one."""
    before = open_pipeline(experiment_file)
    content = yaml.safe_load(experiment_file.read_text())
    content["corpus"]["splits"]["validation"] = 0.2
    content["evaluation"]["excluded_domains"] = []  # is reported only, and in nobody's definition
    after = open_pipeline(write_experiment(experiment_file, content))
    run = asked(instance, before, "raw_corpus", "documents")
    [sentence] = execute(instance, run, after)
    assert sentence.startswith("documents: the experiment file or the code changed after this run was asked for")
    assert "Reload the code location" in sentence
    assert execute(instance, asked(instance, after, "raw_corpus", "documents"), after) == []


def test_a_bad_file_does_not_keep_the_good_ones_from_being_made(instance, experiment_file, tmp_path):
    (tmp_path / "corpus" / "aa.jsonl.gz").write_bytes(b"\x1f\x8b\x08\x00 cut off")
    (tmp_path / "corpus" / "ab.jsonl").write_text('{"words": "no text"}\n')
    pipeline = open_pipeline(experiment_file)
    [sentence] = execute(instance, asked(instance, pipeline, "raw_corpus", "documents"), pipeline)
    assert sentence.startswith("2 corpus files cannot be used:")
    assert "aa.jsonl.gz cannot be read" in sentence and "shard ab.jsonl: none of its 1 rows" in sentence
    fingerprints = pipeline.latest_fingerprints()
    stored = {
        shard for shard, recipe in fingerprints.pieces("documents").items() if pipeline.store.find(recipe) is not None
    }
    assert stored == {"a.jsonl", "b.jsonl"}


def test_who_else_makes_an_asset_is_waited_for(instance, experiment_file):
    """A run of the whole graph has looked at the corpus, and has not come to the documents yet."""
    pipeline = open_pipeline(experiment_file)
    whole = asked(instance, pipeline, "raw_corpus", "documents", **sensor_tags(pipeline))
    execute(instance, asked(instance, pipeline, "raw_corpus"), pipeline)
    instance.report_dagster_event(dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, "__ASSET_JOB"), whole.run_id)
    one = asked(instance, pipeline, "bpe/tokenizer")
    ended = []

    def end_whole(_self, line):
        if f"run {whole.run_id} is making it; waiting for that" in line:
            ended.append(line)
            instance.report_run_failed(whole, "killed")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("miniplm_assets.assets.dagster_run.DagsterRun.report", end_whole)
        [sentence] = execute(instance, one, pipeline)
    assert len(ended) == 1
    assert "documents (shard a.jsonl) has no stored result" in sentence


def catalog_at_the_top(pipeline):
    with duckdb.connect(str(pipeline.store.root / "warehouse.duckdb"), read_only=True) as catalog:
        [(num_documents,)] = catalog.sql("select count(*) from documents").fetchall()
    return num_documents


@pytest.fixture
def stored(tmp_path_factory):
    """An experiment without models, whole; and its folder."""
    folder = tmp_path_factory.mktemp("stored")
    for name in ("a", "b"):
        write_shard(folder / "corpus" / f"{name}.jsonl", MODULES[:3] if name == "a" else MODULES[3:])
    content = tiny_experiment(folder / "corpus", folder / "warehouse")
    for section in ("teachers", "references", "selections", "students"):
        content.pop(section)
    return folder, write_experiment(folder / "e.yaml", content)


def test_an_older_run_that_ends_last_leaves_the_catalog_of_the_newer_state(instance, stored):
    folder, experiment_file = stored
    pipeline = open_pipeline(experiment_file)
    every = list(pipeline.graph)
    execute(instance, asked(instance, pipeline, *every), pipeline)
    older = asked(instance, pipeline, *every, **sensor_tags(pipeline))
    before = catalog_at_the_top(pipeline)
    write_shard(folder / "corpus" / "c.jsonl", ("cmd",))
    newer = asked(instance, pipeline, *every)
    execute(instance, newer, pipeline)
    assert status(instance, newer) == dg.DagsterRunStatus.SUCCESS
    after = catalog_at_the_top(pipeline)
    assert after > before
    execute(instance, older, pipeline)
    assert status(instance, older) == dg.DagsterRunStatus.SUCCESS
    assert catalog_at_the_top(pipeline) == after
    seen = latest_snapshot(pipeline.graph["raw_corpus"], pipeline.store)
    assert [shard.name for shard in seen.shards] == ["a.jsonl", "b.jsonl", "c.jsonl"]


def test_a_newer_state_that_is_under_way_gets_its_catalog_from_its_own_run(instance, stored):
    folder, experiment_file = stored
    pipeline = open_pipeline(experiment_file)
    every = list(pipeline.graph)
    older = asked(instance, pipeline, *every, **sensor_tags(pipeline))
    write_shard(folder / "corpus" / "c.jsonl", ("cmd",))
    newer = asked(instance, pipeline, *every)
    execute(instance, asked(instance, pipeline, "raw_corpus"), pipeline)  # as far as it has come
    execute(instance, older, pipeline)
    assert status(instance, older) == dg.DagsterRunStatus.SUCCESS
    assert not (pipeline.store.root / "warehouse.duckdb").exists()
    node, store = pipeline.graph["raw_corpus"], pipeline.store
    assert complete_snapshot(node, store) is None
    execute(instance, newer, pipeline)
    assert catalog_at_the_top(pipeline) > 0
    assert complete_snapshot(node, store).recipe == latest_snapshot(node, store).recipe


def test_an_older_look_never_replaces_a_newer_one(experiment_file, tmp_path):
    pipeline = open_pipeline(experiment_file)
    node, store = pipeline.graph["raw_corpus"], pipeline.store
    older = look(node, store, print)
    (tmp_path / "corpus" / "b.jsonl").unlink()
    newer = look(node, store, print)
    for seen in (older, newer):
        store.make(seen.recipe, lambda draft, seen=seen: write_listing(seen, draft))
    assert make_latest(newer, node, store)
    assert not make_latest(older, node, store)
    assert latest_snapshot(node, store).recipe == newer.recipe
    assert make_latest(newer, node, store)  # once more changes nothing
    # A clock that was ahead for once does not keep all that is seen later from being the latest.
    assert make_latest(replace(older, seen_ns=time.time_ns() + 10**15), node, store)
    assert make_latest(newer, node, store)
    assert latest_snapshot(node, store).recipe == newer.recipe


def test_a_look_that_is_broken_off_is_not_begun_again(experiment_file, tmp_path, monkeypatch):
    pipeline = open_pipeline(experiment_file)
    node, store = pipeline.graph["raw_corpus"], pipeline.store
    for name in ("a", "b"):
        os.utime(tmp_path / "corpus" / f"{name}.jsonl", (1, 1))
    clock = iter(range(0, 10**6, 60))
    monkeypatch.setattr("miniplm_assets.lineage.snapshot.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("miniplm_assets.corpus.shards.RACY_NS", 0)
    read = []

    def fingerprint(shard):
        read.append(shard.name)
        if read == ["a.jsonl", "b.jsonl"]:
            raise KeyboardInterrupt
        return shard.name * 4

    monkeypatch.setattr("miniplm_assets.corpus.shards.fingerprint_shard", fingerprint)
    lines = []
    with pytest.raises(KeyboardInterrupt):
        look(node, store, lines.append)
    assert lines == ["looking at the corpus: 1 of 2 files"]
    look(node, store, lines.append)
    assert read == ["a.jsonl", "b.jsonl", "b.jsonl"]
    shutil.rmtree(store.root)
