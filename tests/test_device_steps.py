"""Which assets have a model trained or run for them, and which of those wait until a gate has spoken."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from miniplm_assets.assets.device_steps import DeviceSteps, ReadyStep
from miniplm_assets.experiment import Experiment
from miniplm_assets.lineage.graph import build_graph
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.storage.store import Store
from tests.test_identity import KINDS, SQL, content_of

MODELS = {"teacher_model", "reference_model", "student_checkpoint"}
SCORES = {
    f"{which}{who}_scores" for which in ("", "pilot_", "rescored_", "agreement_") for who in ("teacher", "reference")
}


def steps_of(pipeline, **run_config):
    steps = [key.replace("/", "__") for key in pipeline.graph]
    return DeviceSteps(pipeline, None, SimpleNamespace(run_config=run_config), steps)


@pytest.fixture
def opened(tmp_path):
    def open_variant(variant=""):
        return Pipeline(build_graph(KINDS, Experiment.model_validate(content_of(variant)), SQL), Store(tmp_path))

    return open_variant


def devices_by_key(pipeline):
    return {key: number for key, node in pipeline.graph.items() if (number := node.kind.num_devices(node.settings))}


def test_models_that_are_trained_or_run_have_a_device(opened):
    having = devices_by_key(opened())
    assert {key.rpartition("/")[2] for key in having} == MODELS | SCORES | {"student_evaluation"}
    assert set(having.values()) == {1}
    assert "large/teacher_model" in having and "copied/teacher_model" not in having


@pytest.mark.parametrize(
    ("variant", "kinds"),
    [
        ("guessed", {"proxy_model", "proxy_differences"}),
        ("generated", {"generated_corpus"}),
        ("beside", {"text_evaluation"}),
        ("asked", {"student_tasks"}),
    ],
)
def test_so_have_those_that_an_experiment_may_add(opened, variant, kinds):
    assert kinds <= {key.rpartition("/")[2] for key in devices_by_key(opened(variant))}


def test_a_cluster_is_no_device_of_this_machine_and_one_model_may_have_several(opened):
    assert "large/teacher_scores" not in devices_by_key(opened("ray"))
    pipeline = opened("vllm")
    node = pipeline.graph["large/teacher_scores"]
    scoring = node.settings.scoring.model_copy(update={"tensor_parallel_size": 4})
    assert node.kind.num_devices(node.settings.model_copy(update={"scoring": scoring})) == 4
    for key in ("large/teacher_model", "plain/student_checkpoint"):
        node = pipeline.graph[key]
        training = node.settings.training.model_copy(update={"num_processes": 8})
        assert node.kind.num_devices(node.settings.model_copy(update={"training": training})) == 8


def test_no_student_begins_before_the_pilot_has_spoken(opened):
    steps = steps_of(opened())
    assert not steps.is_held("large__teacher_model") and not steps.is_held("large__pilot_teacher_scores")
    assert steps.is_held("plain__student_checkpoint")
    steps.end("half__pilot", is_failed=False)
    assert steps.is_held("plain__student_checkpoint")  # the other selection's has not
    steps.end("again__pilot", is_failed=False)
    assert not steps.is_held("plain__student_checkpoint")


def test_the_pilot_keeps_students_waiting_where_scores_are_a_clusters_too(opened):
    pipeline = opened()
    for key in ("large/teacher_scores", "small/reference_scores"):
        node = pipeline.graph[key]
        scoring = node.settings.scoring.model_copy(update={"engine": "ray"})
        settings = node.settings.model_copy(update={"scoring": scoring})
        pipeline.graph[key] = replace(node, settings=settings)
        assert key not in devices_by_key(pipeline)
    assert steps_of(pipeline).gates == {"half/pilot", "again/pilot"}
    assert steps_of(pipeline).is_held("plain__student_checkpoint")


def test_the_pilot_keeps_students_of_a_cluster_waiting_until_they_are_stored(opened, monkeypatch):
    pipeline = opened("spread")
    node = pipeline.graph["plain/student_checkpoint"]
    training = node.settings.training.model_copy(update={"num_nodes": 2})
    settings = node.settings.model_copy(update={"training": training})
    pipeline.graph["plain/student_checkpoint"] = replace(node, settings=settings)
    monkeypatch.setattr(DeviceSteps, "_is_missing", lambda *_: True)
    steps = steps_of(pipeline)
    assert steps.num_devices("plain__student_checkpoint") == 0 and steps.is_clusters("plain__student_checkpoint")
    assert steps.is_held("plain__student_checkpoint")
    assert not steps.is_clusters("large__teacher_scores") and not steps.is_clusters("half__difference_scores")
    monkeypatch.setattr(DeviceSteps, "_is_missing", lambda *_: False)
    assert not steps.is_clusters("plain__student_checkpoint")


def test_a_pilot_that_will_never_speak_keeps_nobody(opened):
    steps = steps_of(opened())
    steps.end("bpe__tokenizer", is_failed=False)
    assert steps.is_held("plain__student_checkpoint")
    steps.end("small__reference_model", is_failed=True)
    assert not steps.is_held("plain__student_checkpoint")


def test_the_agreement_of_scores_keeps_no_other_model_waiting(opened):
    steps = steps_of(opened())
    assert not any(key.endswith("score_agreement") for key in steps.gates)


@pytest.mark.parametrize(("stored", "num_devices"), [({"a", "b"}, 0), ({"a"}, 1), (set(), 1)])
def test_what_is_all_stored_needs_no_device(opened, monkeypatch, stored, num_devices):
    monkeypatch.setattr(DeviceSteps, "_fingerprints", SimpleNamespace(stored=lambda _key: ["a", "b"]))
    monkeypatch.setattr(Store, "holds", lambda _store, recipe: recipe in stored)
    assert steps_of(opened()).num_devices("plain__student_checkpoint") == num_devices


@pytest.mark.parametrize(("address", "is_alone"), [(None, True), ("local", True), ("head:6379", False)])
def test_a_ray_of_this_machine_has_it_for_itself(opened, monkeypatch, address, is_alone):
    monkeypatch.setattr(DeviceSteps, "_is_missing", lambda *_: True)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    steps = steps_of(opened("ray"))
    assert (steps.num_devices("large__teacher_scores"), steps.is_alone("large__teacher_scores")) == (0, is_alone)
    assert (steps.num_devices("small__reference_scores"), steps.is_alone("small__reference_scores")) == (1, False)


def test_where_nobody_can_say_the_run_itself_makes_it(opened):
    """Nobody has looked at the corpus, so that no fingerprint is known."""
    pipeline = opened()
    steps = steps_of(pipeline, ops={"large__teacher_scores": {"config": {"shards": ["a.jsonl"]}}})
    steps._instance = SimpleNamespace(get_run_by_id=lambda _: None)
    steps._run.run_id = "1"
    assert steps.num_devices("plain__student_checkpoint") == 0
    assert steps.num_devices("somebody_elses") == 0
    step = SimpleNamespace(key="large__teacher_scores", tags={"dagster/priority": "-7"})
    again = ReadyStep(steps, step)
    assert (again.num_devices, again.is_alone, again.rank) == (0, True, 7)
