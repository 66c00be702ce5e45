"""The commands, as a person calls them."""

import fcntl
import importlib.metadata
import json
import socket
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from miniplm_assets.cli import main
from miniplm_assets.core.recipe import Recipe, fingerprint_of
from miniplm_assets.corpus.tokenizer import train_tokenizer
from miniplm_assets.kinds.registry import DEMO, PROJECT, WAREHOUSE_VARIABLE, open_pipeline
from miniplm_assets.lineage.fingerprints import RAW_CORPUS, Fingerprints
from miniplm_assets.lineage.folders import FolderFingerprints
from miniplm_assets.lineage.plan import plan
from miniplm_assets.lineage.snapshot import look, make_latest, write_listing
from miniplm_assets.lm.device_speed import DeviceSpeed
from miniplm_assets.storage import leases
from miniplm_assets.storage.curves import EventFile, curves_folder
from tests.corpora import tiny_experiment, write_experiment, write_shard

PAPER = PROJECT / "experiments" / "paper.yaml"


def silent(_line):
    """Take a line of progress."""


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """The file of a tiny experiment whose corpus has been looked at."""
    monkeypatch.delenv(WAREHOUSE_VARIABLE, raising=False)
    write_shard(tmp_path / "corpus" / "a.jsonl", ("bisect",))
    path = tmp_path / "experiment.yaml"
    write_experiment(path, tiny_experiment(tmp_path / "corpus", tmp_path / "warehouse"))
    see(open_pipeline(path))
    return path


def store_something(store, recipe):
    return store.make(recipe, lambda draft: draft.path.joinpath("note.txt").write_text(recipe.key))


def documents_recipe(pipeline):
    snapshot = look(pipeline.graph[RAW_CORPUS], pipeline.store, silent)
    return pipeline.fingerprints(snapshot).pieces("documents")["a.jsonl"]


def test_the_plan_of_the_paper_needs_no_network(tmp_path, monkeypatch, capsys):
    def refuse(*_args, **_keywords):
        raise AssertionError("a plan asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv(WAREHOUSE_VARIABLE, str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["plan", str(PAPER)]) == 0
    printed = capsys.readouterr().out
    pipeline = open_pipeline(PAPER, warehouse=str(tmp_path))
    # After the totals; a name that is too wide for its column stands above its figures.
    lines = iter(printed.split("\n\n")[1].splitlines())
    rows = {line.split()[0]: line.split()[1:] or next(lines).split() for line in lines}
    assert set(pipeline.graph) <= set(rows)
    # 105B tokens without the reference's 5 %, through 1,836,828,672 parameters twice; how long, this machine decides.
    todo, tokens, flops, time, unit, *disk = rows["qwen_1800m/teacher_scores"]
    assert [todo, tokens, flops, *disk] == ["?", "99.8G", "3.7e20", "1.9", "GB"]
    assert float(time.replace(",", "")) > 0 and unit in ("h", "days")
    assert max(map(len, printed.splitlines())) <= 80
    step = next(step for step in plan(pipeline) if step.key == "qwen_1800m/teacher_scores")
    assert step.flops == pytest.approx(2 * 1_836_828_672 * 99_750_000_000, rel=1e-9)
    assert "nothing of it has been seen so far" in " ".join(printed.split())


def test_a_plan_sees_the_corpus_as_it_is_and_leaves_the_latest_alone(experiment, tmp_path):
    pipeline = open_pipeline(experiment)
    latest = next((tmp_path / "warehouse" / RAW_CORPUS).glob(".latest-*"))
    before = latest.read_bytes()
    assert plan(pipeline)[0].is_complete
    write_shard(tmp_path / "corpus" / "b.jsonl", ("heapq",))
    listing, documents = plan(pipeline)[:2]
    assert (listing.key, listing.num_missing, listing.reasons) == (RAW_CORPUS, 1, ("input b.jsonl is new",))
    assert (documents.key, documents.num_missing) == ("documents", 2)
    assert latest.read_bytes() == before


def test_a_plan_without_its_corpus_says_what_it_rests_on(experiment, tmp_path):
    pipeline = open_pipeline(experiment)
    (tmp_path / "corpus").rename(tmp_path / "gone")
    listing, documents = plan(pipeline)[:2]
    assert listing.is_complete
    assert listing.reasons[0].startswith("corpus.source.path ")
    assert listing.reasons[0].endswith("this is for the corpus as it was seen last")
    assert documents.num_missing == 1 and documents.reasons == ("never computed",)


def test_a_plan_names_what_differs_from_the_nearest_result_of_the_same_file(experiment, tmp_path):
    pipeline = open_pipeline(experiment)
    wanted = documents_recipe(pipeline)
    store_something(pipeline.store, replace(wanted, settings={**wanted.settings, "seed": 99}))
    store_something(pipeline.store, replace(wanted, code_version="0", settings={**wanted.settings, "seed": 98}))
    store_something(pipeline.store, replace(wanted, shard="c.jsonl"))  # of another file, and so no neighbour
    write_shard(tmp_path / "corpus" / "b.jsonl", ("heapq",))
    documents = plan(pipeline)[1]
    assert documents.reasons == ("settings.seed: 99 -> 3", "new file b.jsonl")
    assert (documents.num_stored, documents.num_missing) == (0, 2)


def without_speed(monkeypatch):
    """Let no model be timed."""
    monkeypatch.setattr(DeviceSpeed, "seconds", lambda *_: 1.0)
    monkeypatch.setattr(DeviceSpeed, "describe", lambda _: "a device")
    monkeypatch.setenv("COLUMNS", "80")


def test_a_plan_says_each_reason_once_and_the_same_to_a_program(experiment, monkeypatch, capsys):
    without_speed(monkeypatch)
    assert main(["plan", str(experiment)]) == 0
    printed = capsys.readouterr().out
    assert main(["plan", str(experiment), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    left = [one for one in told["assets"] if one["num_missing"]]
    assert printed.count("never computed") == 1 and f"never computed: all {len(left)}" in " ".join(printed.split())
    assert printed.startswith(f"{told['num_complete']} of {told['num_assets']} assets are stored; the rest takes ")
    assert told["num_complete"] == told["num_assets"] - len(left) == 1  # the listing
    assert told["flops"] == sum(one["flops"] or 0 for one in left) > 0
    assert told["device"] == "a device" and len(told["remade_by_a_new_file"]) == 3
    assert max(map(len, printed.splitlines())) <= 80


def test_the_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out.split() == ["miniplm_assets", importlib.metadata.version("miniplm_assets")]


def everything_in(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("source", ["jsonl", "demo"])
def test_a_plan_writes_nothing_at_all(source, tmp_path, monkeypatch):
    """Also where the corpus was never seen, and a model and a tokenizer lie in folders that were never read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    write_shard(tmp_path / "corpus" / "a.jsonl", ("bisect",))
    content = tiny_experiment(tmp_path / "corpus", tmp_path / "warehouse")
    copied_model(tmp_path / "model", num_values=(3, 4))
    content["teachers"]["large"]["model"] = {"source": "folder", "path": str(tmp_path / "model")}
    content["tokenizers"]["bpe"] = {"source": "folder", "path": str(copied_tokenizer(tmp_path / "tokenizer"))}
    if source == "demo":
        content["corpus"]["source"] = {"type": "demo", "megabytes": 0.01}
    path = write_experiment(tmp_path / "experiment.yaml", content)
    before = everything_in(tmp_path)
    assert main(["plan", str(path)]) == 0
    assert everything_in(tmp_path) == before


def copied_model(folder, *, num_values):
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    save_file({"one": np.zeros(num_values, np.float16), "two": np.zeros(2, np.float32)}, folder / "model.safetensors")


def copied_tokenizer(folder):
    folder.mkdir()
    train_tokenizer(iter(["some text " * 9]), vocab_size=260, folder=folder)
    return folder


def test_a_plan_counts_a_folders_tokenizer_and_model_as_they_are(tmp_path):
    write_shard(tmp_path / "corpus" / "a.jsonl", ("bisect",))
    content = tiny_experiment(tmp_path / "corpus", tmp_path / "warehouse")
    content["teachers"]["large"]["model"] = {"source": "folder", "path": str(tmp_path / "model")}
    content["tokenizers"]["bpe"] = {"source": "folder", "path": str(copied_tokenizer(tmp_path / "tokenizer"))}
    copied_model(tmp_path / "model", num_values=(3, 4))
    asked = {}
    pipeline = open_pipeline(write_experiment(tmp_path / "experiment.yaml", content))
    planned = {one.key: one for one in plan(pipeline, lambda one: asked.setdefault(one.num_parameters, 0.0) or 1.0)}
    scores = planned["large/teacher_scores"]
    assert scores.flops == 2 * (3 * 4 + 2) * scores.num_tokens  # a forward pass through each value that is stored
    # A layer of 32 and 64 with two heads: query, key, value with biases, output; gate, up, down; two norms.
    layer = 3 * (32 * 32 + 32) + 32 * 32 + 3 * 32 * 64 + 2 * 32
    assert set(asked) == {14, 260 * 32 + layer + 32}  # tied embeddings, and the last norm


def test_a_plan_knows_tokens_flops_and_time_of_scoring_before_the_first_run(experiment, tmp_path):
    lines = (tmp_path / "corpus" / "a.jsonl").read_text().splitlines()
    text_bytes = sum(len(json.loads(line)["text"].encode()) for line in lines)
    passes = []
    planned = {one.key: one for one in plan(open_pipeline(experiment), lambda one: passes.append(one) or 10.0)}
    for key in ("large/teacher_scores", "small/reference_scores"):
        scores = planned[key]
        assert scores.seconds == 10.0 and not scores.is_measured and scores.flops > 0
        # A little over one byte a token with 300 entries; 60 % are candidates, 10 % validation.
        assert 0.5 < scores.num_tokens / (0.7 * text_bytes) < 1.0
    student = planned["no_kd/student_checkpoint"]
    assert student.seconds == 20.0  # trained, and measured three times on the whole validation split, so small is it
    validation_tokens = planned["no_kd/student_evaluation"].num_tokens
    assert {(one.is_training, one.num_tokens) for one in passes} >= {(True, 6_000), (False, 3 * validation_tokens)}


def test_a_plan_says_in_a_line_what_makes_a_new_file_dear(experiment, monkeypatch, capsys):
    without_speed(monkeypatch)
    assert main(["plan", str(experiment)]) == 0
    line = " ".join(capsys.readouterr().out.partition("A new corpus file will be dear: ")[2].split())
    # Sequences and both scores; the documents depend on no model.
    assert "bpe/tokenizer, large/teacher_model, small/reference_model" in line and "all of 3 assets" in line
    assert main(["plan", str(DEMO)]) == 0
    assert "dear" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "files", "added"),
    [
        (DEMO, [f"shard-{number:04d}.jsonl" for number in range(4)], "shard-0004.jsonl"),
        (PAPER, [f"{number:02d}.jsonl.zst" for number in range(30)], "30.jsonl.zst"),
    ],
    ids=["demo", "paper"],
)
def test_a_new_file_of_the_shipped_experiments_costs_itself(path, files, added, tmp_path):
    """No model is another one, no stored result of another file is, and those of all files learn from all of them."""
    pipeline = open_pipeline(path, warehouse=str(tmp_path))

    def fingerprints(names):
        return Fingerprints(pipeline.graph, {name: fingerprint_of(name) for name in names}, FolderFingerprints(None))

    before, after = fingerprints(files), fingerprints([*files, added])
    for key, node in pipeline.graph.items():
        if node.kind.name.endswith(("tokenizer", "teacher_model", "reference_model", "proxy_model")):
            assert after.recipe(key).fingerprint == before.recipe(key).fingerprint, key
            assert not node.inputs or before.matching_shards(node) == files
        elif node.kind.name == "surviving_teacher_scores":
            # What survives follows from all files; the scores are taken from those of everything, by no model.
            assert node.settings.whole in pipeline.graph, key
        elif node.kind.pieces == "shard" and "agreement" not in node.kind.name:
            changed = {name for name, recipe in after.pieces(key).items() if before.pieces(key).get(name) != recipe}
            assert changed == {added}, key


def test_prune_lists_first_and_deletes_what_nobody_refers_to_when_told(experiment, capsys):
    pipeline = open_pipeline(experiment)
    store = pipeline.store
    wanted = documents_recipe(pipeline)
    kept = store_something(store, wanted)
    store_something(store, pipeline.latest_fingerprints().recipe("documents"))
    old = store_something(store, Recipe(kind="documents", code_version="an older one"))
    work = store.root / ".work"
    gone = [work / f"sequences-{'a' * 32}", store.root / "bpe" / "sequences" / ("c" * 32)]
    in_use = work / f"sequences-{'d' * 32}"
    to_go_on = work / f"tokenizer-{_tokenizer_fingerprint(pipeline)}"
    for folder in (*gone, in_use, to_go_on):
        folder.mkdir(parents=True)
        (folder / "part").write_bytes(bytes(10_000))
    with (in_use / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["prune", str(experiment)]) == 0
        printed = capsys.readouterr().out
        for folder in (old.folder, *gone):
            assert str(folder) in printed and folder.exists()
        for folder in (kept.folder, in_use, to_go_on):
            assert str(folder) not in printed
        assert "1 results that no given experiment refers to" in printed and "2 leftovers, 0.02 MB" in printed
        assert "repeat with --delete" in printed
        assert main(["prune", str(experiment), "--json"]) == 0
        listed = json.loads(capsys.readouterr().out)
        assert [row["folder"] for row in listed["results"]] == [str(old.folder)] and not listed["is_deleted"]
        assert listed["leftovers"] == [{"folder": str(folder), "num_bytes": 10_000} for folder in gone]

        with leases.in_use(store.root, pytest.fail):
            assert main(["prune", str(experiment), "--delete"]) == 2
            assert "a run is using the warehouse" in capsys.readouterr().err
            assert old.folder.exists()
        assert main(["prune", str(experiment), "--delete"]) == 0
    for folder in (old.folder, *gone):
        assert not folder.exists()
    for folder in (kept.folder, in_use, to_go_on):
        assert folder.exists()
    assert store.find(wanted) is not None


def test_prune_deletes_the_curves_of_other_results_alone(experiment, capsys):
    pipeline = open_pipeline(experiment)
    scores = pipeline.latest_fingerprints().recipe("large/teacher_scores")
    older = replace(scores, code_version="an older one")
    kept, old = (curves_folder(pipeline.store.root, recipe) for recipe in (scores, older))
    for folder in (kept, old):
        with EventFile(folder, pytest.fail) as file:
            file.add(1, {"loss": 2.0})
    assert main(["prune", str(experiment)]) == 0
    printed = capsys.readouterr().out
    assert str(old) in printed and str(kept) not in printed and "1 curves of others" in printed
    assert main(["prune", str(experiment), "--delete"]) == 0
    assert list(kept.iterdir()) and not old.exists()


def test_prune_straight_after_a_change_of_the_corpus_offers_nothing_that_has_no_successor(experiment, tmp_path, capsys):
    """Every model learns from every file here, so that a new file makes each of them another one."""
    pipeline = open_pipeline(experiment)
    store = pipeline.store
    before = pipeline.latest_fingerprints()
    old = store_something(store, before.recipe("large/teacher_model"))
    tokenizer = store_something(store, before.recipe("bpe/tokenizer"))
    scores = store_something(store, before.pieces("large/teacher_scores")["a.jsonl"])
    write_shard(tmp_path / "corpus" / "b.jsonl", ("heapq",))
    see(pipeline)
    assert main(["prune", str(experiment)]) == 0
    printed = capsys.readouterr().out
    for kept in (old, tokenizer, scores):
        assert str(kept.folder) not in printed
    store_something(store, pipeline.latest_fingerprints().recipe("large/teacher_model"))
    assert main(["prune", str(experiment)]) == 0
    printed = capsys.readouterr().out
    assert str(old.folder) in printed and str(tokenizer.folder) not in printed


def see(pipeline):
    node = pipeline.graph[RAW_CORPUS]
    snapshot = look(node, pipeline.store, silent)
    pipeline.store.make(snapshot.recipe, partial(write_listing, snapshot))
    make_latest(snapshot, node, pipeline.store)


def _tokenizer_fingerprint(pipeline):
    snapshot = look(pipeline.graph[RAW_CORPUS], pipeline.store, silent)
    return pipeline.fingerprints(snapshot).recipe("bpe/tokenizer").fingerprint


def test_verify_goes_on_after_damage(experiment, capsys):
    pipeline = open_pipeline(experiment)
    assert main(["verify", str(experiment)]) == 0
    assert "all is well" in capsys.readouterr().out
    unreadable = store_something(pipeline.store, Recipe(kind="documents", code_version="1"))
    (unreadable.folder / "manifest.json").write_text("{")
    changed = store_something(pipeline.store, Recipe(kind="sequences", names=("bpe",), code_version="1"))
    (changed.folder / "note.txt").write_text("another..txt!")
    assert main(["verify", str(experiment)]) == 1
    wrong = [line for line in capsys.readouterr().out.splitlines() if line.startswith("WRONG")]
    assert len(wrong) == 2
    assert any(str(changed.folder / "note.txt") in line for line in wrong)
    assert any(str(unreadable.folder) in line for line in wrong)
    assert main(["verify", str(experiment), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["problems"] == [line.removeprefix("WRONG ") for line in wrong]


def test_an_experiment_that_does_not_exist(tmp_path, capsys):
    assert main(["plan", str(Path(tmp_path) / "nowhere.yaml")]) == 2
    assert "nowhere.yaml does not exist" in capsys.readouterr().err


def test_forget_says_what_is_made_anew_and_refuses_while_a_run_is_at_work(experiment, capsys):
    pipeline = open_pipeline(experiment)
    recipe = documents_recipe(pipeline)
    assert main(["forget", "documents", str(experiment)]) == 2
    assert "nothing is stored of documents" in capsys.readouterr().err
    stored = store_something(pipeline.store, recipe)
    with leases.in_use(pipeline.store.root, silent):
        assert main(["forget", "documents", str(experiment), "--shard", "a.jsonl"]) == 2
    assert "a run is using the warehouse" in capsys.readouterr().err and stored.folder.exists()
    assert main(["forget", "documents", str(experiment), "--shard", "a.jsonl"]) == 0
    assert "documents (shard a.jsonl): set aside; the next run makes it anew" in capsys.readouterr().out
    assert open_pipeline(experiment).store.find(recipe) is None
    store_something(pipeline.store, recipe)
    assert main(["forget", "documents", str(experiment), "--shard", "a.jsonl", "--json"]) == 0
    again = [{"key": "documents", "shard": "a.jsonl", "fingerprint": recipe.fingerprint}]
    assert json.loads(capsys.readouterr().out) == {"again": again, "waiting": []}
