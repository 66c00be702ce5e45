"""Fingerprints: exactly what a result depends on, neither less nor more."""

from pathlib import Path

import pytest
import yaml

from miniplm_assets.core.errors import CorpusError, ModelError
from miniplm_assets.lineage.fingerprints import Fingerprints
from miniplm_assets.lineage.folders import FolderFingerprints
from miniplm_assets.lineage.pipeline import PROJECT, Pipeline
from miniplm_assets.storage.store import Store
from tests.test_experiment import minimal

SHARDS = {"b.jsonl": "2" * 32, "a.jsonl": "1" * 32}


@pytest.fixture
def fingerprints(tmp_path):
    """A function from an experiment's content and its corpus files to all fingerprints by key."""
    (tmp_path / "models" / "large").mkdir(parents=True)
    (tmp_path / "models" / "large" / "config.json").write_text("{}")

    def of(content=None, shards=None):
        path = tmp_path / "experiment.yaml"
        path.write_text(yaml.safe_dump(content or minimal()))
        pipeline = Pipeline.open(path)
        found = Fingerprints(pipeline.graph, shards or SHARDS, FolderFingerprints(pipeline.store))
        whole = {key: found.recipe(key).fingerprint for key in pipeline.graph}
        by_shard = {
            f"{key} {shard}": recipe.fingerprint
            for key, node in pipeline.graph.items()
            if node.is_by_shard and key != "raw_corpus"
            for shard, recipe in found.shard_recipes(key).items()
        }
        return whole | by_shard

    return of


def changed_keys(before, after):
    return {key for key in before if before[key] != after.get(key)}


SELECTION = {
    f"{model}/half"
    for model in (
        "difference_scores",
        "selection_cutoff",
        "refined_corpus",
        "score_distribution",
        "domain_shift",
        "length_bias",
        "extreme_sequences",
    )
}
BETTER = {"student_checkpoint/better", "student_evaluation/better"}
REPORTS = {"comparison", "warehouse_catalog"}


def test_the_order_of_the_files_does_not_matter(fingerprints):
    assert fingerprints() == fingerprints(shards=dict(sorted(SHARDS.items())))


def test_keep_fraction_changes_the_selection_and_what_hangs_on_it(fingerprints):
    content = minimal()
    content["selections"]["half"]["keep_fraction"] = 0.3
    # The differences themselves do not depend on how many are kept, nor does the profile of the corpus.
    assert changed_keys(fingerprints(), fingerprints(content)) == (
        (SELECTION - {"difference_scores/half"}) | BETTER | REPORTS
    )


def test_the_teachers_dtype_changes_its_scores_alone_and_what_hangs_on_them(fingerprints):
    content = minimal()
    content["teachers"]["large"]["scoring"] = {"dtype": "bfloat16"}
    scores = {"teacher_scores/large", "teacher_scores/large a.jsonl", "teacher_scores/large b.jsonl"}
    assert changed_keys(fingerprints(), fingerprints(content)) == scores | SELECTION | BETTER | REPORTS


def test_a_students_budget_changes_that_student_alone(fingerprints):
    content = minimal()
    content["students"]["plain"]["training"]["token_budget"] = 11
    assert (
        changed_keys(fingerprints(), fingerprints(content))
        == {
            "student_checkpoint/plain",
            "student_evaluation/plain",
        }
        | REPORTS
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["teachers"]["large"].update(scoring={"tokens_per_batch": 5, "device": "cpu"}),
        lambda content: content["students"]["plain"]["training"].update(sequences_per_device=1),
        lambda content: content["references"]["small"]["model"]["training"].update(checkpoint_minutes=1.0),
        lambda content: content["corpus"].update(expected_tokens=7),
        lambda content: content.update(warehouse="elsewhere"),
    ],
    ids=["batch size and device", "gradient accumulation", "checkpoints", "plans", "place"],
)
def test_how_and_where_changes_nothing(fingerprints, change):
    content = minimal()
    change(content)
    assert changed_keys(fingerprints(), fingerprints(content)) == set()


def test_moving_the_corpus_changes_nothing_but_the_listing_and_the_catalog_that_shows_it(fingerprints):
    content = minimal()
    content["corpus"]["source"]["path"] = "moved"
    assert changed_keys(fingerprints(), fingerprints(content)) == {"raw_corpus", "warehouse_catalog"}


def test_a_new_file_leaves_the_results_of_the_others(fingerprints):
    content = minimal()
    del content["tokenizers"]["other"]
    content["tokenizers"]["bpe"]["shards"] = ["a.*", "b.*"]
    content["references"]["small"]["model"]["shards"] = ["a.*", "b.*"]
    before = fingerprints(content)
    after = fingerprints(content, {**SHARDS, "c.jsonl": "3" * 32})
    changed = changed_keys(before, after)
    assert not {key for key in changed if " " in key}
    assert "tokenizer/bpe" not in changed
    assert "reference_model/small" not in changed
    assert {"documents", "sequences/bpe", "teacher_scores/large", "refined_corpus/half"} <= changed
    assert {key.split(" ")[0] for key in after.keys() - before.keys()} == {
        "documents",
        "sequences/bpe",
        "teacher_scores/large",
        "reference_scores/small",
    }


def test_a_model_that_names_no_files_learns_from_all(fingerprints):
    changed = changed_keys(fingerprints(), fingerprints(shards={**SHARDS, "c.jsonl": "3" * 32}))
    assert {"tokenizer/bpe", "reference_model/small", "reference_scores/small a.jsonl"} <= changed


def test_changed_content_changes_that_file_alone(fingerprints):
    content = minimal()
    content["tokenizers"]["bpe"]["shards"] = ["a.jsonl"]
    content["references"]["small"]["model"]["shards"] = ["a.jsonl"]
    changed = changed_keys(fingerprints(content), fingerprints(content, {**SHARDS, "b.jsonl": "9" * 32}))
    assert {key for key in changed if key.endswith("a.jsonl")} == {"sequences/other a.jsonl"}  # learns from all files
    assert {"documents b.jsonl", "sequences/bpe b.jsonl", "teacher_scores/large b.jsonl"} <= changed


def test_patterns_that_match_no_file_are_refused(fingerprints):
    content = minimal()
    content["tokenizers"]["bpe"]["shards"] = ["z*"]
    with pytest.raises(CorpusError, match=r"tokenizer/bpe: no corpus file matches shards: z\*; there are"):
        fingerprints(content)


def test_files_that_would_share_ids_are_refused(fingerprints, monkeypatch):
    monkeypatch.setattr("miniplm_assets.lineage.fingerprints.SHARD_BITS", 0)
    with pytest.raises(CorpusError, match=r"would share ids; rename either"):
        fingerprints()


def test_a_folder_is_known_by_its_content(fingerprints, tmp_path):
    before = fingerprints()
    config = tmp_path / "models" / "large" / "config.json"
    config.touch()
    assert fingerprints() == before
    config.write_text('{"changed": true}')
    assert {"teacher_model/large", "teacher_scores/large"} <= changed_keys(before, fingerprints())


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ModelError, match="nowhere: no such folder"):
        FolderFingerprints(Store(tmp_path / "warehouse"))(tmp_path / "nowhere")


def test_one_name_in_three_places():
    """A SQL ref, an asset key and a folder of the warehouse are the same word."""
    pipeline = Pipeline.open(PROJECT / "experiments" / "demo.yaml")
    steps = {node.step for node in pipeline.graph.values()}
    refs = {ref for model in pipeline.sql.marts for ref in model.inputs}
    assert refs <= steps
    assert {model.name for model in pipeline.sql.marts} <= steps
    assert {path.stem for path in Path(PROJECT / "dbt_like_sql" / "models" / "marts").glob("*.sql")} <= steps
    for key in pipeline.graph:
        assert key.split("/")[0].isidentifier()
