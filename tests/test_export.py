"""Exports: what other libraries read of them, where they come from, and that nothing half-written is ever there."""

import hashlib
import json
import re
import shutil
from functools import partial
from statistics import fmean

import dagster as dg
import polars as pl
import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml

from miniplm_assets.assets.build import build_assets
from miniplm_assets.cli import main
from miniplm_assets.core.errors import ExperimentError, PublishingError
from miniplm_assets.kinds import exports
from miniplm_assets.kinds.publications import publication_of
from miniplm_assets.kinds.registry import DEMO, PROJECT, WAREHOUSE_VARIABLE, open_pipeline
from miniplm_assets.lineage.snapshot import latest_snapshot, look, make_latest, mark_complete, write_listing
from miniplm_assets.publishing.dataset_card import PublishedCorpus, dataset_card, published_files, size_category
from miniplm_assets.publishing.markdown import plain, table
from miniplm_assets.publishing.model_card import PublishedModel, model_card
from miniplm_assets.publishing.provenance import Ancestor, Provenance
from tests.corpora import tiny_experiment, write_experiment, write_shard

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning")
SEEDS = (1, 2)
COMMONMARK = MarkdownIt("commonmark")
# Names that `datasets` would read a split from, and that are none of a URL.
SHARDS = ("test.jsonl", "a b%20#é.jsonl")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """An experiment of which what is exported here is materialised: its file and its pipeline."""
    folder = tmp_path_factory.mktemp("stored")
    for shard, module in zip(SHARDS, ("heapq", "bisect"), strict=True):
        write_shard(folder / "corpus" / shard, (module, "shlex", "textwrap"))
    content = tiny_experiment(folder / "corpus", folder / "warehouse")
    for model in (content["teachers"]["large"]["model"], content["references"]["small"]["model"]):
        model["training"] = {**model["training"], "token_budget": 600}
    student = content["students"]["miniplm"]
    student |= {"seeds": list(SEEDS), "training": {**student["training"], "token_budget": 600}}
    student.pop("baseline")
    path = write_experiment(folder / "experiment.yaml", content)
    pipeline = open_pipeline(path)
    selection = '+key:"miniplm/student_evaluation" or key:"half/domain_shift"'
    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize(build_assets(pipeline), instance=instance, selection=selection)
    return path, pipeline


@pytest.fixture
def copy(stored, tmp_path):
    """The same with a warehouse to change: its experiment file."""
    shutil.copytree(stored[1].store.root, tmp_path / "copy" / "warehouse")
    content = yaml.safe_load(stored[0].read_text())
    return write_experiment(tmp_path / "copy" / "experiment.yaml", {**content, "warehouse": "warehouse"})


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv(WAREHOUSE_VARIABLE, raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture(scope="module")
def student(stored, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "student"
    assert main(["export", "student/miniplm/2", str(folder), str(stored[0])]) == 0
    return folder


@pytest.fixture(scope="module")
def corpus(stored, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "corpus"
    assert main(["export", "refined/half", str(folder), str(stored[0]), "--license", "cc0-1.0"]) == 0
    return folder


def result_of(pipeline, key, seed=None):
    fingerprints = pipeline.latest_fingerprints()
    recipe = fingerprints.recipe(key) if seed is None else fingerprints.pieces(key)[str(seed)]
    return pipeline.store.require(recipe)


def refined_tables(pipeline):
    return sorted(result_of(pipeline, "half/refined_corpus").folder.glob("*.parquet"))


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def everything_in(folder):
    return {str(path.relative_to(folder)): sha256(path) for path in folder.rglob("*") if path.is_file()}


def refused(capsys, *arguments):
    """Return what is said of an export that is refused."""
    assert main(["export", *map(str, arguments)]) == 2
    return capsys.readouterr().err


# What others read.


def test_an_exported_student_generates_what_the_stored_one_does(stored, student):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, kept = (
        AutoModelForCausalLM.from_pretrained(folder)
        for folder in (student, result_of(stored[1], "miniplm/student_checkpoint", 2).folder)
    )
    tokenizer = AutoTokenizer.from_pretrained(student)
    ids = tokenizer("def heappush(heap, item):", return_tensors="pt").input_ids
    assert tokenizer.decode(ids[0]) == "def heappush(heap, item):"
    generated = model.generate(ids, max_new_tokens=8, do_sample=False)
    for _ in range(generated.shape[1] - ids.shape[1]):  # by hand: the likeliest token, one by one
        with torch.no_grad():
            ids = torch.cat([ids, kept(ids).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert generated.tolist() == ids.tolist()
    assert isinstance(tokenizer.decode(generated[0]), str)


def test_the_files_of_a_student_are_the_stored_ones(stored, student):
    checkpoint = result_of(stored[1], "miniplm/student_checkpoint", 2)
    exported = everything_in(student)
    assert exported.keys() - everything_in(checkpoint.folder).keys() == {"README.md", "provenance.json"}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= exported.keys()
    for path in checkpoint.folder.iterdir():
        if path.name != "manifest.json":
            assert sha256(path) == exported[path.name]
    provenance = json.loads((student / "provenance.json").read_text())
    assert {file["name"]: file["sha256"] for file in provenance["files"]}.items() <= exported.items()


def test_the_card_of_a_student_has_the_figures_of_its_seeds(stored, student):
    from huggingface_hub import ModelCardData
    from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

    card = ModelCard.load(student / "README.md")
    assert isinstance(card.data, ModelCardData)
    totals = {
        seed: pl.read_parquet(result_of(stored[1], "miniplm/student_evaluation", seed).folder / "held_out.parquet")
        .filter("is_total")
        .row(0, named=True)
        for seed in SEEDS
    }
    nats = {seed: total["nll_nats"] / total["num_scored_tokens"] for seed, total in totals.items()}
    bits = {seed: total["bits_per_byte"] for seed, total in totals.items()}
    assert nats[1] != nats[2]
    found = {one.metric_type: one for one in card.data.eval_results}
    for metric, values in (("nats_per_token", nats), ("bits_per_byte", bits)):
        assert found[metric].metric_value == pytest.approx(values[2], rel=1e-12)
        arguments = found[metric].metric_args
        assert (arguments["seed"], arguments["num_seeds"]) == (2, 2)
        assert arguments["mean_over_seeds"] == pytest.approx(fmean(values.values()), rel=1e-12)
        assert f"{fmean(values.values()):.4f} | {min(values.values()):.4f} | {max(values.values()):.4f}" in card.text
    index = eval_results_to_model_index(card.data.model_name, card.data.eval_results)
    assert model_index_to_eval_results(index) == ("miniplm", card.data.eval_results)
    assert card.data.library_name == "transformers" and card.data.pipeline_tag == "text-generation"
    assert {"difference-sampling", "knowledge-distillation", "qwen2"} <= set(card.data.tags)
    # Nothing is claimed that nobody said.
    assert card.data.license is None and "No licence is stated" in card.text
    assert card.data.datasets is None and card.data.base_model is None


def test_a_card_says_where_it_comes_from(stored, student, corpus):
    latest = stored[1].latest_fingerprints()
    facts = result_of(stored[1], "miniplm/student_checkpoint", 2).facts
    text = (student / "README.md").read_text()
    for words in (
        *("Over n = 2 seeds (1, 2)", "with seed 2", "what the selection half keeps"),
        *(f"{facts['num_tokens']:,}", f"{facts['training_flops']:.3e}", "| teacher large |", "| reference small |"),
        *("type cross\\_entropy", "jsonl files: corpus", "byte-level BPE of 300 entries", "keep\\_fraction 0.5"),
        *("torch 2.", "transformers 5."),
    ):
        assert words in text, words
    behind = ("raw_corpus", "documents", "large/teacher_scores", "small/reference_model", "half/refined_corpus")
    for folder, own in ((student, "miniplm/student_checkpoint"), (corpus, "half/refined_corpus")):
        card, provenance = (folder / "README.md").read_text(), json.loads((folder / "provenance.json").read_text())
        found = {one["key"]: one["fingerprint"] for one in provenance["ancestors"]}
        assert found.keys() >= {*behind[:-1], own} and list(found)[-1] == own
        for key, fingerprint in found.items():
            assert fingerprint == latest.recipe(key).fingerprint and f"`{fingerprint}`" in card
    assert provenance["fingerprint"] == result_of(stored[1], "half/refined_corpus").manifest.fingerprint


def test_an_exported_corpus_is_read_by_datasets(stored, corpus, tmp_path):
    from datasets import load_dataset

    loaded = load_dataset(str(corpus), cache_dir=str(tmp_path))
    assert list(loaded) == ["train"]  # whatever the corpus files are called
    rows = sorted(loaded["train"].to_list(), key=lambda row: row["sequence_id"])
    kept = pl.concat(map(pl.read_parquet, refined_tables(stored[1]))).sort("sequence_id")
    assert rows == kept.to_dicts() and len(rows) > 100
    assert {row["shard"] for row in rows} == set(SHARDS)


def test_the_card_of_a_corpus(stored, corpus):
    card = DatasetCard.load(corpus / "README.md")
    kept = pl.concat(map(pl.read_parquet, refined_tables(stored[1])))
    data = card.data.to_dict()
    assert data["license"] == "cc0-1.0" and "`cc0-1.0`, as stated by whoever exported this" in card.text
    assert data["size_categories"] == [size_category(len(kept))] and data["pretty_name"] == "half"
    assert yaml.safe_load(card.data.to_yaml()) == data
    assert f"keeps {len(kept):,} of" in card.text and f"{kept['num_tokens'].sum():,} of" in card.text
    shares = kept.group_by("domain").agg(pl.col("num_tokens").sum() / kept["num_tokens"].sum())
    for domain, share in shares.iter_rows():
        assert re.search(rf"\| {domain} \| [\d.]+% \| {share:.2%} \|", card.text)
    for column in kept.columns:
        assert re.search(rf"\| `{column}` \| \w+", card.text)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of rdflib, below mlcroissant
def test_the_croissant_file_is_valid_and_gives_the_same_rows(stored, corpus):
    import mlcroissant

    description = mlcroissant.Dataset(jsonld=corpus / "croissant.json")
    assert not description.metadata.ctx.issues.errors
    [warning] = description.metadata.ctx.issues.warnings
    assert "citeAs" in warning
    found = {record["sequences/sequence_id"]: record for record in description.records("sequences")}
    kept = pl.concat(map(pl.read_parquet, refined_tables(stored[1]))).to_dicts()
    assert len(found) == len(kept)
    for row in kept:
        record = found[row["sequence_id"]]
        spans = [{name.rpartition("/")[2]: value for name, value in span.items()} for span in record["sequences/spans"]]
        texts = [text.decode() for text in record["sequences/texts"]]
        assert (spans, texts) == (row["spans"], row["texts"])
        for column in ("shard", "domain"):
            assert record[f"sequences/{column}"].decode() == row[column]
        for column in row.keys() - {"spans", "texts", "shard", "domain"}:
            assert record[f"sequences/{column}"] == row[column]
    written = json.loads((corpus / "croissant.json").read_text())
    for file in written["distribution"][:-1]:
        path = corpus / file["contentUrl"]
        assert file["sha256"] == sha256(path) and file["contentSize"] == f"{path.stat().st_size} B"


def test_no_path_of_this_machine_is_exported(stored, student, corpus):
    for path in [*student.rglob("*"), *corpus.rglob("*")]:
        if path.is_file():
            assert str(stored[0].parent).encode() not in path.read_bytes(), path


def test_the_same_is_exported_as_the_same_bytes(stored, student, corpus, tmp_path):
    (tmp_path / "student").mkdir()  # an empty folder is as good as none
    assert main(["export", "student/miniplm/2", str(tmp_path / "student"), str(stored[0])]) == 0
    assert everything_in(tmp_path / "student") == everything_in(student)
    again = tmp_path / "made" / "on the way"
    assert main(["export", "refined/half", str(again), str(stored[0]), "--license", "cc0-1.0"]) == 0
    assert everything_in(again) == everything_in(corpus)


def test_the_warehouse_is_only_read(stored, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in stored[0].parent.rglob("*")}
    assert main(["export", "refined/half", str(tmp_path / "out"), str(stored[0])]) == 0
    assert {path: path.stat().st_mtime_ns for path in stored[0].parent.rglob("*")} == before


# What is refused.


def test_a_name_that_is_not_there_is_told_the_nearest(stored, tmp_path, capsys):
    ask = partial(refused, capsys)
    out = tmp_path / "out"
    assert "did you mean 'student/miniplm'?" in ask("student/minplm", out, stored[0])
    assert "did you mean 'refined/half'?" in ask("refined/hlaf", out, stored[0])
    assert "did you mean 'student/no_kd" in ask("student/no_kd/7", out, stored[0])
    said = ask("teacher_scores", out, stored[0])
    assert "expected student/<name>, student/<name>/<seed> or refined/<selection>" in said
    said = ask("student/miniplm", out, stored[0])
    assert "has 2 seeds" in said and "student/miniplm/1, student/miniplm/2" in said
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_taken_is_left_alone(stored, tmp_path, capsys):
    ask = partial(refused, capsys, "refined/half")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    said = ask(tmp_path / "full", stored[0])
    assert f"{tmp_path / 'full'} is not empty: it holds mine.txt" in said and "does not exist yet" in said
    assert "is a file" in ask(tmp_path / "full" / "mine.txt", stored[0])
    assert "cannot be made" in ask(tmp_path / "full" / "mine.txt" / "below", stored[0])
    assert "lies in the warehouse" in ask(stored[1].store.root / "out", stored[0])
    assert everything_in(tmp_path) == {"full/mine.txt": hashlib.sha256(b"mine").hexdigest()}


@pytest.mark.parametrize("licence", ["Apache 2.0", "", "MIT\nx: y"])
def test_a_licence_that_is_no_identifier(licence, stored, tmp_path, capsys):
    said = refused(capsys, "refined/half", tmp_path / "out", stored[0], "--license", licence)
    assert "such as apache-2.0" in said and not (tmp_path / "out").exists()


def test_what_is_not_stored_is_named_with_what_to_run(stored, copy, tmp_path, capsys):
    said = refused(capsys, "student/no_kd", tmp_path / "out", stored[0])
    assert "no_kd/student_checkpoint has no stored result" in said
    assert "dagster asset materialize --select '+key:\"no_kd/student_checkpoint\"'" in said
    for key, what in (
        ("half/selection_cutoff", "refined/half"),
        ("half/domain_shift", "refined/half"),
        ("miniplm/student_evaluation", "student/miniplm/1"),
    ):
        shutil.rmtree(copy.parent / "warehouse" / key)
        said = refused(capsys, what, tmp_path / "out", copy)
        assert f"{key} has no stored result" in said
    shutil.rmtree(copy.parent / "warehouse")
    assert "raw_corpus has not been materialised" in refused(capsys, "refined/half", tmp_path / "out", copy)
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_while_a_newer_state_is_in_the_making_the_complete_one_is_exported(stored, copy, tmp_path, capsys):
    pipeline = open_pipeline(copy)
    node = pipeline.graph["raw_corpus"]
    before = latest_snapshot(node, pipeline.store)
    assert main(["export", "student/miniplm/2", str(tmp_path / "before"), str(copy)]) == 0
    added = write_shard(stored[0].parent / "corpus" / "z.jsonl", ("heapq",))
    newer = look(node, pipeline.store, print)
    added.unlink()
    pipeline.store.make(newer.recipe, lambda draft: write_listing(newer, draft))
    make_latest(newer, node, pipeline.store)
    assert "miniplm/student_checkpoint has no" in refused(capsys, "student/miniplm/2", tmp_path / "out", copy)
    mark_complete(before, node, pipeline.store)
    for what, folder in (("student/miniplm/2", "student"), ("refined/half", "corpus_folder")):
        assert main(["export", what, str(tmp_path / folder), str(copy)]) == 0
        said = capsys.readouterr().out
        assert f"this is what was made on its state before, raw_corpus {before.recipe.fingerprint}" in said
    assert everything_in(tmp_path / "student") == everything_in(tmp_path / "before")


def test_the_figures_are_of_as_many_seeds_as_are_measured(copy, tmp_path):
    shutil.rmtree(result_of(open_pipeline(copy), "miniplm/student_evaluation", 1).folder)
    assert main(["export", "student/miniplm/2", str(tmp_path / "out"), str(copy)]) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "(n = 1)" in card and "num_seeds: 1" in card


@pytest.mark.parametrize("what", ["student/miniplm/1", "refined/half"])
def test_a_damaged_file_is_never_exported(what, copy, tmp_path, capsys):
    pipeline = open_pipeline(copy)
    path = (
        refined_tables(pipeline)[1]
        if what == "refined/half"
        else result_of(pipeline, "miniplm/student_checkpoint", 1).folder / "model.safetensors"
    )
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    for damaged, problem in (
        (content, "does not fit the checksum"),
        (content[:-1], f"{len(content) - 1:,} bytes, the manifest says {len(content):,}"),
        (None, "missing"),
    ):
        path.unlink() if damaged is None else path.write_bytes(damaged)
        said = refused(capsys, what, tmp_path / "out", copy)
        assert f"{path}: {problem}" in said or f"{path}: the content {problem}" in said
        assert f"Delete the folder {path.parent} and materialise" in said
    assert [one.name for one in tmp_path.iterdir()] == ["copy"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_export_that_ends_halfway_leaves_nothing(error, stored, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    seen = []

    def stop(draft, *_):
        seen.extend(sorted(path.name for path in draft.iterdir()))
        assert draft.parent == tmp_path and not out.exists()
        raise error

    monkeypatch.setattr(exports, "_write_texts", stop)
    if isinstance(error, OSError):
        assert "the disk is full" in refused(capsys, "refined/half", out, stored[0])
    else:
        with pytest.raises(KeyboardInterrupt):
            main(["export", "refined/half", str(out), str(stored[0])])
    assert seen == ["croissant.json", "data"] and list(tmp_path.iterdir()) == []


def test_of_two_exports_at_once_one_wins(stored, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    write = exports._write_texts

    def overtaken(draft, *more):
        write(draft, *more)
        out.mkdir()
        (out / "theirs").touch()

    monkeypatch.setattr(exports, "_write_texts", overtaken)
    assert "somebody else has written there meanwhile" in refused(capsys, "refined/half", out, stored[0])
    assert [path.name for path in out.iterdir()] == ["theirs"] and list(tmp_path.iterdir()) == [out]


# Words.


@pytest.mark.parametrize("path", [DEMO, PROJECT / "experiments" / "paper.yaml"], ids=["demo", "paper"])
def test_every_student_and_selection_of_the_shipped_experiments_has_words(path, tmp_path):
    graph = open_pipeline(path, warehouse=str(tmp_path)).graph
    named = [node for node in graph.values() if node.kind.name in ("student_checkpoint", "refined_corpus")]
    assert len(named) >= 3
    for node in named:
        publication = publication_of(graph, node.key, None)
        assert publication.steps[-1].key == node.key and publication.steps[0].key == "raw_corpus"
        assert "corpus" in publication.made and any(name.startswith("tokenizer ") for name in publication.made)
        what = f"student/{node.names[0]}/{node.seeds[0]}" if node.seeds else f"refined/{node.names[0]}"
        assert exports.find_export(graph, what) == (node, node.seeds[0] if node.seeds else None)


def test_what_comes_from_a_hub_is_named_with_its_commit(tmp_path):
    graph = open_pipeline(PROJECT / "experiments" / "paper.yaml", warehouse=str(tmp_path)).graph
    file = yaml.safe_load((PROJECT / "experiments" / "paper.yaml").read_text())
    teacher, source = file["teachers"]["qwen_1800m"]["model"], file["corpus"]["source"]
    student = next(name for name, one in file["students"].items() if one["corpus"].startswith("refined_corpus/"))
    publication = publication_of(graph, f"{student}/student_checkpoint", "mit")
    assert publication.made["teacher qwen_1800m"] == f"{teacher['id']} at {teacher['revision']} (Hugging Face)"
    assert publication.made["corpus"].startswith(f"{source['id']} at {source['revision']} (Hugging Face)")
    assert (publication.corpus_id, publication.license) == (source["id"], "mit")


def test_a_student_of_all_candidates_is_no_miniplm():
    graph = open_pipeline(DEMO).graph
    publication = publication_of(graph, "no_kd/student_checkpoint", None)
    assert publication.tags == ("miniplm_assets", "pre-training", "qwen2") and not publication.selections
    assert publication.learnt_from == "all candidates of the corpus"


def test_a_student_of_another_tokenizer_is_told_by_its_selection_too(tmp_path):
    content = yaml.safe_load(DEMO.read_text()) | {"warehouse": str(tmp_path / "warehouse")}
    content["tokenizers"]["other"] = {"source": "trained", "vocab_size": 512}
    content["students"]["foreign"] = {**content["students"]["miniplm"], "tokenizer": "other"}
    graph = open_pipeline(write_experiment(tmp_path / "experiment.yaml", content)).graph
    publication = publication_of(graph, "foreign/student_checkpoint", None)
    assert publication.learnt_from == "what the selection half keeps, in tokens of its own"
    assert publication.is_by_difference and publication.selections.keys() == {"half"}


@given(st.text())
def test_any_name_is_shown_as_it_is(text):
    shown = COMMONMARK.renderInline(plain(text))
    assert shown == escapeHtml(" ".join(text.replace("\0", "\ufffd").split()))


def test_a_table():
    rows = [("`a`", 1234, 0.5, 1e-9, None), (plain("x|y"), 0, 12345.678, True, ["z"])]
    assert table(["one", "two", "three", "four", "five"], rows).splitlines() == [
        "| one | two | three | four | five |",
        "|---|---|---|---|---|",
        "| `a` | 1,234 | 0.5000 | 1e-09 |  |",
        "| x\\|y | 0 | 1.235e+04 | True | \\['z'\\] |",
    ]


def test_a_corpus_of_many_domains_has_a_card_that_can_be_read():
    provenance = Provenance(
        key="half/refined_corpus",
        fingerprint="f" * 32,
        created_at="2026-01-01",
        versions={},
        files=(),
        ancestors=(
            Ancestor(key="half/refined_corpus", fingerprint="f" * 32, code_version="1", settings={}, inputs={}),
        ),
    )
    words = {"name": "half", "summary": "", "tags": (), "license_id": None, "repository": None, "corpus_id": "a/b"}
    shared = {**words, "made": {}, "is_by_difference": False, "provenance": provenance}
    shift = [
        {"domain": f"d{number}", "share_of_candidate_tokens": 0.5, "share_of_kept_tokens": None} for number in range(80)
    ]
    card = dataset_card(PublishedCorpus(**shared, columns={}, domain_shift=shift))
    assert "| d49 | 50.00% |  |" in card and "| d50 |" not in card and "30 more, of which less was kept" in card
    assert DatasetCard(card).data.source_datasets == ["extended|a/b"]
    measured = {"num_scored_tokens": 5, "nll_nats_per_token": 1.5, "perplexity": 4.5, "bits_per_byte": None}
    domains = [{**measured, "domain": f"d{number}", "num_scored_tokens": number} for number in range(80)]
    facts = {**measured, "over": "all domains", "by_domain": [*domains, {**measured, "domain": "all domains"}]}
    card = model_card(PublishedModel(**shared, seed=1, evaluations={1: facts}))
    shown = re.findall(r"^\| (d\d+|all domains) \|", card, re.MULTILINE)
    assert shown == [*(f"d{number}" for number in range(30, 80)), "all domains"] and "30 smaller domains" in card
    # What nothing was measured of has no result.
    assert [one.metric_type for one in ModelCard(card).data.eval_results] == ["nats_per_token"]
    assert ModelCard(card).data.datasets == ["a/b"]


def test_files_are_named_as_the_hub_names_them():
    assert published_files(["x/../y", "test.parquet"]) == {
        "x/../y": "data/train-00000-of-00002.parquet",
        "test.parquet": "data/train-00001-of-00002.parquet",
    }


@pytest.mark.parametrize(
    ("num_rows", "name"),
    [(0, "n<1K"), (999, "n<1K"), (1_000, "1K<n<10K"), (10**12 - 1, "100B<n<1T"), (10**12, "n>1T")],
)
def test_sizes(num_rows, name):
    assert size_category(num_rows) == name


def test_a_column_without_a_name_in_croissant():
    import pyarrow as pa

    from miniplm_assets.publishing import croissant

    with pytest.raises(PublishingError, match=r"column when is of type timestamp\[us\]"):
        croissant._column(pa.field("when", pa.timestamp("us")), "")


# Sent to a hub; what goes over the network, test_push looks at.


def test_an_export_is_pushed_once_it_is_complete(stored, tmp_path, monkeypatch, capfd):
    secret = "hf_" + "S3cretT0ken" * 3
    calls = []

    class Api:
        def __init__(self, token):
            assert token == secret

        def create_repo(self, repo_id, **_):
            calls.append(repo_id)
            return type("Url", (str,), {"repo_id": repo_id})("https://hub/me/half")

        def upload_folder(self, *, repo_id, folder_path, repo_type, **_):
            calls.append((repo_id, repo_type, everything_in(folder_path)))

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setenv("HF_TOKEN", secret)
    for what, kind in (("refined/half", "dataset"), ("student/miniplm/1", "model")):
        out = tmp_path / kind
        assert main(["export", what, str(out), str(stored[0]), "--push", "me/half"]) == 0
        assert calls[-2:] == ["me/half", ("me/half", kind, everything_in(out))]
        assert '"me/half"' in (out / "README.md").read_text()  # how it is loaded
    printed = "".join(capfd.readouterr())
    assert "https://hub/me/half" in printed and secret not in printed
    assert json.loads((tmp_path / "dataset" / "croissant.json").read_text())["url"].endswith("/datasets/me/half")
    for path in [*tmp_path.rglob("*"), *stored[0].parent.rglob("*")]:
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path


# As assets.


def test_assets_of_the_same_are_there_only_where_asked_for_and_hold_the_same(copy, student, corpus, stored):
    def materialise(publishing, selection):
        path = write_experiment(copy, {**yaml.safe_load(stored[0].read_text()), **publishing, "warehouse": "warehouse"})
        pipeline = open_pipeline(path)
        with dg.DagsterInstance.ephemeral() as instance:
            dg.materialize(build_assets(pipeline), instance=instance, selection=selection)
        return pipeline

    kinds = {node.kind.name for node in stored[1].graph.values()}
    assert not kinds & {"exported_student", "exported_corpus"}
    selections = {"half": {"license": "cc0-1.0"}}
    pipeline = materialise(
        {"publishing": {"students": {"miniplm": {}}, "selections": selections}},
        'key:"miniplm/exported_student" or key:"half/exported_corpus"',
    )
    folder = result_of(pipeline, "miniplm/exported_student").folder
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "seed_1", "seed_2"]
    assert everything_in(folder / "seed_2") == everything_in(student)
    folder = result_of(pipeline, "half/exported_corpus").folder
    found = everything_in(folder)
    assert found.pop("manifest.json") and found == everything_in(corpus)
    for path in folder.rglob("*"):
        assert not path.is_file() or str(stored[0].parent).encode() not in path.read_bytes()


@pytest.mark.parametrize(
    ("publishing", "said"),
    [
        ({"students": {"minplm": {}}}, "publishing.students 'minplm' is not in this file; did you mean 'miniplm'?"),
        ({"selections": {"hlaf": {}}}, "publishing.selections 'hlaf' is not in this file; did you mean 'half'?"),
        ({"selections": {"half": {"license": "Apache 2.0"}}}, "publishing.selections.half.license"),
        ({"students": {"miniplm": {"licence": "mit"}}}, "did you mean 'license'?"),
    ],
)
def test_what_publishing_names_must_be_there(publishing, said, tmp_path):
    path = write_experiment(
        tmp_path / "experiment.yaml", tiny_experiment(tmp_path, tmp_path / "wh", publishing=publishing)
    )
    with pytest.raises(ExperimentError, match=re.escape(said)):
        open_pipeline(path)
