"""The work on one asset, on kinds that do next to nothing: what is computed, counted, put together and given up."""

import errno
import queue
import shutil
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pytest

from miniplm_assets.core.errors import DamagedResultError, MissingResultError, StoreError
from miniplm_assets.core.stop import Stop, Stopped
from miniplm_assets.experiment import Experiment
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.documents import DOCUMENTS
from miniplm_assets.kinds.raw_corpus import RAW_CORPUS
from miniplm_assets.kinds.registry import PROJECT
from miniplm_assets.lineage.graph import build_graph
from miniplm_assets.lineage.kind import Cost, Kind, Node
from miniplm_assets.lineage.piece_rows import noted_rows
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.plan import differences, plan
from miniplm_assets.lineage.snapshot import latest_snapshot
from miniplm_assets.lineage.verify import verify_derived
from miniplm_assets.lineage.work import Work
from miniplm_assets.lm.part_threads import PartThreads
from miniplm_assets.storage.sql_project import load_sql_project
from miniplm_assets.storage.store import Store

SQL = load_sql_project(PROJECT / "dbt_like_sql")


class Nothing(Settings):
    """Reads no setting."""


def nodes_of(kind, **node):
    return lambda _: [Node(kind=kind(), settings=Nothing(), **node)]


def never(_work):
    raise AssertionError("the tests make it themselves")


LENGTHS = Kind(
    name="lengths", code_version="1", section="corpus", technologies=frozenset(), description="", make=never,
    nodes=nodes_of(lambda: LENGTHS, inputs={"documents": "documents"}), pieces="shard", table="lengths.parquet",
)  # fmt: skip
LEARNT = Kind(
    name="learnt", code_version="1", section="student", technologies=frozenset(), description="", make=never,
    nodes=nodes_of(lambda: LEARNT, names=("one",), inputs={"lengths": "lengths"}, seeds=(7, 8)), pieces="seed",
    cost=lambda node, sizes, seeds: Cost(num_tokens=50 * len(seeds)),
)  # fmt: skip
SUMMARY = Kind(
    name="summary", code_version="1", section="reports", technologies=frozenset(), description="", make=never,
    nodes=nodes_of(
        lambda: SUMMARY, inputs={"learnt": "one/learnt", "lengths": "lengths", "listing": "raw_corpus"}, shards=("b*",)
    ),
    verify=lambda work: [(work.pipeline.store.require(work.recipe).folder / "note").read_text()],
    cost=lambda node, sizes, pieces: Cost(num_bytes=10 if pieces is None else 0),
)  # fmt: skip


@dataclass
class TestRun:
    """A run that keeps what it is told."""

    __test__ = False

    pipeline: Pipeline
    lines: list[str] = field(default_factory=list)
    makers: dict[str, Iterator[str]] = field(default_factory=dict)
    errands: queue.SimpleQueue = field(default_factory=queue.SimpleQueue)
    stop: Stop = field(default_factory=Stop)
    run_id: str | None = None
    progress: list[tuple[list[str], list[str]]] = field(default_factory=list)

    def progressed(self, tally, pieces):
        self.progress.append((list(tally.pieces), pieces))

    def report(self, line):
        self.lines.append(line)
        if not self.stop.is_held:
            self.stop.look()

    def snapshot(self):
        return latest_snapshot(self.pipeline.graph["raw_corpus"], self.pipeline.store)

    def asked_snapshot(self):
        return None

    def maker_of(self, key):
        return next(self.makers.get(key, iter(())), None)

    def pin(self, snapshot):
        self.pinned = snapshot

    def device(self):
        return nullcontext()

    def connect_ray(self):
        raise AssertionError("nothing runs on Ray here")


@pytest.fixture
def work(tmp_path):
    """A function from a key to the work on it, over two corpus files whose documents are made."""
    (tmp_path / "corpus").mkdir()
    for name, texts in (("a", ["one", "three"]), ("b", ["seven", "x", "yz"])):
        lines = "".join(f'{{"text": "{text}"}}\n' for text in texts)
        (tmp_path / "corpus" / f"{name}.jsonl").write_text(lines)
    experiment = Experiment.model_validate(
        {
            "warehouse": str(tmp_path / "warehouse"),
            "corpus": {"source": {"type": "jsonl", "path": str(tmp_path / "corpus")}},
            "tokenizers": {"bpe": {"source": "trained", "vocab_size": 300}},
        }
    )
    graph = build_graph([SUMMARY, LEARNT, LENGTHS, DOCUMENTS, RAW_CORPUS], experiment, SQL)
    pipeline = Pipeline(graph, Store(Path(experiment.warehouse)))

    def of(key):
        return Work(pipeline, graph[key], TestRun(pipeline))

    for key in ("raw_corpus", "documents"):
        graph[key].kind.make(of(key))
    return of


@dataclass
class Lengths:
    """The lengths of a file's texts, a part a text."""

    texts: list[str]
    draft: object
    compute: object = len
    rows: list[int] = field(default_factory=list)

    def works(self):
        return iter([lambda text=text: self.compute(text) for text in self.texts])

    def add(self, part):
        self.rows.append(part)

    def finish(self):
        pl.DataFrame({"length": self.rows}, schema={"length": pl.Int64}).write_parquet(
            self.draft.path / "lengths.parquet"
        )
        self.draft.facts = {"num_rows": len(self.rows), "by": {"all": sum(self.rows)}}


def make_lengths(one, compute=len, num_devices=1, begun=None):
    documents = one.input_pieces("documents")

    def begin(shard, draft):
        if begun is not None:
            begun.append(shard)
        texts = pl.read_parquet(documents[shard].file("documents.parquet"))["text"].to_list()
        return Lengths(texts, draft, compute)

    def finish(draft):
        draft.facts["mean"] = draft.facts["by"]["all"] / draft.facts["num_rows"]

    with PartThreads(num_devices) as threads:
        return one.make_in_parts(begin, threads, finish)


def lengths_of(one):
    return [pl.read_parquet(path)["length"].to_list() for path in one.input_tables("lengths")]


def test_needs_come_before_what_needs_them_whatever_the_order_of_the_kinds(work):
    assert list(work("summary").pipeline.graph) == ["raw_corpus", "documents", "lengths", "one/learnt", "summary"]


def test_parts_come_back_in_order_over_the_borders_of_files_and_facts_add_up(work):
    one = work("lengths")
    assert not one.is_stored
    result = make_lengths(one, num_devices=3)
    assert result.facts["by"] == {"all": 3 + 5 + 5 + 1 + 2}
    assert result.facts["mean"] == 16 / 5
    assert [piece["piece"] for piece in result.facts["pieces"]] == ["a.jsonl", "b.jsonl"]
    assert [piece["num_rows"] for piece in result.facts["pieces"]] == [2, 3]
    assert result.facts["columns"] == {"length": "int64"}
    assert (one.tally.num_computed, one.tally.num_reused) == (2, 0)
    assert one.is_stored
    assert [line for line in one.run.lines if "making" in line and "shard" in line] == [
        f"lengths (shard {shard}): making {recipe.fingerprint}" for shard, recipe in one.piece_recipes.items()
    ]
    again = work("lengths")
    assert make_lengths(again, compute=pytest.fail) == result
    assert (again.tally.num_computed, again.tally.num_reused) == (0, 2)
    assert again.run.lines[-1] == f"lengths: stored as {result.manifest.fingerprint}, nothing to do"


def test_pieces_that_are_all_there_are_not_read_one_by_one(work):
    def never_made(shard, _draft):
        raise AssertionError(f"{shard} is stored")

    one = work("lengths")
    made = make_lengths(one)
    folder = one.tally.pieces["a.jsonl"].folder
    whole = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text("{")
    again = work("lengths")
    assert again.make_pieces(never_made) == made
    assert again.tally.rows == one.tally.rows and again.tally.pieces == {}
    assert (again.tally.num_computed, again.tally.num_reused) == (0, 2)
    assert again.tally.seconds_saved == sum(row.seconds for row in one.tally.rows.values())
    note = one.pipeline.store.root / "lengths" / ".pieces.json"
    note.write_text(note.read_text()[:-3])  # then each is read, and what is wrong with one is found
    with pytest.raises(DamagedResultError, match="not a manifest"):
        work("lengths").make_pieces(never_made)
    (folder / "manifest.json").write_text(whole)
    assert work("lengths").make_pieces(never_made) == made
    assert noted_rows(one.pipeline.store, one.recipe, one.piece_recipes) == one.tally.rows
    shutil.rmtree(folder)  # what is not there is made, whatever the note says
    third = work("lengths")
    make_lengths(third)
    assert (third.tally.num_computed, third.tally.num_reused) == (1, 1)


def test_a_part_of_the_next_file_is_under_way_before_the_last_of_this_one_has_ended(work):
    barrier = threading.Barrier(2, timeout=60)

    def compute(text):
        if text in ("three", "seven"):  # the last of one file and the first of the next
            barrier.wait()
        return len(text)

    assert make_lengths(work("lengths"), compute).facts["num_rows"] == 5


def test_errands_of_other_threads_are_done_by_the_one_that_waits(work):
    one = work("lengths")
    done = []

    def compute(text):
        one.run.errands.put(lambda: done.append((text, threading.current_thread() is threading.main_thread())))
        return len(text)

    make_lengths(one, compute)
    assert sorted(done) == [(text, True) for text in ("one", "seven", "three", "x", "yz")]


def test_a_part_that_fails_gives_up_what_is_under_way_and_keeps_what_is_published(work):
    one, begun = work("lengths"), []

    def compute(text):
        if text == "x":
            raise StoreError("lost")
        return len(text)

    with pytest.raises(StoreError, match="lost"):
        make_lengths(one, compute, begun=begun)
    assert begun == ["a.jsonl", "b.jsonl"]
    recipes = one.piece_recipes
    assert one.pipeline.store.find(recipes["a.jsonl"]) is not None
    assert one.pipeline.store.find(recipes["b.jsonl"]) is None
    assert list(one.pipeline.store.root.glob(".work/*/draft")) == []
    again = work("lengths")
    assert make_lengths(again).facts["num_rows"] == 5  # no lock is left behind
    assert (again.tally.num_computed, again.tally.num_reused) == (1, 1)
    assert again.run.lines[-1] == "lengths: 1 computed, 1 found stored"


def test_an_input_that_another_run_is_making_is_waited_for(work, monkeypatch):
    monkeypatch.setattr("miniplm_assets.lineage.work.INPUT_POLL_SECONDS", 0)
    one = work("lengths")
    [*_, place] = (result.folder for result in one.input_pieces("documents").values())

    def makers():
        yield "run 7"
        yield "run 7"
        place.with_name("aside").rename(place)
        yield "run 7"

    place.rename(place.with_name("aside"))
    one.run.makers["documents"] = makers()
    assert [result.folder for result in one.input_pieces("documents").values()][-1] == place
    [line] = [line for line in one.run.lines if "waiting" in line]
    assert line == "documents (shard b.jsonl) has no stored result yet: run 7 is making it; waiting for that"


def test_a_stop_ends_the_wait_for_another_run(work):
    one = work("lengths")
    [*_, place] = (result.folder for result in one.input_pieces("documents").values())
    place.rename(place.with_name("aside"))
    one.run.makers["documents"] = iter(["run 7", "run 7"])
    one.run.stop.is_asked = True
    with pytest.raises(Stopped):
        one.input_pieces("documents")


def test_what_is_finished_is_published_before_a_stop(work, monkeypatch):
    one = work("lengths")
    publish, asked = one.pipeline.store.publish, []

    def publish_and_ask(draft):
        if not asked:
            asked.append(draft.recipe.describe())
            one.run.stop.ask()  # as a signal would
        return publish(draft)

    monkeypatch.setattr(one.pipeline.store, "publish", publish_and_ask)
    with pytest.raises(Stopped):
        make_lengths(one)
    assert len(asked) == 1
    again = work("lengths")
    make_lengths(again)
    assert (again.tally.num_computed, again.tally.num_reused) == (1, 1)


def test_one_slow_part_does_not_keep_the_others_waiting():
    slow_may_end, order = threading.Event(), []

    def work(number):
        def compute():
            if number == 0:
                assert slow_may_end.wait(60)
            order.append(number)
            if number == 6:
                slow_may_end.set()
            return number

        return compute

    with PartThreads(1) as threads:
        found = list(threads.in_order(((None, work(number)) for number in range(7)), queue.SimpleQueue()))
    assert order == [*range(1, 7), 0]
    assert [part for _, part in found] == list(range(7))


def test_what_a_part_raises_is_raised_at_once():
    release = threading.Event()
    works = [lambda: release.wait(60), lambda: 1 / 0, lambda: pytest.fail("was begun")]
    with pytest.raises(ZeroDivisionError), PartThreads(1) as threads:
        list(threads.in_order(((None, work) for work in works), queue.SimpleQueue()))
    release.set()


def learn(one, losses):
    def write(seed, draft):
        (draft.path / "weights.txt").write_text(seed)
        draft.facts = {"num_parameters": 5, "loss": losses[seed], "by_domain": [{"loss": losses[seed]}]}
        draft.facts |= {"training_flops": 1, "num_tokens": 100}
        draft.seconds = 2.0

    return one.make_pieces(write, lambda draft: draft.facts.update(finished=True))


def test_seeds_share_what_they_agree_on_and_have_a_row_each_for_the_rest(work):
    make_lengths(work("lengths"))
    one = work("one/learnt")
    result = learn(one, {"7": 1.5, "8": 1.25})
    assert {name: result.facts[name] for name in ("num_parameters", "by_seed")} == {
        "num_parameters": 5,
        "by_seed": [{"seed": "7", "loss": 1.5}, {"seed": "8", "loss": 1.25}],
    }
    assert "loss" not in result.facts and "by_domain" not in result.facts
    assert result.facts["finished"] is True
    assert one.tally.seconds_computing == 4.0
    again = work("one/learnt")
    learn(again, {})
    assert (again.tally.seconds_saved, again.tally.tokens_saved) == (4.0, 200)
    # Each seed's fingerprint holds its seed, and the whole theirs.
    recipes = again.piece_recipes
    assert [recipe.settings for recipe in recipes.values()] == [{"seed": 7}, {"seed": 8}]
    assert again.recipe.inputs == {seed: recipe.fingerprint for seed, recipe in recipes.items()}


def test_an_input_is_read_where_its_patterns_say(work):
    make_lengths(work("lengths"))
    learn(work("one/learnt"), {"7": 1.5, "8": 1.25})
    summary = work("summary")
    assert lengths_of(summary) == [[5, 1, 2]]  # of the file that its patterns match
    assert lengths_of(work("one/learnt")) == [[3, 5], [5, 1, 2]]
    assert {
        seed: (one.verified_folder() / "weights.txt").read_text()
        for seed, one in summary.input_pieces("learnt").items()
    } == {
        "7": "7",
        "8": "8",
    }
    assert summary.input("learnt").facts["num_parameters"] == 5
    [listing] = summary.input_tables("listing")
    assert pl.read_parquet(listing)["shard"].to_list() == ["a.jsonl", "b.jsonl"]
    assert summary.input_tables("learnt") == []  # it has no table
    assert summary.input_node("learnt").kind is LEARNT
    assert summary.settings == Nothing()


def test_what_is_missing_is_named_with_the_command_that_makes_it(work):
    with pytest.raises(MissingResultError, match=r"lengths \(shard a.jsonl\) has no stored result .*key:\"lengths\""):
        work("one/learnt").input_pieces("lengths")


def test_a_plan_counts_the_pieces_that_are_missing(work):
    make_lengths(work("lengths"))
    pipeline = work("lengths").pipeline
    planned = {one.key: one for one in plan(pipeline)}
    assert (planned["lengths"].num_stored, planned["lengths"].num_missing) == (2, 0)
    assert (planned["one/learnt"].num_stored, planned["one/learnt"].num_missing) == (0, 2)
    assert planned["one/learnt"].reasons == ("never computed",) and planned["one/learnt"].num_tokens == 100
    assert planned["summary"].num_bytes == 10
    learn(work("one/learnt"), {"7": 1.5, "8": 1.25})
    pipeline.store.remove(pipeline.store.require(work("one/learnt").piece_recipes["8"]))
    planned = {one.key: one for one in plan(pipeline)}
    assert (planned["one/learnt"].num_stored, planned["one/learnt"].num_missing) == (1, 1)
    assert planned["one/learnt"].num_tokens == 50  # half of the seeds
    # By the clock of the seed that is there: 2 seconds for its 100 tokens.
    assert planned["one/learnt"].is_measured and planned["one/learnt"].seconds == 1.0


def test_a_whole_that_fails_is_given_up_and_the_next_one_makes_it(work):
    make_lengths(work("lengths"))
    learn(work("one/learnt"), {"7": 1.5, "8": 1.25})
    one = work("summary")

    def fail(draft):
        (draft.path / "half").write_text("half")
        (draft.work / "kept").write_text("kept")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StoreError, match="summary: the disk of the warehouse .* is full"):
        one.make(fail)
    assert list(one.pipeline.store.root.glob(".work/summary-*/draft")) == []
    assert (one.tally.num_computed, one.tally.num_reused) == (0, 0)

    def write(draft):
        (draft.path / "note").write_bytes((draft.work / "kept").read_bytes())

    result = one.make(write)
    assert (result.folder / "note").read_text() == "kept"
    assert (one.tally.num_computed, one.tally.num_reused) == (1, 0)
    again = work("summary")
    assert again.make(pytest.fail) == result
    assert again.run.lines == [f"summary: stored as {result.manifest.fingerprint}, nothing to do"]
    assert list(verify_derived(one.pipeline, lambda _: None)) == ["kept"]


def test_what_is_not_stored_is_not_verified(work):
    lines = []
    pipeline = work("summary").pipeline
    make_lengths(work("lengths"))
    learn(work("one/learnt"), {"7": 1.5, "8": 1.25})
    assert list(verify_derived(pipeline, lines.append)) == []
    assert lines == ["summary: not stored, nothing to verify"]


def test_where_nobody_has_looked_at_the_corpus_there_is_nothing_to_derive_again(work):
    pipeline = work("summary").pipeline
    elsewhere = Pipeline(pipeline.graph, Store(pipeline.store.root / "elsewhere"))
    lines = []
    assert list(verify_derived(elsewhere, lines.append)) == []
    assert [line.split(",")[0] for line in lines] == ["nothing is derived again: raw_corpus has not been materialised"]


@pytest.mark.parametrize("key", ["lengths", "summary"])
def test_who_waits_for_another_run_says_so(work, key):
    make_lengths(work("lengths"))
    learn(work("one/learnt"), {"7": 1.5, "8": 1.25})
    one = work(key)
    result = one.pipeline.store.find(one.recipe)
    if result is not None:
        one.pipeline.store.remove(result)
    other = one.pipeline.store.begin(one.recipe)
    lines = []

    def report(line):
        lines.append(line)
        if "another run" in line:
            one.pipeline.store.publish(other)

    one.run.report = report
    if key == "lengths":
        make_lengths(one, compute=pytest.fail)
    else:
        one.make(pytest.fail)
    assert f"{key}: another run is making it; waiting for that" in lines


def test_what_differs_is_said_at_its_place():
    old = {"code_version": "1", "settings": {"a": {"b": 1, "c": 2}, "gone": True}, "inputs": {"x": "1", "y": "2"}}
    new = {"code_version": "2", "settings": {"a": {"b": 3, "c": 2}, "come": None}, "inputs": {"x": "9", "z": "3"}}
    assert list(differences(old, new)) == [
        "code_version: '1' -> '2'",
        "settings.a.b: 1 -> 3",
        "settings.gone: True -> default",
        "input x changed",
        "input y is gone",
        "input z is new",
    ]
