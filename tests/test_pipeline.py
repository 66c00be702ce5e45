"""The whole graph on a small real corpus: materialised, stored, found again, extended, and refused when it must be."""

import gzip
import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from miniplm_assets.assets.build import build_assets
from miniplm_assets.cli import main
from miniplm_assets.experiment import load_experiment
from miniplm_assets.kinds.registry import PROJECT, all_kinds, open_pipeline
from miniplm_assets.lineage.graph import build_graph
from miniplm_assets.lineage.outcome import outcome
from miniplm_assets.lineage.page import amount, bytes_in_words, percent
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.plan import plan
from miniplm_assets.lineage.prune import referenced, unreferenced_results
from miniplm_assets.lineage.verify import verify_derived, verify_store
from miniplm_assets.storage.latest import shown_fingerprint
from miniplm_assets.storage.sql_project import load_sql_project
from miniplm_assets.storage.store import Store
from tests.corpora import MODULES, tiny_experiment, write_experiment, write_shard
from tests.pages import value_of as value

# What names the corpus files by their place, and so is made anew for a copy of the corpus.
LISTINGS = {"raw_corpus", "report", "warehouse_catalog"}
pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning"),
]


def materialise(experiment_file, select="*"):
    """Materialise in this process; return the pipeline and the metadata of each asset by key."""
    pipeline = open_pipeline(experiment_file)
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(build_assets(pipeline), instance=instance, selection=select, raise_on_error=True)
    events = result.get_asset_materialization_events()
    checks = result.get_asset_check_evaluations()
    materialisations = {"/".join(event.asset_key.path): event.materialization for event in events}
    return pipeline, materialisations, checks


def computed(materialisations):
    return {key for key, one in materialisations.items() if value(one, "num_results_computed")}


def failure(experiment_file):
    with pytest.raises(dg.Failure) as caught:
        materialise(experiment_file)
    return caught.value.description


REPORTS = {"student_differences", "comparison", "ledger", "break_even", "scaling_laws", "report", "warehouse_catalog"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A materialised experiment over two files; tests that change anything take a copy."""
    folder = tmp_path_factory.mktemp("tiny")
    write_shard(folder / "corpus" / "a.jsonl", MODULES[:5])
    write_shard(folder / "corpus" / "b.jsonl", MODULES[5:])
    content = tiny_experiment(folder / "corpus", folder / "warehouse")
    for model in (content["teachers"]["large"]["model"], content["references"]["small"]["model"]):
        model["shards"] = ["[ab].jsonl"]
    content["tokenizers"]["bpe"]["shards"] = ["[ab].jsonl"]
    experiment_file = write_experiment(folder / "experiment.yaml", content)
    pipeline, materialisations, checks = materialise(experiment_file)
    return folder, pipeline, materialisations, checks


@pytest.fixture
def copy_of_tiny(tiny, tmp_path):
    """The same, to change: (experiment content, write it and return its path)."""
    folder = shutil.copytree(tiny[0], tmp_path / "copy", symlinks=True)
    text = (folder / "experiment.yaml").read_text().replace(str(tiny[0]), str(folder))
    (folder / "experiment.yaml").write_text(text)
    return folder


def test_every_asset_is_materialised_with_its_fingerprint_as_data_version(tiny):
    _, pipeline, materialisations, _ = tiny
    assert materialisations.keys() == pipeline.graph.keys()
    fingerprints = pipeline.latest_fingerprints()
    for key, materialisation in materialisations.items():
        assert materialisation.tags["dagster/data_version"] == fingerprints.recipe(key).fingerprint
        assert value(materialisation, "num_results_reused") == 0 or key == "raw_corpus"


def test_every_check_passes(tiny):
    checks = tiny[3]
    assert [check.check_name for check in checks if not check.passed] == []
    names = {(check.asset_key.path[-1], check.check_name) for check in checks}
    assert ("refined_corpus", "refined_documents_are_candidates") in names
    assert ("sequences", "every_document_is_packed") in names


def test_texts_beside_the_corpus_are_measured_byte_by_byte(copy_of_tiny):
    """One long document, short ones, and what is none; against transformers' own logits."""
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    place = copy_of_tiny / "beside"
    place.mkdir()
    texts = [
        "def f(x):\n    return x\n" * 40,
        "Zwölf Boxkämpfer",
        "é",
        *(f"the value {n} is not {n + 1}" for n in range(40)),
    ]
    rows = [json.dumps({"text": text, "kind": "code" if "def" in text else "other"}) for text in texts]
    (place / "a.jsonl").write_text("\n".join([*rows, "{no json", '{"words": "no text"}']) + "\n")
    path = copy_of_tiny / "experiment.yaml"
    content = yaml.safe_load(path.read_text())
    content.setdefault("evaluation", {})["texts"] = {
        "beside": {"path": str(place), "fields": {"domain_field": "kind"}},
    }
    pipeline, materialisations, checks = materialise(write_experiment(path, content))
    [rejected] = [check for check in checks if check.check_name == "every_row_is_a_document"]
    assert not rejected.passed and "2 rows are no documents" in rejected.description
    students = {"no_kd", "miniplm"}
    added = {"beside/evaluation_text", *(f"{name}/beside/text_evaluation" for name in students)}
    assert computed(materialisations) - LISTINGS == added | {"student_differences", "comparison"}

    root = pipeline.store.root
    [tokenizer_file] = root.glob("bpe/tokenizer/*/tokenizer.json")
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    results = pipeline.latest_fingerprints().pieces("miniplm/beside/text_evaluation")
    [result] = [pipeline.store.require(recipe) for recipe in results.values()]
    [weights] = root.glob("miniplm/student_checkpoint/*/model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(weights.parent, dtype="float64")
    losses = pl.read_parquet(result.file("document_losses.parquet"))
    assert losses["document_id"].to_list() == list(range(len(texts)))
    window = content["sequences"]["sequence_length"] + 1
    for text, row in zip(texts, losses.iter_rows(named=True), strict=True):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert row["num_scored_tokens"] == len(ids) - 1
        assert row["num_scored_bytes"] == num_bytes(tokenizer, ids[1:])
        assert row["nll_nats"] == pytest.approx(nll_by_windows(model, ids, window), abs=1e-3)
    total = pl.read_parquet(result.file("by_domain.parquet")).filter("is_total").row(0, named=True)
    bits = losses["nll_nats"].sum() / losses["num_scored_bytes"].sum() / 0.6931471805599453
    assert total["bits_per_byte"] == pytest.approx(bits)
    with duckdb.connect(str(root / "warehouse.duckdb"), read_only=True) as warehouse:
        held = warehouse.execute(
            "select student, text, unit, difference_low, difference_high from student_differences where text = 'beside'"
        ).fetchall()
    assert [row[:3] for row in held] == [("miniplm", "beside", "bits_per_byte")]
    assert held[0][3] < held[0][4]


def test_losses_are_the_mean_over_the_last_states_where_they_are_asked_for(copy_of_tiny):
    """Against transformers' own logits under both states."""
    import torch
    from transformers import AutoModelForCausalLM

    path = copy_of_tiny / "experiment.yaml"
    content = json.loads(json.dumps(yaml.safe_load(path.read_text())))  # nothing is shared
    content["students"]["miniplm"]["training"]["last_checkpoints"] = {"number": 2, "apart": 0.5}
    pipeline, materialisations, _ = materialise(write_experiment(path, content))
    assert computed(materialisations) - LISTINGS - REPORTS == {
        "miniplm/student_checkpoint",
        "miniplm/student_evaluation",
    }

    def stored(key):
        [recipe] = pipeline.latest_fingerprints().pieces(key).values()
        return pipeline.store.require(recipe)

    checkpoint, evaluation = stored("miniplm/student_checkpoint"), stored("miniplm/student_evaluation")
    [earlier] = (checkpoint.folder / "last_checkpoints").iterdir()
    models = [AutoModelForCausalLM.from_pretrained(one, dtype="float64") for one in (earlier, checkpoint.folder)]
    end = models[0].config.eos_token_id
    assert evaluation.facts["mean_over_last_checkpoints"] == 2
    sequences = pl.concat(map(pl.read_parquet, pipeline.store.root.glob("bpe/sequences/*/sequences.parquet")))
    losses = pl.read_parquet(evaluation.file("sequence_losses.parquet"))
    rows = losses.join(sequences, on="sequence_id", validate="1:1").head(10)
    for ids, nll in rows.select("token_ids", "nll_nats").iter_rows():
        tokens = torch.tensor([ids])
        counts = tokens[0, :-1] != end
        with torch.no_grad():
            logprobs = [model(tokens).logits[0, :-1].log_softmax(-1) for model in models]
        each = [-float(one.gather(1, tokens[0, 1:, None])[counts].sum()) for one in logprobs]
        assert each[0] != pytest.approx(each[1], abs=1e-2)
        assert nll == pytest.approx(sum(each) / 2, abs=1e-3)


def num_bytes(tokenizer, ids):
    """Bytes of tokens of a byte-level tokenizer: a character of a piece is a byte."""
    return sum(len(tokenizer.id_to_token(token)) for token in ids)


def nll_by_windows(model, ids, window):
    """Nats of every token but the first, each with half a window before it or all that comes before."""
    import torch

    total, start, first = 0.0, 0, 1
    while True:
        stop = min(len(ids), start + window)
        with torch.no_grad():
            logits = model(torch.tensor([ids[start:stop]])).logits[0].log_softmax(-1)
        total -= sum(float(logits[place - start - 1, ids[place]]) for place in range(first, stop))
        if stop == len(ids):
            return total
        start, first = stop - window // 2, stop


def test_no_document_of_the_refined_corpus_is_in_another_split(tiny):
    _, pipeline, _, _ = tiny
    root = pipeline.store.root
    splits = pl.read_parquet(f"{root}/documents/*/documents.parquet").select("document_id", "split", "text")
    kept = (
        pl.read_parquet(f"{root}/half/refined_corpus/*/*.parquet")
        .explode("spans")
        .select(pl.col("spans").struct.field("document_id"))
    )
    assert set(kept.join(splits, on="document_id")["split"]) == {"candidate"}
    # Nor does an equal text stand in two splits.
    assert splits.group_by("text").agg(pl.col("split").n_unique())["split"].max() == 1


def test_every_document_is_in_the_sequences_once_and_whole(tiny):
    root = tiny[1].store.root
    documents = pl.read_parquet(f"{root}/documents/*/documents.parquet").select("document_id", "text")
    pieces = (
        pl.read_parquet(f"{root}/bpe/sequences/*/sequences.parquet")
        .explode("spans", "texts")
        .unnest("spans")
        .sort("document_id", "char_start")
        .group_by("document_id", maintain_order=True)
        .agg(pl.col("texts").str.join(""))
    )
    joined = documents.join(pieces, on="document_id", how="full", validate="1:1")
    assert (joined["text"] == joined["texts"]).all() and not joined["texts"].has_nulls()


def test_a_second_run_computes_nothing_and_loads_no_model_library(tiny, tmp_path):
    script = """
import sys
import dagster as dg
import duckdb
from miniplm_assets.definitions import defs
import miniplm_assets.definitions as definitions
assert "torch" not in sys.modules, "loading the definitions imports torch"
from miniplm_assets.assets.build import build_assets
with dg.DagsterInstance.ephemeral() as instance:
    result = dg.materialize(build_assets(definitions.pipeline), instance=instance)
for event in result.get_asset_materialization_events():
    assert event.materialization.metadata["bookkeeping"].value["num_results_computed"] == 0, event.asset_key
for heavy in ("torch", "transformers", "vllm", "matplotlib", "accelerate", "lm_eval"):
    assert heavy not in sys.modules, heavy
"""
    environment = {"MINIPLM_EXPERIMENT": str(tiny[0] / "experiment.yaml"), "PATH": "", "HOME": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_a_new_file_costs_itself_alone(copy_of_tiny):
    write_shard(copy_of_tiny / "corpus" / "c.jsonl", ("textwrap", "shlex"))
    _, materialisations, _ = materialise(copy_of_tiny / "experiment.yaml")
    for key in ("documents", "bpe/sequences", "large/teacher_scores", "small/reference_scores"):
        assert value(materialisations[key], "num_results_computed") == 1
        assert value(materialisations[key], "num_results_reused") == 2
    for key in ("bpe/tokenizer", "large/teacher_model", "small/reference_model"):
        assert value(materialisations[key], "num_results_computed") == 0
    assert value(materialisations["half/refined_corpus"], "num_results_computed") == 1
    # Switching back finds all that was there.
    (copy_of_tiny / "corpus" / "c.jsonl").unlink()
    _, materialisations, _ = materialise(copy_of_tiny / "experiment.yaml")
    assert computed(materialisations) <= LISTINGS


def test_what_is_renamed_is_found_and_not_made_again(copy_of_tiny):
    path = copy_of_tiny / "experiment.yaml"
    materialise(path)  # looks at the copy of the corpus
    content = yaml.safe_load(path.read_text())
    content["students"]["renamed"] = content["students"].pop("miniplm")
    content["selections"]["halved"] = content["selections"].pop("half")
    content["students"]["renamed"]["corpus"] = "refined_corpus/halved"
    pipeline, materialisations, _ = materialise(write_experiment(path, content))
    assert computed(materialisations) == REPORTS  # they show the names
    assert "renamed (trained on refined_corpus/halved)" in outcome(pipeline)
    assert value(materialisations["renamed/student_checkpoint"], "folder").startswith(
        str(copy_of_tiny / "warehouse" / "miniplm" / "student_checkpoint")
    )
    # Nobody prunes what is in use under its new name.
    wanted = referenced([pipeline])
    old = {result.manifest.key for result in unreferenced_results(pipeline.store, wanted, pytest.fail)}
    assert not old & {"miniplm/student_checkpoint", "half/refined_corpus"}
    assert list(verify_derived(pipeline, print)) == []


def test_the_ledger_holds_what_was_trained_and_scored(tiny):
    folder, pipeline, _, _ = tiny
    latest = pipeline.latest_fingerprints()

    def facts(key):
        return pipeline.store.require(latest.recipe(key)).facts

    def num_scored(key):
        [(tokens,)] = warehouse.execute(f"select sum(num_scored_tokens) from {key}").fetchall()
        return tokens

    with duckdb.connect(str(folder / "warehouse" / "warehouse.duckdb"), read_only=True) as warehouse:
        costs = warehouse.execute("select student, training_flops, offline_flops, offline_assets from ledger")
        rows = {student: others for student, *others in costs.fetchall()}
        teacher, reference = facts("large/teacher_model"), facts("small/reference_model")
        scored = sum(
            2 * model["num_parameters"] * num_scored(f"{prefix}{who}_scores")
            for who, model in (("teacher", teacher), ("reference", reference))
            for prefix in ("", "pilot_", "agreement_")
            if f"{prefix}{who}_scores" in {node.kind.name for node in pipeline.graph.values()}
        )
        pairs = warehouse.execute("select student, opponent from break_even order by all").fetchall()
    plain, better = facts("no_kd/student_checkpoint"), facts("miniplm/student_checkpoint")
    assert rows["no_kd"] == [6 * plain["num_parameters"] * plain["num_tokens"], 0, []]
    trained = sum(6 * model["num_parameters"] * model["num_tokens"] for model in (teacher, reference))
    assert rows["miniplm"][:2] == [6 * better["num_parameters"] * better["num_tokens"], trained + scored]
    assert {"large/teacher_model", "large/teacher_scores", "small/reference_scores"} <= set(rows["miniplm"][2])
    assert pairs == [("miniplm", "no_kd"), ("no_kd", "miniplm")]


def test_another_seed_costs_itself_and_every_seed_is_compared(copy_of_tiny):
    path = copy_of_tiny / "experiment.yaml"
    materialise(path)  # looks at the copy of the corpus
    content = yaml.safe_load(path.read_text())
    content["students"]["miniplm"]["seeds"] = [3, 4]  # 3 is the experiment's own
    pipeline, materialisations, _ = materialise(write_experiment(path, content))
    assert computed(materialisations) - LISTINGS == {
        "miniplm/student_checkpoint",
        "miniplm/student_evaluation",
        "student_differences",
        "comparison",
        "ledger",
        "break_even",
        "scaling_laws",
    }
    for kind in ("student_checkpoint", "student_evaluation"):
        one = materialisations[f"miniplm/{kind}"]
        assert (value(one, "num_results_computed"), value(one, "num_results_reused")) == (1, 1)
        assert "| seed | rows | state | seconds | device |" in value(one, "seeds")
        assert "| stored |" in value(one, "seeds") and "computed in this run" in value(one, "made")
    folders = [
        pipeline.store.require(recipe).folder
        for recipe in pipeline.latest_fingerprints().pieces("miniplm/student_checkpoint").values()
    ]
    first, second = ((folder / "model.safetensors").read_bytes() for folder in folders)
    assert len(first) == len(second) and first != second
    assert "miniplm over 2 seeds" in outcome(pipeline)
    with duckdb.connect(str(pipeline.store.root / "warehouse.duckdb"), read_only=True) as warehouse:
        rows = "select student, seed from student_evaluation where is_total order by all"
        assert warehouse.execute(rows).fetchall() == [("miniplm", 3), ("miniplm", 4), ("no_kd", 3)]


def test_a_setting_that_only_reports_trains_nothing(copy_of_tiny):
    path = copy_of_tiny / "experiment.yaml"
    materialise(path)  # looks at the copy of the corpus
    content = yaml.safe_load(path.read_text())
    content["evaluation"]["excluded_domains"] = []
    content["references"]["small"]["model"]["training"]["num_evaluations"] = 1
    content["students"]["miniplm"]["training"] |= {"num_evaluations": 5, "num_held_out_sequences": 3}
    _, materialisations, checks = materialise(write_experiment(path, content))
    assert computed(materialisations) - LISTINGS == {
        "no_kd/student_evaluation",
        "miniplm/student_evaluation",
        *REPORTS - LISTINGS,
    }
    [check] = [check for check in checks if check.check_name == "students_are_measured_as_asked"]
    assert not check.passed
    assert "miniplm, seed 3, was measured along the way by num_evaluations 3, where 5 is asked for" in check.description


def test_a_touched_file_changes_nothing(copy_of_tiny):
    (copy_of_tiny / "corpus" / "a.jsonl").touch()
    _, materialisations, _ = materialise(copy_of_tiny / "experiment.yaml")
    assert computed(materialisations) <= LISTINGS


def test_the_page_of_the_raw_corpus_says_what_a_run_has_to_do(tiny):
    table = value(tiny[2]["raw_corpus"], "plan: all columns").replace("\u200b", "")  # where a word may be broken
    assert "| miniplm/student_checkpoint | 1 of 1 | never computed |" in table
    assert "raw_corpus" not in table


def test_the_share_that_the_sequences_fill_is_that_of_all_files(tiny):
    one = tiny[2]["bpe/sequences"]
    assert value(one, "fill_share") == value(one, "num_tokens") / (65 * value(one, "num_sequences"))
    assert 0.5 < value(one, "fill_share") <= 1


def test_a_page_shows_the_table_of_its_kind_and_no_other_file(tiny):
    one = tiny[2]["miniplm/student_checkpoint"]  # a log of the training, and one of the held-out losses beside it
    folder = value(one, "folder")
    assert value(one, "dagster/row_count") == len(pl.read_parquet(f"{folder}/training_log.parquet"))
    columns = [column.name for column in value(one, "columns").columns]
    assert columns == pl.read_parquet_schema(f"{folder}/training_log.parquet").names()
    documents = pl.read_parquet(f"{tiny[1].store.root}/documents/*/documents.parquet")
    assert value(tiny[2]["documents"], "dagster/row_count") == len(documents)


def test_pages_say_what_their_tables_hold(tiny):
    _, pipeline, pages, _ = tiny

    def rows(key):
        [folder] = [file.parent for file in (pipeline.store.root / key).glob("*/manifest.json")]
        return pl.concat(pl.read_parquet(path) for path in sorted(folder.glob("*.parquet")))

    scores = rows("half/difference_scores")["rank_difference"]
    said = value(pages["half/difference_scores"], "outcome")
    assert f"{len(scores):,} candidates are ranked" in said
    for figure in (scores.mean(), scores.std(), scores.min(), scores.max()):
        assert amount(figure) in said
    assert percent((scores < 0).mean()) in said
    assert "300 entries" in value(pages["bpe/tokenizer"], "outcome")
    [told] = rows("break_even").filter(pl.col("student") == "miniplm", pl.col("opponent") == "no_kd")["outcome"]
    assert value(pages["break_even"], "cheaper than its baseline") == told
    [difference] = rows("student_differences").iter_rows(named=True)
    table = value(pages["student_differences"], "each student against its baseline")
    assert "miniplm against no_kd" in table and f"{difference['difference']:+.3f}" in table
    for law in rows("scaling_laws").iter_rows(named=True):
        if law["problem"]:
            assert value(pages["scaling_laws"], f"no law for {law['student']}") == law["problem"]
        else:
            assert f"{law['loss_ahead']:.2f} (" in value(pages["scaling_laws"], "laws, the lowest ahead first")
    assert value(pages["miniplm/student_checkpoint"], "objective") == "cross entropy"
    [ours] = rows("ledger").filter(student="miniplm").iter_rows(named=True)
    assert f"miniplm cost {ours['flops']:.3g} FLOPs in all" in value(pages["ledger"], "outcome")
    files = rows("raw_corpus")
    said = value(pages["raw_corpus"], "outcome")
    assert said.startswith(f"{len(files)} corpus files, {bytes_in_words(files['num_bytes'].sum())} as stored")
    assert str(pipeline.store.root / "report.html") in value(pages["report"], "read it").replace("\u200b", "")
    splits = pl.concat(map(pl.read_parquet, sorted(pipeline.store.root.glob("bpe/sequences/*/sequences.parquet"))))
    scores = pl.concat(map(pl.read_parquet, sorted(pipeline.store.root.glob("large/teacher_scores/*/scores.parquet"))))
    for split, where in (("candidate", "the candidates"), ("validation", "the validation split")):
        own = scores.join(splits.filter(split=split), on="sequence_id")
        loss = -own["logprob_nats"].sum() / own["num_scored_tokens"].sum()
        assert f"{loss:.4g} nats a token on {where}" in value(pages["large/teacher_scores"], "outcome")


def test_the_pages_of_a_selection_say_what_it_does(tiny):
    _, pipeline, pages, _ = tiny

    def table(key):
        [folder] = [file.parent for file in (pipeline.store.root / key).glob("*/manifest.json")]
        return pl.concat(pl.read_parquet(path) for path in sorted(folder.glob("*.parquet")))

    [cutoff] = table("half/selection_cutoff").iter_rows(named=True)
    tenths = table("half/score_deciles").sort("decile")
    assert f"Tenth 1 ranks highest: {tenths['domains'][0]}." in value(pages["half/score_deciles"], "outcome")
    hard = value(pages["half/score_deciles"], "how hard each tenth is")
    assert amount(tenths["teacher_nll_nats_per_token"][9]) in hard
    fractions = value(pages["half/what_if"], "other keep fractions")
    share = cutoff["num_kept"] / cutoff["num_candidates"]
    of_tokens = percent(cutoff["num_kept_tokens"], cutoff["num_candidate_tokens"])
    assert f"{share:.2f} (as it stands) | {cutoff['num_kept']:,} | {of_tokens} |" in fractions
    assert fractions.count("as it stands") == 1
    lengths = table("half/length_bias").sort("length_bucket")
    assert value(pages["half/length_bias"], "outcome").startswith(
        f"Of the shortest candidates {percent(lengths['share_kept'][1])} are kept, of the longest "
        f"{percent(lengths['share_kept'][-1])}."
    )
    [picture] = [name for name in pages["half/score_distribution"].metadata if name.startswith("number of sequences")]
    assert "cutoff" in value(pages["half/score_distribution"], picture)
    asked = value(pages["half/refined_corpus"], "settings asked for")
    assert "keep fraction | 0.5 |" in asked


def test_part_of_the_graph_can_be_asked_for(copy_of_tiny):
    shutil.rmtree(copy_of_tiny / "warehouse")
    _, materialisations, _ = materialise(copy_of_tiny / "experiment.yaml", '+key:"half/refined_corpus"')
    assert "half/refined_corpus" in materialisations
    assert "no_kd/student_checkpoint" not in materialisations


def test_the_students_load_as_any_model(tiny):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    materialisations = tiny[2]
    for name in ("no_kd", "miniplm"):
        folder = value(materialisations[f"{name}/student_checkpoint"], "folder")
        model = AutoModelForCausalLM.from_pretrained(folder)
        tokens = AutoTokenizer.from_pretrained(folder)("import sys", return_tensors="pt")
        assert model(**tokens).logits.shape[-1] == 300
        assert not [path for path in Path(folder).iterdir() if path.suffix in (".bin", ".pt", ".pkl")]


def test_the_latest_results_are_read_by_their_names_by_other_tools(tiny, tmp_path, monkeypatch):
    """The lines of docs/results.md."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    latest = tiny[1].store.root / "latest"
    shown = {path.relative_to(latest).as_posix() for path in latest.rglob("*") if path.is_symlink()}
    assert shown == tiny[1].graph.keys()
    assert not any(path.name == "manifest.json" for path in latest.parent.joinpath(".views").rglob("*"))

    model = AutoModelForCausalLM.from_pretrained(str(latest / "miniplm/student_checkpoint"))
    tokenizer = AutoTokenizer.from_pretrained(str(latest / "miniplm/student_checkpoint"))
    assert model(**tokenizer("import sys", return_tensors="pt")).logits.shape[-1] == 300

    for key, table in (("half/refined_corpus", None), ("documents", "documents.parquet")):
        loaded = load_dataset("parquet", data_dir=str(latest / key), split="train", cache_dir=str(tmp_path))
        results = [tiny[1].store.require(recipe) for recipe in tiny[1].latest_fingerprints().stored(key)]
        files = [path for result in results for path in result.matching(table or "*.parquet")]
        column = loaded.column_names[0]
        assert sorted(loaded[column]) == sorted(pl.concat(map(pl.read_parquet, files))[column].to_list())
    of_seeds = latest / "miniplm" / "student_evaluation" / "seed=*" / "held_out.parquet"
    assert set(pl.read_parquet(of_seeds, hive_partitioning=True)["seed"]) == {3}

    with duckdb.connect(str(latest.parent / "warehouse.duckdb"), read_only=True) as reader:
        [(text, texts)] = reader.execute(
            "select text, texts from refined_corpus where selection = 'half' limit 1"
        ).fetchall()
    assert text == "\n\n".join(texts) != ""


def test_a_second_experiment_takes_the_names_over_and_prune_takes_those_of_what_it_deletes(copy_of_tiny, capsys):
    path = copy_of_tiny / "experiment.yaml"
    pipeline, _, _ = materialise(path, '+key:"half/refined_corpus"')
    root, key = pipeline.store.root, "half/refined_corpus"
    own = pipeline.latest_fingerprints().recipe(key).fingerprint
    assert shown_fingerprint(root, key) == own
    other = copy_of_tiny / "other.yaml"
    other.write_text(path.read_text().replace("keep_fraction: 0.5", "keep_fraction: 0.25"))
    pipeline, _, _ = materialise(other, '+key:"half/refined_corpus"')
    assert shown_fingerprint(root, key) == pipeline.latest_fingerprints().recipe(key).fingerprint != own
    assert main(["prune", str(path), "--delete"]) == 0
    assert not (root / "latest" / key).is_symlink()
    assert shown_fingerprint(root, "bpe/tokenizer") is not None
    materialise(path, 'key:"half/refined_corpus"')
    assert shown_fingerprint(root, key) == own


def test_the_outcome_says_who_is_better_with_the_measured_losses(tiny):
    text = outcome(tiny[1])
    losses = {name: value(tiny[2][f"{name}/student_evaluation"], "nll_nats_per_token") for name in ("no_kd", "miniplm")}
    word = "lower" if losses["miniplm"] < losses["no_kd"] else "higher"  # of one seed each: not better, or worse
    assert f"ended {word} than" in text or "cannot be told apart" in text or "the same held-out loss" in text
    assert f"{losses['miniplm']:.3f} against {losses['no_kd']:.3f}" in text
    assert "warehouse.duckdb" in text


def test_what_is_stored_is_verified_and_damage_is_found(copy_of_tiny):
    pipeline, _, _ = materialise(copy_of_tiny / "experiment.yaml")  # looks at the copy of the corpus
    assert list(verify_store(pipeline.store, print)) == []
    assert list(verify_derived(pipeline, print)) == []
    scores = next((copy_of_tiny / "warehouse" / "large" / "teacher_scores").glob("*/scores.parquet"))
    content = bytearray(scores.read_bytes())
    content[len(content) // 2] ^= 1
    scores.write_bytes(content)
    assert [problem.split(":")[0] for problem in verify_store(pipeline.store, print)] == [str(scores)]


def test_the_plan_names_what_differs_and_by_how_much(copy_of_tiny):
    path = copy_of_tiny / "experiment.yaml"
    materialise(path)  # looks at the copy of the corpus
    assert all(step.is_complete for step in plan(open_pipeline(path)))
    path.write_text(path.read_text().replace("keep_fraction: 0.5", "keep_fraction: 0.25"))
    steps = {step.key: step for step in plan(open_pipeline(path))}
    assert steps["half/selection_cutoff"].reasons == ("settings.keep_fraction: 0.5 -> 0.25",)
    assert steps["half/refined_corpus"].reasons == ("input selection_cutoff changed",)
    assert steps["miniplm/student_checkpoint"].reasons == ("input refined_corpus changed",)
    assert steps["miniplm/student_checkpoint"].num_tokens == 6_000
    assert steps["miniplm/student_checkpoint"].is_measured and steps["miniplm/student_checkpoint"].seconds > 0
    assert steps["large/teacher_scores"].is_complete and steps["no_kd/student_checkpoint"].is_complete


def corpus_of(tmp_path, **files):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    return write_experiment(tmp_path / "experiment.yaml", tiny_experiment(folder, tmp_path / "warehouse"))


def test_a_missing_corpus_is_named(tmp_path):
    path = write_experiment(tmp_path / "e.yaml", tiny_experiment(tmp_path / "absent", tmp_path / "warehouse"))
    assert str(tmp_path / "absent") in failure(path)


def test_an_empty_corpus_is_refused(tmp_path):
    assert "corpus" in failure(corpus_of(tmp_path))
    (tmp_path / "corpus" / "a.jsonl").write_bytes(b"")
    assert "empty" in failure(tmp_path / "experiment.yaml")


def test_a_corpus_of_one_document_is_too_small_to_be_split(tmp_path):
    message = failure(corpus_of(tmp_path, a__jsonl=b'{"text": "The only document.", "meta": {"source": "noise"}}\n'))
    assert "reference" in message or "tokenizer" in message


def test_a_corrupt_gzip_is_named(tmp_path):
    whole = gzip.compress(b'{"text": "one"}\n' * 5_000)
    message = failure(corpus_of(tmp_path, a__jsonl__gz=whole[: len(whole) // 2]))
    assert "a.jsonl.gz" in message


def test_a_parquet_file_without_the_text_column_is_named_with_the_columns_there_are(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    pq.write_table(pa.table({"content": ["some text"]}), folder / "a.parquet")
    content = tiny_experiment(folder, tmp_path / "warehouse")
    content["corpus"] = {"source": {"type": "parquet", "path": str(folder)}}
    content["teachers"], content["selections"], content["students"] = {}, {}, {}
    message = failure(write_experiment(tmp_path / "e.yaml", content))
    assert "a.parquet" in message and "text" in message and "content" in message


def test_bad_rows_are_kept_apart_with_their_reason_and_the_rest_goes_on(tmp_path):
    good = write_shard(tmp_path / "good.jsonl", MODULES).read_bytes()
    bad = b'{"text": ""}\nnot json\n{"title": "no text"}\n{"text": "\xff"}\n'
    pipeline, materialisations, _ = materialise(
        corpus_of(tmp_path, a__jsonl=bad + good), "key:raw_corpus or key:documents"
    )
    assert value(materialisations["documents"], "num_rejected") == 4
    rejected = pl.read_parquet(f"{pipeline.store.root}/documents/*/rejected.parquet")
    assert rejected["line"].to_list() == [1, 2, 3, 4]
    assert rejected["reason"].n_unique() == 4


def test_an_unknown_architecture_is_named_with_the_nearest(tmp_path):
    write_shard(tmp_path / "corpus" / "a.jsonl")
    content = tiny_experiment(tmp_path / "corpus", tmp_path / "warehouse")
    content["architectures"]["tiny"]["model_type"] = "qwen22"
    assert "did you mean 'qwen2'" in failure(write_experiment(tmp_path / "e.yaml", content))


def test_sequences_longer_than_the_model_takes_are_refused(tmp_path):
    write_shard(tmp_path / "corpus" / "a.jsonl")
    content = tiny_experiment(tmp_path / "corpus", tmp_path / "warehouse")
    content["architectures"]["tiny"]["max_position_embeddings"] = 32
    message = failure(write_experiment(tmp_path / "e.yaml", content))
    assert ("32" in message and "64" in message) or "65" in message


def test_a_full_disk_is_named_and_what_is_stored_stays(copy_of_tiny, monkeypatch):
    """The disk fills up while the refined corpus is written; space comes back, and only the rest is made."""
    path = copy_of_tiny / "experiment.yaml"
    path.write_text(path.read_text().replace("keep_fraction: 0.5", "keep_fraction: 0.25"))
    import miniplm_assets.storage.manifest as module

    original = module.flush_to_disk

    def full(file):
        if file.suffix == ".parquet" and any(part.startswith("refined_corpus-") for part in file.parts):
            with Path("/dev/full").open("wb", buffering=0) as device:
                device.write(b"x")
        original(file)

    monkeypatch.setattr(module, "flush_to_disk", full)
    assert "is full" in failure(path)
    monkeypatch.undo()
    _, materialisations, _ = materialise(path)
    assert value(materialisations["half/selection_cutoff"], "num_results_computed") == 0
    assert value(materialisations["half/refined_corpus"], "num_results_computed") == 1


def test_the_manifest_holds_what_a_reader_needs(tiny):
    folder = Path(value(tiny[2]["half/refined_corpus"], "folder"))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["key"] == "half/refined_corpus" and manifest["fingerprint"] == folder.name
    assert {file["name"] for file in manifest["files"]} == {"a.jsonl.parquet", "b.jsonl.parquet"}
    assert manifest["ingredients"]["inputs"].keys() >= {"difference_scores", "selection_cutoff", "sequences"}
    assert manifest["versions"]["duckdb"] and manifest["seconds"] > 0


def example(number):
    """Return the names that a Python example of CONTRIBUTING.md defines, with what it imports without saying so."""
    block = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("```python\n")[number].partition("```")[0]
    names = {}
    for module in (
        "collections.abc:Iterator,Mapping",
        "typing:Any,Literal",
        "polars:",
        "torch:",
        "pydantic:Field",
        "miniplm_assets.core.recipe:key_of",
        "miniplm_assets.experiment.settings:Settings",
        "miniplm_assets.kinds.selection:REFINED_CORPUS",
        "miniplm_assets.lineage.kind:ALL_FILES,Blueprint,Kind,Node",
        "miniplm_assets.lineage.work:Work",
        "miniplm_assets.storage.store:Draft,Result",
        "miniplm_assets.training.objectives.cross_entropy:cross_entropy_of",
        "miniplm_assets.training.objectives.objective:Batch,Loss,Objective,ObjectiveKind,Setting",
        "miniplm_assets.training.objectives.output_layer:LossOfTokens,OutputLayer,Part,TokenNats",
    ):
        path, _, wanted = module.partition(":")
        imported = importlib.import_module(path)
        names |= {name: getattr(imported, name) for name in wanted.split(",")} if wanted else {path: imported}
    names["pl"] = names["polars"]
    exec(block, names)
    return names


def test_the_kind_that_contributing_adds_is_one(copy_of_tiny):
    kind = example(1)["DOMAIN_TOKENS"]
    sql = load_sql_project(PROJECT / "dbt_like_sql")
    experiment = load_experiment(copy_of_tiny / "experiment.yaml")
    *kinds, catalog = all_kinds(sql)
    graph = build_graph([*kinds, kind, catalog], experiment, sql)
    pipeline = Pipeline(graph, Store(Path(experiment.warehouse)))
    node = graph["half/domain_tokens"]
    assert node.group == "selection_half" and "half/domain_tokens" in graph["warehouse_catalog"].inputs
    with dg.DagsterInstance.ephemeral() as instance:
        # The corpus of the copy lies elsewhere, and is looked at first.
        selection = 'key:raw_corpus or +key:"half/domain_tokens" or key:warehouse_catalog'
        assert dg.materialize(build_assets(pipeline), instance=instance, selection=selection).success
    with duckdb.connect(str(pipeline.store.root / "warehouse.duckdb"), read_only=True) as warehouse:
        found = warehouse.execute("select domain, num_tokens from domain_tokens where selection = 'half' order by all")
        counted = "select domain, sum(num_tokens) from refined_corpus group by all order by all"
        assert found.fetchall() == warehouse.execute(counted).fetchall()


def test_the_objective_that_contributing_adds_is_one(tmp_path):
    import torch
    from torch.nn.functional import cross_entropy

    from miniplm_assets.training.token_file import Row
    from tests.test_objectives import batch_of, check, model_of, opened_as

    names = example(2)
    settings = names["SmoothedCrossEntropy"](type="smoothed_cross_entropy", smoothing=0.3)
    model = model_of("student")
    objective = opened_as(names["KIND"], settings, model, tmp_path)
    rows = [Row(0, torch.arange(1, 20).numpy())]
    assert batch_of(rows, objective)["targets"].tolist() == list(range(2, 20))

    def expected(_number, token, logits, _owner):
        return cross_entropy(logits, torch.tensor(token), label_smoothing=0.3)

    check(objective, model, rows, expected)
