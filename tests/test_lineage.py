"""Fingerprints: exactly what a result depends on, neither less nor more."""

import os
import platform
import time
from pathlib import Path

import polars as pl
import pytest
import yaml

from miniplm_assets.core.errors import CorpusError, MissingResultError, ModelError
from miniplm_assets.core.recipe import Recipe
from miniplm_assets.corpus.shards import observe_corpus
from miniplm_assets.experiment import DemoSource, FolderModel, FolderTokenizer, JsonlSource, Scoring
from miniplm_assets.kinds.agreement import DIFFERENCES
from miniplm_assets.kinds.models import MODELS, CopiedModel
from miniplm_assets.kinds.rankings import MODEL_SCORES, TABLES
from miniplm_assets.kinds.raw_corpus import RAW_CORPUS as LISTING
from miniplm_assets.kinds.registry import PROJECT, all_kinds, open_pipeline
from miniplm_assets.kinds.tokenizer import TOKENIZER
from miniplm_assets.lineage import folders
from miniplm_assets.lineage import snapshot as snapshot_module
from miniplm_assets.lineage.fingerprints import Fingerprints
from miniplm_assets.lineage.folders import FolderFingerprints, require_copied
from miniplm_assets.lineage.kind import Node
from miniplm_assets.lineage.outcome import outcome
from miniplm_assets.lineage.plan import plan
from miniplm_assets.lineage.snapshot import Listing
from miniplm_assets.lm.model_sources import fetch_model
from miniplm_assets.storage.files import sha256_of
from miniplm_assets.storage.sql_project import load_sql_project
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
        pipeline = open_pipeline(path)
        found = Fingerprints(pipeline.graph, shards or SHARDS, FolderFingerprints(pipeline.store))
        whole = {key: found.recipe(key).fingerprint for key in pipeline.graph}
        by_shard = {
            f"{key} {shard}": recipe.fingerprint
            for key, node in pipeline.graph.items()
            for shard, recipe in (found.pieces(key).items() if node.kind.pieces == "shard" else ())
        }
        return whole | by_shard

    return of


def changed_keys(before, after):
    return {key for key in before if before[key] != after.get(key)}


SELECTION = {
    f"half/{model}"
    for model in (
        "difference_scores",
        "selection_cutoff",
        "refined_corpus",
        "score_distribution",
        "domain_shift",
        "length_bias",
        "extreme_sequences",
        "what_if",
        "score_deciles",
        "selection_diversity",
    )
}
BETTER = {"better/student_checkpoint", "better/student_evaluation"}
REPORTS = {"student_differences", "comparison", "ledger", "break_even", "scaling_laws", "report", "warehouse_catalog"}


def test_the_order_of_the_files_does_not_matter(fingerprints):
    assert fingerprints() == fingerprints(shards=dict(sorted(SHARDS.items())))


def test_keep_fraction_changes_the_selection_and_what_hangs_on_it(fingerprints):
    content = minimal()
    content["selections"]["half"]["keep_fraction"] = 0.3
    # The differences themselves do not depend on how many are kept, nor does the profile of the corpus.
    assert changed_keys(fingerprints(), fingerprints(content)) == (
        (SELECTION - {"half/difference_scores"}) | BETTER | REPORTS
    )


def test_the_teachers_dtype_changes_its_scores_alone_and_what_hangs_on_them(fingerprints):
    content = minimal()
    content["teachers"]["large"]["scoring"] = {"dtype": "bfloat16"}
    scores = {"large/teacher_scores", "large/teacher_scores a.jsonl", "large/teacher_scores b.jsonl"}
    assert changed_keys(fingerprints(), fingerprints(content)) == scores | SELECTION | BETTER | REPORTS


def test_a_students_budget_changes_that_student_alone(fingerprints):
    content = minimal()
    content["students"]["plain"]["training"]["token_budget"] = 11
    assert (
        changed_keys(fingerprints(), fingerprints(content))
        == {
            "plain/student_checkpoint",
            "plain/student_evaluation",
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
    ],
    ids=["batch size and device", "gradient accumulation", "checkpoints", "plans"],
)
def test_how_and_where_changes_nothing(fingerprints, change):
    content = minimal()
    change(content)
    assert changed_keys(fingerprints(), fingerprints(content)) == set()


def test_another_warehouse_changes_the_catalog_that_names_its_files_alone(fingerprints):
    assert changed_keys(fingerprints(), fingerprints(minimal() | {"warehouse": "elsewhere"})) == {"warehouse_catalog"}


def test_moving_the_corpus_changes_nothing_but_the_listing_and_what_shows_it(fingerprints):
    content = minimal()
    content["corpus"]["source"]["path"] = "moved"
    assert changed_keys(fingerprints(), fingerprints(content)) == {"raw_corpus", "report", "warehouse_catalog"}


def test_a_new_file_leaves_the_results_of_the_others(fingerprints):
    content = minimal()
    del content["tokenizers"]["other"]
    content["tokenizers"]["bpe"]["shards"] = ["a.*", "b.*"]
    content["references"]["small"]["model"]["shards"] = ["a.*", "b.*"]
    before = fingerprints(content)
    after = fingerprints(content, {**SHARDS, "c.jsonl": "3" * 32})
    changed = changed_keys(before, after)
    assert not {key for key in changed if " " in key}
    assert "bpe/tokenizer" not in changed
    assert "small/reference_model" not in changed
    assert {"documents", "bpe/sequences", "large/teacher_scores", "half/refined_corpus"} <= changed
    assert {key.split(" ")[0] for key in after.keys() - before.keys()} == {
        "documents",
        "bpe/sequences",
        "large/teacher_scores",
        "small/reference_scores",
    }


def test_a_model_that_names_no_files_learns_from_all(fingerprints):
    changed = changed_keys(fingerprints(), fingerprints(shards={**SHARDS, "c.jsonl": "3" * 32}))
    assert {"bpe/tokenizer", "small/reference_model", "small/reference_scores a.jsonl"} <= changed


def test_changed_content_changes_that_file_alone(fingerprints):
    content = minimal()
    content["tokenizers"]["bpe"]["shards"] = ["a.jsonl"]
    content["references"]["small"]["model"]["shards"] = ["a.jsonl"]
    changed = changed_keys(fingerprints(content), fingerprints(content, {**SHARDS, "b.jsonl": "9" * 32}))
    assert {key for key in changed if key.endswith("a.jsonl")} == {"other/sequences a.jsonl"}  # learns from all files
    assert {"documents b.jsonl", "bpe/sequences b.jsonl", "large/teacher_scores b.jsonl"} <= changed


def test_patterns_that_match_no_file_are_refused(fingerprints):
    content = minimal()
    content["tokenizers"]["bpe"]["shards"] = ["z*"]
    with pytest.raises(CorpusError, match=r"bpe/tokenizer: no corpus file matches shards: z\*; there are"):
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
    assert {"large/teacher_model", "large/teacher_scores"} <= changed_keys(before, fingerprints())


def copied(kind, folder):
    """Return the node of a model or tokenizer that lies in a folder."""
    if kind == "tokenizer":
        settings = FolderTokenizer(source="folder", path=str(folder))
        return Node(kind=TOKENIZER, names=("bpe",), settings=settings, folder=folder)
    settings = CopiedModel(
        model=FolderModel(source="folder", path=str(folder)), max_sequence_tokens=9, scoring=Scoring()
    )
    return Node(kind=MODELS[kind.removesuffix("_model")], names=("large",), settings=settings, folder=folder)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ModelError, match="nowhere: no such folder"):
        FolderFingerprints(Store(tmp_path / "warehouse"))(copied("teacher_model", tmp_path / "nowhere"))


@pytest.fixture
def model(tmp_path):
    """A model folder with a tokenizer in it."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).write_text(name)
    return folder


clock_ns = time.time_ns


class FolderLooks:
    """Looks at a folder again and again, an hour after it changed, and counts what is read."""

    def __init__(self, store, monkeypatch):
        self.read = []
        self.fingerprint = FolderFingerprints(store)
        self.offset_ns = 3_600 * 10**9

        def digest(path):
            self.read.append(path.name)
            return sha256_of(path)

        monkeypatch.setattr(folders, "sha256_of", digest)
        monkeypatch.setattr(folders.time, "time_ns", lambda: clock_ns() + self.offset_ns)

    def look(self, kind, folder):
        self.read.clear()
        fingerprint = self.fingerprint(copied(kind, folder))
        return fingerprint, list(self.read)


def test_only_the_files_that_are_copied_count(model, tmp_path, monkeypatch):
    looks = FolderLooks(Store(tmp_path / "warehouse"), monkeypatch)
    teacher, _ = looks.look("teacher_model", model)
    tokenizer, read = looks.look("tokenizer", model)
    assert read == ["tokenizer.json"]
    for name in ("manifest.json", "pytorch_model.bin", "notes.log"):
        (model / name).write_text("more")
    (model / "deeper").mkdir()
    (model / "deeper" / "config.json").write_text("more")
    assert looks.look("teacher_model", model) == (teacher, [])
    (model / "model.safetensors").write_text("other weights")
    assert looks.look("tokenizer", model) == (tokenizer, [])
    assert looks.look("reference_model", model)[0] != teacher


def test_a_file_is_read_again_only_where_it_may_have_changed(model, tmp_path, monkeypatch):
    store = Store(tmp_path / "warehouse")
    looks = FolderLooks(store, monkeypatch)
    everything = ["config.json", "model.safetensors", "tokenizer.json"]
    looks.offset_ns = 0
    first, read = looks.look("teacher_model", model)
    assert read == everything
    assert looks.look("teacher_model", model) == (first, everything)  # younger than the tick of a clock
    looks.offset_ns = 3_600 * 10**9
    assert looks.look("teacher_model", model) == (first, everything)
    assert looks.look("teacher_model", model) == (first, [])
    weights = model / "model.safetensors"
    before = weights.stat()
    weights.write_text("MODEL.safetensors")  # as long as before, and the modification time set back
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    second, read = looks.look("teacher_model", model)
    assert read == ["model.safetensors"] and second != first
    (cache,) = (store.root / ".folders").iterdir()
    for damaged in ("{", "[]", '{"config.json": 1}'):
        cache.write_text(damaged)
        assert looks.look("teacher_model", model) == (second, everything)


def test_a_folder_that_changes_while_it_is_copied_is_noticed(model, tmp_path):
    node = copied("teacher_model", model)
    content = FolderFingerprints(Store(tmp_path / "warehouse"))(node)
    recipe = Recipe(kind="teacher_model", names=node.names, code_version="1", settings={"content": content})
    copy = tmp_path / "copy"
    copy.mkdir()
    fetch_model(FolderModel(source="folder", path=str(model)), copy)
    require_copied(node, recipe, copy)
    (copy / "model.safetensors").write_text("half old, half new")
    with pytest.raises(ModelError, match="large/teacher_model: the files in .*model changed while they were copied"):
        require_copied(node, recipe, copy)


def test_a_look_and_a_run_at_the_same_time_lose_nothing_of_each_other(tmp_path, monkeypatch):
    """The look reads what is known, the run names its state the latest, the look writes its stamps."""
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.jsonl").write_text('{"text": "one"}\n')
    store = Store(tmp_path / "warehouse")
    source = JsonlSource(type="jsonl", path=str(tmp_path / "corpus"))
    node = Node(kind=LISTING, settings=Listing(source=source))
    run = snapshot_module.look(node, store, print)
    store.make(run.recipe, lambda draft: snapshot_module.write_listing(run, draft))

    def observe_late(*args, **keywords):
        snapshot_module.make_latest(run, node, store)
        return observe_corpus(*args, **keywords | {"now_ns": clock_ns() + 3_600 * 10**9})

    monkeypatch.setattr(snapshot_module, "observe_corpus", observe_late)
    snapshot_module.look(node, store, print)
    latest = snapshot_module.latest_snapshot(node, store)
    assert latest.recipe == run.recipe
    assert latest.shards[0].stamp is not None


def test_one_name_in_three_places():
    """A SQL ref, a kind in the asset keys and in the folders of the warehouse are the same word."""
    pipeline = open_pipeline(PROJECT / "experiments" / "demo.yaml")
    every_kind = {kind.name for kind in all_kinds(load_sql_project(PROJECT / "dbt_like_sql"))}
    in_the_demo = {node.kind.name for node in pipeline.graph.values()}
    marts = load_sql_project(PROJECT / "dbt_like_sql").marts
    # What stands for the scores of the one model that a selection ranks by is a role alone.
    assert {ref for model in marts for ref in model.inputs} <= every_kind | {MODEL_SCORES}
    assert {model.name for model in marts} - in_the_demo == TABLES - {DIFFERENCES}
    assert {path.stem for path in Path(PROJECT / "dbt_like_sql" / "models" / "marts").glob("*.sql")} <= every_kind
    for key, node in pipeline.graph.items():
        assert key.rpartition("/")[2] == node.kind.name
        assert node.kind.name.isidentifier()


def test_the_demo_corpus_is_written_once_for_an_interpreter(tmp_path, monkeypatch):
    source = DemoSource(type="demo", num_shards=2, megabytes=0.05)
    node = Node(kind=LISTING, settings=Listing(source=source, warehouse=str(tmp_path)))
    store, lines = Store(tmp_path), []
    assert snapshot_module.current_snapshot(node, store) == (
        None,
        "the demo corpus has not been written yet; nothing of it has been seen so far",
    )
    first = snapshot_module.look(node, store, lines.append)
    assert [shard.name for shard in first.shards] == ["shard-0000.jsonl", "shard-0001.jsonl"]
    [result] = store.results("demo_corpus", on_problem=pytest.fail)
    assert result.manifest.ingredients["settings"] == {
        "type": "demo", "num_shards": 2, "megabytes": 0.05, "python": platform.python_version(),
    }  # fmt: skip
    assert (result.manifest.kind, result.manifest.ingredients["code_version"]) == ("demo_corpus", "1")
    assert all(Path(shard.files[0].removeprefix("file://")).parent == result.folder for shard in first.shards)
    monkeypatch.setattr(snapshot_module, "write_demo_corpus", pytest.fail)
    assert snapshot_module.look(node, store, lines.append).recipe == first.recipe
    seen, why_not = snapshot_module.current_snapshot(node, store)
    assert (seen.recipe, why_not) == (first.recipe, None)


def test_the_outcome_is_the_stored_verdict_and_where_to_look(tmp_path):
    content = minimal() | {"warehouse": str(tmp_path / "warehouse")}
    path = tmp_path / "experiment.yaml"
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.jsonl").write_text('{"text": "one"}\n')
    (tmp_path / "models" / "large").mkdir(parents=True)
    (tmp_path / "models" / "large" / "config.json").write_text("{}")
    path.write_text(yaml.safe_dump(content))
    pipeline = open_pipeline(path)
    with pytest.raises(MissingResultError, match="raw_corpus has not been materialised"):
        outcome(pipeline)
    node = pipeline.graph["raw_corpus"]
    seen = snapshot_module.look(node, pipeline.store, print)
    pipeline.store.make(seen.recipe, lambda draft: snapshot_module.write_listing(seen, draft))
    snapshot_module.make_latest(seen, node, pipeline.store)
    with pytest.raises(MissingResultError, match="comparison has no stored result"):
        outcome(pipeline)

    def write(draft):
        pl.DataFrame({"student": ["better"], "bits_per_byte": [0.25], "corpus": ["candidates"]}).write_parquet(
            draft.path / "students.parquet"
        )
        draft.facts = {"verdict": "better is better."}

    result = pipeline.store.make(pipeline.latest_fingerprints().recipe("comparison"), write)
    text = outcome(pipeline)
    assert text.startswith("better is better.\n\n")
    for words in (
        "student  bits/byte\nbetter      0.2500\n",
        str(result.folder),
        str(tmp_path / "warehouse" / "warehouse.duckdb"),
    ):
        assert words in text
    assert "What it cost:\nnot made yet; materialise break_even\n\nReport:     not made yet; materialise report" in text

    def write_cost(draft):
        pl.DataFrame({"student": ["better"]}).write_parquet(draft.path / "break_even.parquet")
        draft.facts = {"verdict": "better: 2e9 FLOPs of training"}

    pipeline.store.make(pipeline.latest_fingerprints().recipe("break_even"), write_cost)
    text = outcome(pipeline)
    assert "What it cost:\nbetter: 2e9 FLOPs of training\n\nReport:" in text

    # A newer state is in the making: what was complete is shown, and called what it is.
    (tmp_path / "texts" / "b.jsonl").write_text('{"text": "two"}\n')
    newer = snapshot_module.look(node, pipeline.store, print)
    pipeline.store.make(newer.recipe, lambda draft: snapshot_module.write_listing(newer, draft))
    snapshot_module.make_latest(newer, node, pipeline.store)
    with pytest.raises(MissingResultError, match="comparison has no stored result"):
        outcome(pipeline)
    snapshot_module.mark_complete(seen, node, pipeline.store)
    assert outcome(pipeline) == (
        f"The corpus has changed since: this is the outcome on its state before, raw_corpus {seen.recipe.fingerprint}. "
        f"On the latest it is still to be made.\n\n{text}"
    )
    del content["students"]
    path.write_text(yaml.safe_dump(content))
    told = outcome(open_pipeline(path), columns=60)
    assert (
        told.startswith("The experiment compares no students.\n\n") and str(tmp_path / "warehouse" / "latest") in told
    )


def test_a_plan_says_what_the_seeds_will_be_able_to_tell(tmp_path):
    content = minimal() | {"warehouse": str(tmp_path / "warehouse")}
    path = tmp_path / "experiment.yaml"
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.jsonl").write_text('{"text": "one"}\n')
    (tmp_path / "models" / "large").mkdir(parents=True)
    (tmp_path / "models" / "large" / "config.json").write_text("{}")

    def told():
        path.write_text(yaml.safe_dump(content))
        [planned] = [one for one in plan(open_pipeline(path)) if one.key == "student_differences"]
        return "\n".join(planned.reasons[1:])

    assert told() == ("better against plain: one seed cannot tell an effect from chance; name more (seeds: [1, 2, 3])")
    for student in content["students"].values():
        student["seeds"] = [1, 2, 3]
    # Student's t of 4 degrees of freedom at 97.5 % and 80 %: 2.776 and 0.941; times the root of 2 / 3.
    assert "3 seeds of each tell 3.04 standard deviations of a seed and more in 8 of 10 cases; how far" in told()
    pipeline = open_pipeline(path)
    node = pipeline.graph["raw_corpus"]
    seen = snapshot_module.look(node, pipeline.store, print)
    pipeline.store.make(seen.recipe, lambda draft: snapshot_module.write_listing(seen, draft))
    snapshot_module.make_latest(seen, node, pipeline.store)
    pieces = pipeline.latest_fingerprints().pieces("plain/student_evaluation")
    for seed, loss in (("1", 4.0), ("2", 4.2)):

        def write(draft, loss=loss):
            draft.facts = {"nll_nats_per_token": loss}

        pipeline.store.make(pieces[seed], write)
    assert told() == (
        "better against plain: 3 seeds of each tell 0.429 nats a token and more in 8 of 10 cases, if seeds lie as far "
        "apart as the 2 that are stored (standard deviation 0.141)"
    )
    better = pipeline.latest_fingerprints().pieces("better/student_evaluation")["1"]
    pipeline.store.make(better, lambda draft: draft.facts.update(nll_nats_per_token=3.8))
    # 0.3 is 2.12 of 0.141; as t has it, 5 seeds tell 2.01 and 4 tell 2.38.
    assert told().endswith(
        "better against plain: -0.300 nats a token by what is stored; 5 seeds of each would tell that"
    )
