"""Two experiments in one instance: what Dagster shows of each begins with its prefix, and no result knows of it."""

import dagster as dg
import pytest

from miniplm_assets.code_location import build_definitions
from miniplm_assets.core.errors import ExperimentError
from miniplm_assets.experiment.key_prefix import parse_key_prefix
from miniplm_assets.kinds.registry import open_chosen, open_pipeline
from tests.corpora import tiny_experiment, write_experiment, write_shard

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning")
ALL_OF_CORPUS = ("raw_corpus", "documents")


@pytest.fixture
def experiment_file(tmp_path):
    write_shard(tmp_path / "corpus" / "a.jsonl", ("textwrap",))
    return write_experiment(tmp_path / "e.yaml", tiny_experiment(tmp_path / "corpus", tmp_path / "warehouse"))


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def test_every_key_and_name_begins_with_it(experiment_file):
    plain, prefixed = open_pipeline(experiment_file), open_pipeline(experiment_file, key_prefix="lm/paper")
    assert list(plain.graph) == list(prefixed.graph)
    for_dagster = build_definitions(prefixed).resolve_asset_graph()
    assert {key.to_user_string() for key in for_dagster.get_all_asset_keys()} == {
        f"lm/paper/{key}" for key in plain.graph
    }
    node = for_dagster.get(dg.AssetKey(["lm", "paper", "half", "refined_corpus"]))
    assert node.group_name == "lm_paper_selection_half"
    lineage = node.metadata["dagster/column_lineage"].deps_by_column
    named = {dep.asset_key.path[:2] == ["lm", "paper"] for deps in lineage.values() for dep in deps}
    assert named == {True}
    definitions = build_definitions(prefixed)
    assert [one.name for one in definitions.jobs] == ["lm_paper_miniplm"]
    assert [one.name for one in definitions.sensors] == ["lm_paper_corpus_changed"]
    assert [one.name for one in definitions.schedules] == ["lm_paper_nightly"]
    job = definitions.resolve_job_def("lm_paper_miniplm")
    assert job.executor_def.name == "models_at_once"
    assert len(job.asset_layer.selected_asset_keys) == len(plain.graph)


def test_the_environment_gives_it(experiment_file):
    environment = {"MINIPLM_EXPERIMENT": str(experiment_file), "MINIPLM_KEY_PREFIX": "paper"}
    assert open_chosen(environment=environment).key_prefix == ("paper",)
    assert open_chosen(environment=environment | {"MINIPLM_KEY_PREFIX": ""}).key_prefix == ()


@pytest.mark.parametrize("wrong", ["a b", "a//b", "/a", "a/", "ä", "a-b"])
def test_a_wrong_one_is_refused(wrong):
    with pytest.raises(ExperimentError, match="letters, digits and underscores"):
        parse_key_prefix(wrong)


def test_a_run_of_another_experiment_is_not_waited_for(experiment_file, instance):
    """A run of all of `b`, on the same corpus, makes nothing of `a`: who lacks an input of `a` is told."""
    a, b = (open_pipeline(experiment_file, key_prefix=prefix) for prefix in ("a", "b"))
    merged = dg.Definitions.merge(*(build_definitions(one, is_whole=False) for one in (a, b)))
    first = merged.resolve_job_def("a_miniplm")
    assert first.execute_in_process(instance=instance, asset_selection=[dg.AssetKey(["a", "raw_corpus"])]).success
    whole = instance.create_run_for_job(
        merged.resolve_job_def("b_miniplm"),
        tags={"miniplm/raw_corpus": a.latest_fingerprints().recipe("raw_corpus").fingerprint},
        status=dg.DagsterRunStatus.NOT_STARTED,
    )
    assert whole.asset_selection is None
    instance.report_dagster_event(dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, "b_miniplm"), whole.run_id)
    alone = first.execute_in_process(
        instance=instance, asset_selection=[dg.AssetKey(["a", "bpe", "tokenizer"])], raise_on_error=False
    )
    [failed] = [event for event in alone.all_events if event.is_step_failure]
    assert "has no stored result" in failed.step_failure_data.user_failure_data.description


def test_the_schedule_asks_for_its_own_assets_alone(experiment_file, instance):
    a, b = (open_pipeline(experiment_file, key_prefix=prefix) for prefix in ("a", "b"))
    merged = dg.Definitions.merge(*(build_definitions(one, is_whole=False) for one in (a, b)))
    schedule = merged.resolve_schedule_def("b_nightly")
    assert schedule.job_name == "b_miniplm"
    keys = merged.resolve_job_def("b_miniplm").asset_layer.selected_asset_keys
    assert {key.path[0] for key in keys} == {"b"}


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        ('tag:"kind"=student_checkpoint and key:"a/*"', {"a/no_kd/student_checkpoint", "a/miniplm/student_checkpoint"}),
        ('+key:"b/documents"', {"b/raw_corpus", "b/documents"}),
        ('key:"a/raw_corpus" or key:"b/raw_corpus"', {"a/raw_corpus", "b/raw_corpus"}),
        ('group:b_selection_half and tag:"kind"=refined_corpus', {"b/half/refined_corpus"}),
    ],
)
def test_a_selection_is_of_one_experiment_or_of_both(experiment_file, selection, chosen):
    a, b = (open_pipeline(experiment_file, key_prefix=prefix) for prefix in ("a", "b"))
    graph = dg.Definitions.merge(*(build_definitions(one, is_whole=False) for one in (a, b))).resolve_asset_graph()
    found = dg.AssetSelection.from_string(selection).resolve(graph)
    assert {key.to_user_string() for key in found} == chosen


def test_two_that_ask_for_ray_have_one_resource(tmp_path):
    write_shard(tmp_path / "corpus" / "a.jsonl", ("textwrap",))
    content = tiny_experiment(tmp_path / "corpus", tmp_path / "warehouse")
    content["teachers"]["large"]["scoring"]["engine"] = "ray"
    path = write_experiment(tmp_path / "e.yaml", content)
    merged = dg.Definitions.merge(
        *(build_definitions(open_pipeline(path, key_prefix=prefix), is_whole=False) for prefix in ("a", "b"))
    )
    assert set(merged.resources) == {"ray"}
    dg.Definitions.validate_loadable(merged)
