"""Documents that are there twice: which one stays, who its twin is, and what a new file costs."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest

from miniplm_assets.core.errors import CorpusError
from miniplm_assets.corpus.buckets import Buckets
from miniplm_assets.corpus.duplicates import NO_TWIN, KeptDocuments
from miniplm_assets.corpus.hashes import Hashes
from miniplm_assets.kinds.registry import open_pipeline
from miniplm_assets.lineage.work import Work
from tests.corpora import MODULES, tiny_experiment, write_experiment, write_shard
from tests.test_lineage import changed_keys, fingerprints  # noqa: F401 - a fixture
from tests.test_work import TestRun


def test_buckets_find_every_number_of_a_hash() -> None:
    generator = np.random.default_rng(0)
    buckets = Buckets()
    by_hash: dict[int, list[int]] = {}
    first = 0
    for size in generator.integers(0, 400, 60).tolist():
        hashes = generator.integers(0, 300, size, dtype=np.uint32) * np.uint32(14_316_557)
        numbers = np.arange(first, first + size)
        buckets.add(hashes, numbers)
        for key, number in zip(hashes.tolist(), numbers.tolist(), strict=True):
            by_hash.setdefault(key, []).append(number)
        first += size
    asked = np.arange(0, 320, dtype=np.uint32) * np.uint32(14_316_557)
    found: dict[int, list[int]] = {}
    for places, numbers in buckets.same(asked):
        for place, number in zip(places.tolist(), numbers.tolist(), strict=True):
            found.setdefault(int(asked[place]), []).append(number)
    assert {key: sorted(numbers) for key, numbers in found.items()} == by_hash
    assert list(Buckets().same(asked)) == []


def test_more_pairs_than_are_handed_out_at_once_are_all_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("miniplm_assets.corpus.buckets._MAX_PAIRS", 7)
    buckets = Buckets()
    buckets.add(np.full(50, 2**32 - 1, dtype=np.uint32), np.arange(50))
    asked = np.array([2**32 - 1, 5, 2**32 - 1], dtype=np.uint32)
    pairs = [pair for places, numbers in buckets.same(asked) for pair in zip(places, numbers, strict=True)]
    assert sorted(pairs) == [(place, number) for place in (0, 2) for number in range(50)]


@pytest.mark.parametrize("seed", range(5))
def test_the_first_of_equal_texts_stays(seed: int) -> None:
    """Against a dictionary, whatever the sizes of files and batches."""
    generator = random.Random(seed)
    texts = [f"text {generator.randrange(3_000)}" for _ in range(5_000)]
    kept, first_of, place, shard = KeptDocuments(None), {}, 0, 0
    while place < len(texts):
        shard += 1
        next_id = shard << 27
        kept.begin_shard(next_id)
        for _ in range(generator.randrange(4)):
            batch = texts[place : place + generator.randrange(700)]
            place += len(batch)
            twins = kept.twins(Hashes.of(batch, None))
            expected = []
            for text in batch:
                expected.append(first_of.get(text, NO_TWIN))
                if text not in first_of:
                    first_of[text] = next_id
                    next_id += 1
            assert twins.document_id.tolist() == expected
            assert (twins.is_exact == (np.array(expected) != NO_TWIN)).all()


def write_corpus(folder: Path, **files: list[Any]) -> None:
    folder.mkdir(exist_ok=True)
    for name, rows in files.items():
        lines = (json.dumps(row if isinstance(row, dict) else {"text": row, "meta": {"source": name}}) for row in rows)
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def experiment(folder: Path, **cleaning: Any) -> Path:
    content = tiny_experiment(folder / "corpus", folder / "warehouse", evaluation={})
    content["corpus"]["cleaning"] = cleaning
    return write_experiment(folder / "experiment.yaml", content)


def make(pipeline: Any, key: str) -> int:
    """Make an asset; return how many of its pieces were computed."""
    work = Work(pipeline, pipeline.graph[key], TestRun(pipeline))
    work.node.kind.make(work)
    return work.tally.num_computed


def materialise(experiment_file: Path) -> tuple[Any, int]:
    """Make the documents; return the pipeline, and how many files of them were computed."""
    pipeline = open_pipeline(experiment_file)
    make(pipeline, "raw_corpus")
    return pipeline, make(pipeline, "documents")


def tables(pipeline: Any) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The documents and the rejected rows of all files."""
    recipes = pipeline.latest_fingerprints().pieces("documents").values()
    folders = [pipeline.store.require(recipe).folder for recipe in recipes]
    documents, rejected = (
        pl.concat(pl.read_parquet(folder / f"{name}.parquet") for folder in folders)
        for name in ("documents", "rejected")
    )
    return documents, rejected


def first_ones(folder: Path) -> tuple[list[tuple[str, int]], dict[tuple[str, int], tuple[str, int]]]:
    """By brute force: (file, line) of those that stay, and the twin of every other row that has a text."""
    first_of: dict[str, tuple[str, int]] = {}
    twins = {}
    for path in sorted(folder.glob("*.jsonl"), key=lambda path: path.name):
        for line, row in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            text = json.loads(row)["text"]
            if text.strip():
                first = first_of.setdefault(text, (path.name, line))
                if first != (path.name, line):
                    twins[path.name, line] = first
    return list(first_of.values()), twins


def require_first_ones(pipeline: Any, folder: Path) -> None:
    documents, rejected = tables(pipeline)
    stay, twins = first_ones(folder)
    place_of = {row["document_id"]: (row["shard"], row["line"]) for row in documents.iter_rows(named=True)}
    assert sorted(place_of.values()) == sorted(stay)
    dropped = rejected.filter(pl.col("reason") == "exact_duplicate")
    assert {(row["shard"], row["line"]): place_of[row["twin_id"]] for row in dropped.iter_rows(named=True)} == twins
    assert set(dropped["similarity"]) <= {1.0}
    assert rejected.filter(pl.col("reason") != "exact_duplicate")["twin_id"].drop_nulls().is_empty()


def texts(seed: int, num_texts: int) -> list[str]:
    """Some texts twice, some alike."""
    generator = random.Random(seed)
    return [
        f"the text of {generator.randrange(40)} is followed by words that are the same in all of them but {last}"
        for last in (generator.randrange(4) for _ in range(num_texts))
    ]


ODD = ["", " \n\t", "一模一样的文字。", "一模一样的文字。", "a", "a ", "long " * 50_000, "long " * 50_000]


def test_a_file_more_costs_that_file_and_those_behind_it(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    write_corpus(corpus, b=texts(1, 100) + ODD, d=texts(2, 100))
    path = experiment(tmp_path, duplicates="exact")
    pipeline, computed = materialise(path)
    assert computed == 2
    require_first_ones(pipeline, corpus)
    assert materialise(path)[1] == 0
    write_corpus(corpus, e=texts(3, 100))
    pipeline, computed = materialise(path)
    assert computed == 1
    require_first_ones(pipeline, corpus)
    write_corpus(corpus, c=texts(4, 100))  # d and e come after it, and lose what it has
    pipeline, computed = materialise(path)
    assert computed == 3
    require_first_ones(pipeline, corpus)
    (corpus / "c.jsonl").unlink()  # and get it back
    pipeline, computed = materialise(path)
    assert computed == 0
    require_first_ones(pipeline, corpus)


@pytest.mark.parametrize("duplicates", ["exact", "near"])
def test_what_is_made_file_by_file_is_what_is_made_at_once(tmp_path: Path, duplicates: str) -> None:
    def digests(pipeline: Any) -> list[Any]:
        recipes = pipeline.latest_fingerprints().pieces("documents").values()
        return [pipeline.store.require(recipe).manifest.files for recipe in recipes]

    found = []
    for name, steps in (("slowly", ("abc")), ("at_once", ("c"))):
        folder = tmp_path / name
        folder.mkdir()
        for last in steps:
            upto = {letter: texts(ord(letter), 120) for letter in "abc"[: "abc".index(last) + 1]}
            write_corpus(folder / "corpus", **upto)
            pipeline, _ = materialise(experiment(folder, duplicates=duplicates))
        found.append(digests(pipeline))
    assert found[0] == found[1]
    reasons = set(tables(pipeline)[1]["reason"])
    assert reasons == {"exact_duplicate"} | ({"near_duplicate"} if duplicates == "near" else set())


def test_duplicates_are_counted_by_file_and_domain_and_are_no_bad_rows(tmp_path: Path) -> None:
    rows = [{"text": text, "meta": {"source": source}} for text, source in (("x", "web"), ("x", "web"), ("x", "code"))]
    write_corpus(tmp_path / "corpus", a=[*rows, ""], b=rows)
    pipeline, _ = materialise(experiment(tmp_path, duplicates="exact"))
    by_file = {
        shard: pipeline.store.require(recipe).facts
        for shard, recipe in pipeline.latest_fingerprints().pieces("documents").items()
    }
    assert by_file["a.jsonl"]["duplicates_per_domain"] == {"code": 1, "web": 1}
    assert by_file["b.jsonl"]["duplicates_per_domain"] == {"code": 1, "web": 2}  # nothing of it stays
    assert by_file["b.jsonl"]["num_documents"] == 0
    assert (by_file["a.jsonl"]["num_rejected"], by_file["a.jsonl"]["rejected_per_reason"]) == (1, {"empty": 1})
    whole = pipeline.store.require(pipeline.latest_fingerprints().recipe("documents")).facts
    assert whole["num_duplicates"] == 5 and whole["duplicates_per_reason"] == {"exact_duplicate": 5}


def test_a_folder_of_texts_names_the_file_of_a_duplicate(tmp_path: Path) -> None:
    for name, text in (("a/1.txt", "one"), ("a/2.txt", "one"), ("b/1.txt", "one"), ("b/2.txt", "two")):
        path = tmp_path / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    content = tiny_experiment(tmp_path / "corpus", tmp_path / "warehouse", evaluation={})
    content["corpus"] |= {"source": {"type": "text", "path": str(tmp_path / "corpus")}, "fields": {}}
    content["corpus"]["cleaning"] = {"duplicates": "exact"}
    pipeline, _ = materialise(write_experiment(tmp_path / "experiment.yaml", content))
    documents, rejected = tables(pipeline)
    assert rejected["file"].to_list() == ["a/2.txt", "b/1.txt"]
    first = documents.row(0, named=True)
    assert first["text"] == "one" and rejected["twin_id"].to_list() == [first["document_id"]] * 2


def test_a_bad_file_keeps_those_behind_it_from_being_read(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", a=["x"], c=["y"])
    (tmp_path / "corpus" / "b.jsonl").write_text("no json\n")
    with pytest.raises(CorpusError, match=r"b\.jsonl: none of its 1 rows is a document") as error:
        materialise(experiment(tmp_path, duplicates="exact"))
    assert "once this one is good" in "".join(error.value.__notes__)


def test_the_whole_graph_goes_on_with_one_of_each(tmp_path: Path) -> None:
    """With a file of which nothing stays."""
    content = tiny_experiment(tmp_path / "corpus", tmp_path / "warehouse", evaluation={})
    content["corpus"]["cleaning"] = {"duplicates": "exact"}
    for section in ("teachers", "references", "selections", "students"):
        del content[section]
    path = write_experiment(tmp_path / "experiment.yaml", content)
    corpus = tmp_path / "corpus"
    write_shard(corpus / "a.jsonl", MODULES[:5])
    shutil.copy(corpus / "a.jsonl", corpus / "b.jsonl")
    write_shard(corpus / "c.jsonl", MODULES[4:])  # one of them has been there
    pipeline, _ = materialise(path)
    for key in ("bpe/tokenizer", "bpe/sequences", "warehouse_catalog"):
        make(pipeline, key)
    require_first_ones(pipeline, corpus)
    stay, twins = first_ones(corpus)
    with duckdb.connect(str(tmp_path / "warehouse" / "warehouse.duckdb"), read_only=True) as catalog:

        def rows(query: str) -> list[Any]:
            return catalog.execute(query).fetchall()

        shown = rows(
            "select shard, line from rejected_documents where reason = 'exact_duplicate' and twin_id is not null"
        )
        assert sorted(shown) == sorted(twins)
        packed = rows("select distinct span.document_id from (select unnest(spans) as span from sequences)")
        assert sorted(packed) == sorted(rows("select document_id from documents")) and len(packed) == len(stay)
        assert {shard for (shard,) in rows("select distinct shard from sequences")} == {"a.jsonl", "c.jsonl"}


def test_a_cleaned_corpus_is_another_one_and_none_of_it_moves_by_a_later_file(fingerprints: Any) -> None:  # noqa: F811
    from tests.test_experiment import minimal

    content = minimal()
    content["corpus"]["cleaning"] = {"duplicates": "exact"}
    three = {"a.jsonl": "1" * 32, "b.jsonl": "2" * 32, "c.jsonl": "3" * 32}
    before = fingerprints(content, three)
    assert "documents a.jsonl" in changed_keys(before, fingerprints(minimal(), three))
    changed = changed_keys(before, fingerprints(content, {**three, "d.jsonl": "4" * 32}))
    assert not {key for key in changed if key.startswith("documents ")}
    changed = changed_keys(before, fingerprints(content, {"d.jsonl": "4" * 32, "bb.jsonl": "5" * 32, **three}))
    assert {key for key in changed if key.startswith("documents ")} == {"documents c.jsonl"}
