"""Scoring on Ray clusters of this machine: the same bytes as without, nothing lost or done twice where a node dies."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import dagster as dg
import numpy as np
import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from miniplm_assets.assets.build import build_assets
from miniplm_assets.assets.ray_cluster import ray_resources
from miniplm_assets.core.errors import CorpusError, ExperimentError, ModelError, ScoringError, StoreError
from miniplm_assets.experiment import Processing, Scoring
from miniplm_assets.kinds.registry import open_pipeline
from miniplm_assets.lineage.ray_crew import RayCrew, cores_of_cluster
from miniplm_assets.lineage.work import Work
from miniplm_assets.lm import ray_workers, score_shard
from miniplm_assets.lm.ray_workers import RayWorkers
from miniplm_assets.lm.scorer import ScorerSettings
from tests import test_side_by_side as side_by_side
from tests.corpora import MODULES, tiny_experiment, write_experiment, write_shard
from tests.light_model import LightModel
from tests.pages import value_of
from tests.test_work import TestRun

pytestmark = [
    pytest.mark.long,
    # Ray's own processes and sockets, left open in its own tests too.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SCORES = ["large/teacher_scores", "small/reference_scores"]


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes with a CPU each; the second can be killed."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster, second
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """Three files, everything up to the models stored, and the scores that one local scorer gives."""
    folder = tmp_path_factory.mktemp("ray")
    for name, modules in (("a", MODULES[:4]), ("b", MODULES[4:7]), ("c", MODULES[7:])):
        write_shard(folder / "corpus" / f"{name}.jsonl", modules)
    content = tiny_experiment(folder / "corpus", folder / "warehouse")
    for scored in (content["teachers"]["large"], content["references"]["small"]):
        scored["scoring"] = {"sequences_per_part": 40}
    content["generations"] = {
        "continued": {"teacher": "large", "prompt_tokens": 60, "sequences_per_batch": 32, "sequences_per_part": 64}
    }
    del content["students"]
    materialise(write_experiment(folder / "local.yaml", content))
    return folder, content


def materialise(experiment_file, select=None):
    pipeline = open_pipeline(experiment_file)
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            build_assets(pipeline),
            instance=instance,
            selection=select,
            resources=ray_resources(pipeline.graph),
            raise_on_error=True,
        )
    return pipeline, result


def digests(root, keys, name="*.parquet"):
    """Return the digest of every file of some assets, by its place in the warehouse."""
    files = sorted(path for key in keys for path in (root / key).rglob(name))
    return {path.relative_to(root): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def scores(pipeline):
    return digests(pipeline.store.root, SCORES, "scores.parquet")


def on_ray(local, folder, **scoring):
    """Return a copy of the local experiment that scores on Ray, with all but the scores stored."""
    shutil.copytree(local[0] / "warehouse", folder / "warehouse")
    expected = scores(open_pipeline(local[0] / "local.yaml"))
    content = {**local[1], "warehouse": str(folder / "warehouse")}
    for kind, name in (("teachers", "large"), ("references", "small")):
        old = content[kind][name]
        content[kind] = {name: {**old, "scoring": {**old["scoring"], "engine": "ray", **scoring}}}
    for key in SCORES:
        shutil.rmtree(folder / "warehouse" / key)
    return write_experiment(folder / "ray.yaml", content), expected


def test_a_node_that_dies_loses_nothing_and_nothing_is_done_twice(local, cluster, tmp_path, monkeypatch):
    experiment_file, expected = on_ray(local, tmp_path)
    nodes, second = cluster
    put_away, done = score_shard.Part.put_away, Counter()

    def put_away_and_kill_once(part, scored):
        put_away(part, scored)
        done[part.path] += 1
        if sum(done.values()) == 2:  # both are at work on their next parts
            nodes.remove_node(second, allow_graceful=False)

    monkeypatch.setattr(score_shard.Part, "put_away", put_away_and_kill_once)
    pipeline, result = materialise(experiment_file, ["large/teacher_scores"])
    mine = {place: digest for place, digest in expected.items() if place.parts[1] == "teacher_scores"}
    assert scores(pipeline) == mine
    assert len(nodes.list_all_nodes()) == 1
    assert len(done) > 6 and set(done.values()) == {1}
    [event] = result.get_asset_materialization_events()
    assert value_of(event.materialization, "num_results_computed") == 3


def test_a_teacher_writes_the_same_on_the_nodes_of_a_cluster(local, cluster, tmp_path):
    shutil.copytree(local[0] / "warehouse", tmp_path / "warehouse")
    generation = {"continued": {**local[1]["generations"]["continued"], "engine": "ray"}}
    path = write_experiment(
        tmp_path / "ray.yaml", {**local[1], "warehouse": str(tmp_path / "warehouse"), "generations": generation}
    )
    corpus = "continued/generated_corpus"
    expected = digests(tmp_path / "warehouse", [corpus], "generated_corpus.parquet")
    shutil.rmtree(tmp_path / "warehouse" / corpus)
    pipeline, result = materialise(path, [corpus])
    assert digests(pipeline.store.root, [corpus], "generated_corpus.parquet") == expected
    assert len(expected) == 3
    [event] = result.get_asset_materialization_events()
    assert value_of(event.materialization, "num_results_computed") == 3


def test_a_selection_is_the_same_by_the_tasks_of_a_cluster(local, cluster, tmp_path):
    shutil.copytree(local[0] / "warehouse", tmp_path / "warehouse")
    content = {**local[1], "warehouse": str(tmp_path / "warehouse"), "processing": {"engine": "ray"}}
    path = write_experiment(tmp_path / "ray.yaml", content)
    keys = ["half/difference_scores", "half/refined_corpus"]
    expected = digests(tmp_path / "warehouse", keys)
    for key in keys:
        shutil.rmtree(tmp_path / "warehouse" / key)
    pipeline, result = materialise(path, keys)
    assert digests(pipeline.store.root, keys) == expected and len(expected) == 2 * 3
    for event in result.get_asset_materialization_events():
        assert value_of(event.materialization, "num_results_computed") == 1
    assert all(check.passed for check in result.get_asset_check_evaluations())


def listening():
    """Return the addresses at which this process and its children listen."""
    me = psutil.Process()
    found = [one.net_connections("inet") for one in (me, *me.children(recursive=True))]
    return {one.laddr.ip.removeprefix("::ffff:") for some in found for one in some if one.status == psutil.CONN_LISTEN}


def test_ray_is_started_here_where_no_cluster_is_named_and_is_gone_afterwards(local, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", tempfile.mkdtemp(dir="/tmp"))  # short: it holds sockets
    experiment_file, expected = on_ray(local, tmp_path, num_workers=2)
    seen, put_away = [], score_shard.Part.put_away

    def put_away_and_look(part, scored):
        put_away(part, scored)
        [folder] = Path(tempfile.tempdir).glob("miniplm-*")
        seen.append((listening(), folder.stat().st_mode & 0o077, os.environ["RAY_AUTH_MODE"]))
        nobody = subprocess.run(
            [sys.executable, "-c", f"import ray; ray.init('{ray.get_runtime_context().gcs_address}')"],
            env={**os.environ, "RAY_AUTH_TOKEN": "0" * 64},
            capture_output=True,
            text=True,
        )
        assert nobody.returncode != 0 and "InvalidAuthToken" in nobody.stderr
        monkeypatch.setattr(score_shard.Part, "put_away", put_away)

    monkeypatch.setattr(score_shard.Part, "put_away", put_away_and_look)
    pipeline, _ = materialise(experiment_file, SCORES[1:])
    assert seen[0] == ({"127.0.0.1"}, 0, "token")
    assert scores(pipeline) == {place: one for place, one in expected.items() if place.parts[0] == "small"}
    assert not ray.is_initialized()
    assert [path.name for path in Path(tempfile.tempdir).iterdir()] == []
    # What is stored is found without Ray.
    monkeypatch.setattr(ray, "init", None)
    _, again = materialise(experiment_file, SCORES[1:])
    for event in again.get_asset_materialization_events():
        assert value_of(event.materialization, "num_results_computed") == 0


@pytest.fixture(scope="module")
def one_node():
    ray.init(num_cpus=1, include_dashboard=False)
    yield
    ray.shutdown()


def stored_teacher(local):
    return next((local[0] / "warehouse" / "large" / "teacher_model").glob("*/model.safetensors")).parent


def settings(folder):
    return ScorerSettings(model_folder=folder, scoring=Scoring(), end_of_document_id=0, max_sequence_tokens=65)


def test_what_is_wrong_on_a_node_is_said_as_it_was_there(one_node, local, tmp_path):
    sequences, ids = [np.array([1, 2, 9_999], np.int32)], np.array([77])
    workers = RayWorkers(settings(tmp_path / "nowhere"), num_workers=1, report=print)
    with pytest.raises(ModelError, match="nowhere is not there on node .* shared file system"):
        workers.score(sequences, ids)
    workers.close()
    workers = RayWorkers(settings(stored_teacher(local)), num_workers=1, report=print)
    with pytest.raises(ScoringError, match="sequence 77 holds token id 9999, but the model knows only"):
        workers.score(sequences, ids)
    workers.close()


LOSSES = [
    ray.exceptions.OutOfMemoryError("killed by the memory monitor"),
    ray.exceptions.NodeDiedError("the node has left"),
    ray.exceptions.WorkerCrashedError(),
    ray.exceptions.ObjectLostError("0" * 56, b"", ""),
    ray.exceptions.ActorUnavailableError("out of reach", None),
]
TWO = [np.array([1, 2, 3], np.int32), np.array([4, 5], np.int32)]


def losing(monkeypatch, losses):
    """Let what is asked of actors next be answered with some errors, before Ray is asked."""
    get, waiting = ray.get, list(losses)

    def get_or_lose(*arguments, **others):
        if waiting:
            raise waiting.pop(0)
        return get(*arguments, **others)

    monkeypatch.setattr(ray, "get", get_or_lose)


def test_whatever_ray_calls_the_loss_of_an_actor_it_is_made_up_for(one_node, tmp_path, monkeypatch):
    lines = []
    losing(monkeypatch, LOSSES[:2])  # while it loads
    workers = RayWorkers(LightModel(tmp_path), num_workers=1, report=lines.append)
    workers.wait_for_one()
    for first, second in zip(LOSSES[:4:2], LOSSES[1:4:2], strict=True):
        losing(monkeypatch, [first, second])
        scored = workers.score(TWO, np.array([5, 6]))
        assert scored.num_scored_tokens.tolist() == [2, 1]
    losing(monkeypatch, LOSSES[4:])
    workers.score(TWO, np.array([5, 6]))
    workers.close()
    told = [line for line in lines if "lost" in line]
    expected = [*LOSSES[:2], *LOSSES]
    assert [type(loss).__name__ in line for loss, line in zip(expected, told, strict=True)] == [True] * 7


def test_who_waits_hears_of_what_ends_the_start_of_an_actor(one_node, tmp_path, monkeypatch):
    for errors, expected in (
        ([LOSSES[0]] * 3, "3 scorers in a row were lost.*OutOfMemoryError: killed by the memory monitor"),
        ([RuntimeError("a thread of Ray's")], "RuntimeError: a thread of Ray's"),
    ):
        losing(monkeypatch, errors)
        workers = RayWorkers(LightModel(tmp_path), num_workers=1, report=print)
        with pytest.raises(ScoringError, match=expected):
            workers.score(TWO, np.array([5, 6]))
        workers.close()


def test_a_part_that_kills_its_actors_is_named_after_some(one_node, tmp_path, monkeypatch):
    class Dying(ray_workers.ModelActor):
        def compute(self, *_):
            os._exit(1)

    monkeypatch.setattr(ray_workers, "ModelActor", Dying)
    workers = RayWorkers(LightModel(tmp_path), num_workers=1, report=print)
    with pytest.raises(ScoringError, match="begins with sequence 5 has ended 3 scorers.*ActorDiedError"):
        workers.score([np.array([1, 2, 3], np.int32)], np.array([5]))
    workers.close()


def test_a_cluster_without_room_is_described(one_node, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_workers, "START_SECONDS", 2.0)
    monkeypatch.setattr(ray_workers, "_share_out", lambda *_: (1, {"num_cpus": 3}))
    workers = RayWorkers(LightModel(tmp_path), num_workers=1, report=print)
    with pytest.raises(ScoringError, match="each needs .*3.*, the cluster has 1 node: 1 CPUs, 0 GPUs"):
        workers.score([np.array([1, 2, 3], np.int32)], np.array([5]))
    workers.close()


def test_without_ray_the_command_that_installs_it_is_named(local, tmp_path, monkeypatch):
    experiment_file, _ = on_ray(local, tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExperimentError, match=r"large/teacher_scores: .* pip install 'miniplm_assets\[ray\]'"):
        ray_resources(open_pipeline(experiment_file).graph)


@dataclass
class RayRun(TestRun):
    """A run that connects to the cluster."""

    __test__ = False

    def connect_ray(self):
        ray.init(address=os.environ["RAY_ADDRESS"], ignore_reinit_error=True, log_to_driver=False)


def test_corpus_files_are_read_and_packed_by_tasks_of_a_cluster(cluster, tmp_path):
    side_by_side.write_corpus(tmp_path / "corpus")
    cleaning = {"duplicates": "exact"}
    one, many = (side_by_side.pipeline_of(tmp_path, name, cleaning=cleaning) for name in ("one", "many"))
    side_by_side.make(one, *side_by_side.KEYS)
    side_by_side.make(many, "raw_corpus")
    for key in side_by_side.KEYS[1:]:
        node = many.graph[key]
        if key in ("documents", "bpe/sequences"):
            settings = node.settings.model_copy(update={"processing": Processing(engine="ray")})
            assert node.kind.needs_ray(settings)
            node = replace(node, settings=settings)
        node.kind.make(Work(many, node, RayRun(many)))
    assert side_by_side.contents(one) == side_by_side.contents(many)
    assert cores_of_cluster() == int(ray.cluster_resources()["CPU"])  # a test before this one may have ended a node
    crew = RayCrew(cores_of_cluster(), {})
    (tmp_path / "draft").mkdir()
    with pytest.raises(CorpusError, match=r"shard a\.jsonl: 2 processes of the Ray cluster in a row were lost"):
        crew.do(side_by_side.die, "a.jsonl", tmp_path / "draft", print)
    with pytest.raises(StoreError, match="must lie at the same path on each"):
        crew.do(side_by_side.die, "a.jsonl", tmp_path / "elsewhere", print)
