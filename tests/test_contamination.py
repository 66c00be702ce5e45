"""Which documents share words with what models are measured by, against going through all pairs."""

import json
import random
import re
import shutil

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miniplm_assets.core.errors import CorpusError, ExperimentError, ModelError
from miniplm_assets.core.splits import split_of
from miniplm_assets.corpus.contamination import Protected, ngrams_of, protect_texts, texts_of_file
from miniplm_assets.experiment import load_experiment
from miniplm_assets.kinds.registry import open_pipeline
from tests.corpora import tiny_experiment, write_experiment
from tests.test_duplicates import make

WORDS = ["One", "two,", "three.", "FOUR", "five-six", "7", "naïve", "数据"]
texts = st.lists(st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join), max_size=6)


def runs_of(text, num_words):
    """Letters and digits between anything else, without case; an ideograph is a word."""
    words = re.findall(r"[数据]|[a-z0-9ï]+", text.lower())
    return [" ".join(words[place : place + num_words]) for place in range(len(words) - num_words + 1)]


@settings(max_examples=60, deadline=None)
@given(texts, texts, st.integers(2, 4))
def test_what_is_found_is_what_all_pairs_share(protected_texts, looked_for, num_words):
    protected, names = Protected(num_words), {}
    for place, text in enumerate(protected_texts):
        short = protect_texts(protected, [text], num_words=num_words, found_in=f"text {place}")
        assert short == (not runs_of(text, num_words))
        for run in runs_of(text, num_words):
            names.setdefault(run, f"text {place}")
    assert len(protected) == len(names)
    for text, found in zip(looked_for, protected.find(looked_for), strict=True):
        shared = [run for run in runs_of(text, num_words) if run in names]
        if not shared:
            assert found is None
        else:
            assert (found.ngram, found.found_in, found.num_ngrams) == (shared[0], names[shared[0]], len(shared))


def test_no_run_goes_from_one_text_into_the_next():
    runs = ngrams_of(["a b", "c d e", "", "f"], 2)
    assert list(zip(runs.owners.tolist(), runs.places.tolist(), strict=True)) == [(0, 0), (1, 0), (1, 1)]
    assert len(np.unique(runs.hashes)) == 3


def test_what_is_protected_is_read_as_it_was_written(tmp_path):
    protected = Protected(2)
    for name in ("b", "a"):
        protect_texts(protected, [f"{name} x y", "x y z"], num_words=2, found_in=name)
    protected.write(tmp_path / "some.parquet")
    again = Protected(2)
    again.read(tmp_path / "some.parquet")
    asked = ["a x", "b x", "y z", "z y"]
    assert again.find(asked) == protected.find(asked)
    assert [found and found.found_in for found in again.find(asked)] == ["a", "b", "b", None]


def test_every_string_of_a_benchmark_counts(tmp_path):
    path = tmp_path / "some.jsonl"
    path.write_text('{"q": "one", "choices": ["two", {"text": "three"}], "n": 4}\n\n"four"\n')
    assert list(texts_of_file(path)) == ["one", "two", "three", "four"]
    path.write_text('{"q": "one"}\n{"q": \n')
    with pytest.raises(CorpusError, match=r"some\.jsonl, line 2: corpus\.decontamination expects JSON"):
        list(texts_of_file(path))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CorpusError, match="expects UTF-8"):
        list(texts_of_file(path))


SHARES = {"validation": 0.1, "reference": 0.2, "teacher": 0.2}


def write_corpus(folder, *names):
    """Files of 60 texts of few words, so that many share a run of 5; and a benchmark."""
    folder.joinpath("corpus").mkdir(exist_ok=True)
    folder.joinpath("evals/arc").mkdir(parents=True, exist_ok=True)
    written = {}
    for name in names:
        generator = random.Random(name)
        rows = [
            " ".join(f"w{generator.randrange(12)}" for _ in range(generator.randrange(4, 40)))
            + {5: ". W1 w2 w3 (w4)", 6: ", w8 w7 w6 w5"}.get(number % 20, "")
            + f" {name}{number}"
            for number in range(60)
        ]
        lines = [json.dumps({"text": text, "meta": {"source": "web"}}) for text in rows]
        (folder / "corpus" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        written[name] = rows
    (folder / "evals/arc/test.jsonl").write_text(json.dumps({"question": "W1 w2, w3 w4!", "answer": "w5 w6 w7 w8"}))
    (folder / "evals/notes.txt").write_text("w8 w7 w6 w5")
    return written


def experiment(folder, **decontamination):
    content = tiny_experiment(folder / "corpus", folder / "warehouse", evaluation={})
    content["corpus"]["decontamination"] = {
        "ngram": 4,
        "against": ["validation", "evals/**/*.jsonl", "evals/notes.txt"],
        **decontamination,
    }
    return write_experiment(folder / "experiment.yaml", content)


def contaminated(written):
    """(file, line) of each text that shares a run with validation, of its file or one before, or with a benchmark."""
    protected = {"w1 w2 w3 w4", "w5 w6 w7 w8", "w8 w7 w6 w5"}
    found = set()
    for name in sorted(written):
        splits = [split_of(text, shares=SHARES, seed=3) for text in written[name]]
        for text, split in zip(written[name], splits, strict=True):
            if split == "validation":
                protected |= set(runs_of(text, 4))
        for line, (text, split) in enumerate(zip(written[name], splits, strict=True), 1):
            if split != "validation" and protected & set(runs_of(text, 4)):
                found.add((f"{name}.jsonl", line))
    return found


def read(pipeline, key, file):
    pieces = pipeline.latest_fingerprints().pieces(key).values()
    return pl.concat(pl.read_parquet(pipeline.store.require(piece).file(file)) for piece in pieces)


def keys_of(rows):
    return set(rows.select("shard", "line").iter_rows())


def make_all(path):
    pipeline = open_pipeline(path)
    return pipeline, {key: make(pipeline, key) for key in KEYS}


KEYS = ("raw_corpus", "protected_ngrams", "documents", "contaminated_documents")


def test_contaminated_documents_are_counted_or_removed_and_a_new_file_costs_itself(tmp_path):
    written = write_corpus(tmp_path, "a", "c")
    counting, _ = make_all(experiment(tmp_path))
    expected = contaminated(written)
    assert 5 < len(expected) < 100
    listed = read(counting, "contaminated_documents", "contaminated.parquet")
    documents = read(counting, "documents", "documents.parquet")
    assert keys_of(listed) == expected and len(documents) == 120
    ids = {(row["shard"], row["line"]): row["document_id"] for row in documents.iter_rows(named=True)}
    texts = {(row["shard"], row["line"]): row["text"] for row in documents.iter_rows(named=True)}
    for row in listed.iter_rows(named=True):
        place = row["shard"], row["line"]
        assert row["document_id"] == ids[place] and row["ngram"] in runs_of(texts[place], 4)
    assert {"validation", "arc/test.jsonl", "notes.txt"} == set(listed["found_in"])

    removing, _ = make_all(experiment(tmp_path, action="remove"))
    stayed = read(removing, "documents", "documents.parquet")
    rejected = read(removing, "documents", "rejected.parquet")
    assert keys_of(rejected) == expected and set(rejected["reason"]) == {"contaminated"}
    assert keys_of(stayed) == {(f"{name}.jsonl", line) for name in written for line in range(1, 61)} - expected
    columns = ["shard", "line", "domain", "split", "found_in", "ngram", "num_ngrams"]
    list_of_removed = read(removing, "contaminated_documents", "contaminated.parquet")
    assert list_of_removed.select(columns).equals(listed.select(columns))
    facts = [
        pipeline.store.require(pipeline.latest_fingerprints().recipe("contaminated_documents")).facts
        for pipeline in (counting, removing)
    ]
    assert facts[0]["contaminated_share"] == facts[1]["contaminated_share"]
    looked_at = 120 - documents.filter(split="validation").height
    assert facts[0]["num_held_against_protected"] == looked_at
    assert facts[0]["contaminated_share"] == len(expected) / looked_at
    of_documents = removing.store.require(removing.latest_fingerprints().recipe("documents")).facts
    assert of_documents["num_documents"] + of_documents["num_contaminated"] == 120

    # A file behind all others is read alone; one between them has those behind it looked at again.
    written |= write_corpus(tmp_path, "d")
    again, computed = make_all(experiment(tmp_path, action="remove"))
    assert [computed[key] for key in KEYS[1:]] == [0, 1, 1]
    written |= write_corpus(tmp_path, "b")
    again, computed = make_all(experiment(tmp_path, action="remove"))
    assert [computed[key] for key in KEYS[1:]] == [0, 3, 3]
    assert keys_of(read(again, "contaminated_documents", "contaminated.parquet")) == contaminated(written)
    again, _ = make_all(experiment(tmp_path))
    assert keys_of(read(again, "contaminated_documents", "contaminated.parquet")) == contaminated(written)


def test_a_benchmark_that_changes_is_another_one_and_one_that_moves_is_not(tmp_path):
    write_corpus(tmp_path, "a")
    make_all(experiment(tmp_path, against=["evals/**/*.jsonl"]))
    shutil.move(tmp_path / "evals", tmp_path / "moved")
    _, computed = make_all(experiment(tmp_path, against=["moved/**/*.jsonl"]))
    assert [computed[key] for key in KEYS[1:]] == [0, 0, 0]
    (tmp_path / "moved/arc/test.jsonl").write_text('"w1 w1 w1 w1"')
    _, computed = make_all(experiment(tmp_path, against=["moved/**/*.jsonl"]))
    assert [computed[key] for key in KEYS[1:]] == [1, 0, 1]  # the documents are counted, and stay as they are
    _, computed = make_all(experiment(tmp_path, against=["moved/**/*.jsonl"], action="remove"))
    assert [computed[key] for key in KEYS[1:]] == [0, 1, 1]


def test_duplicates_and_languages_go_with_it(tmp_path):
    written = write_corpus(tmp_path, "a")
    rows = [*written["a"], written["a"][10], "ein zwei " + written["a"][11]]
    lines = [json.dumps({"text": text}) for text in rows]
    (tmp_path / "corpus/a.jsonl").write_text("\n".join(lines) + "\n")
    path = experiment(tmp_path, action="remove")
    path.write_text(
        path.read_text().replace(
            "decontamination:", "cleaning: {duplicates: exact, languages: ['*']}\n  decontamination:"
        )
    )
    pipeline, _ = make_all(path)
    documents, rejected = (read(pipeline, "documents", f"{name}.parquet") for name in ("documents", "rejected"))
    assert len(documents) + len(rejected) == 62
    assert keys_of(rejected.filter(reason="contaminated")) == contaminated({"a": rows})
    assert documents["language"].null_count() == 0
    facts = pipeline.store.require(pipeline.latest_fingerprints().recipe("documents")).facts
    assert sum(facts["documents_per_language"].values()) == len(documents)
    twins = rejected.filter(pl.col("twin_id").is_not_null())
    assert set(twins["twin_id"]) <= set(documents["document_id"])


@pytest.mark.parametrize(
    ("against", "error", "message"),
    [
        (["nothing/*.jsonl"], ModelError, r"no file matches .*nothing/\*\.jsonl; correct the path"),
        (["evals/*"], None, None),
        (["evals/some.csv"], ExperimentError, r"some\.csv: expected validation, or files whose names end in"),
        ([], ExperimentError, "decontamination.against"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, against, error, message):
    write_corpus(tmp_path, "a")
    path = experiment(tmp_path, against=against)
    if error is None:
        make_all(path)
    elif error is ExperimentError:
        with pytest.raises(error, match=message):
            load_experiment(path)
    else:
        with pytest.raises(error, match=message):
            make_all(path)
