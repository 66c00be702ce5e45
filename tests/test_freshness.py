"""How old what Dagster shows of an asset may be."""

from datetime import timedelta

import pytest

from miniplm_assets.code_location import build_definitions
from miniplm_assets.core.errors import ExperimentError
from miniplm_assets.experiment.automation import Automation
from miniplm_assets.kinds.registry import open_pipeline
from tests.corpora import tiny_experiment, write_experiment, write_shard


def opened(tmp_path, **automation):
    write_shard(tmp_path / "corpus" / "a.jsonl", ("textwrap",))
    content = tiny_experiment(tmp_path / "corpus", tmp_path / "warehouse", automation=automation)
    return open_pipeline(write_experiment(tmp_path / "e.yaml", content), key_prefix="p")


def policies(pipeline):
    graph = build_definitions(pipeline).resolve_asset_graph()
    nodes = {key.to_user_string(): graph.get(key) for key in graph.get_all_asset_keys()}
    return {key: node.freshness_policy for key, node in nodes.items() if node.freshness_policy is not None}


def test_a_key_goes_before_its_kind_and_the_rest_has_none(tmp_path):
    asked = {"student_checkpoint": 24, "miniplm/student_checkpoint": 1.5, "half/refined_corpus": 48}
    found = policies(opened(tmp_path, fresh_within_hours=asked))
    assert {key: policy.fail_window.to_timedelta() for key, policy in found.items()} == {
        "p/miniplm/student_checkpoint": timedelta(hours=1.5),
        "p/no_kd/student_checkpoint": timedelta(hours=24),
        "p/half/refined_corpus": timedelta(hours=48),
    }


def test_none_is_the_default(tmp_path):
    assert policies(opened(tmp_path)) == {}


def test_an_unknown_name_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(ExperimentError, match="did you mean 'half/refined_corpus'"):
        opened(tmp_path, fresh_within_hours={"half/refined_corpora": 24})


@pytest.mark.parametrize("hours", [0, -1, True])
def test_a_time_that_is_none_is_refused(hours):
    with pytest.raises(ValueError, match="documents"):
        Automation.model_validate({"fresh_within_hours": {"documents": hours}})
