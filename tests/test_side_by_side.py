"""Corpus files that several processes work on give the same bytes as one, whatever befalls the processes."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from miniplm_assets.core.errors import CorpusError
from miniplm_assets.core.stop import Stopped
from miniplm_assets.corpus.cores import memory_of_this_machine
from miniplm_assets.experiment import Experiment, Processing
from miniplm_assets.kinds.documents import DOCUMENTS
from miniplm_assets.kinds.raw_corpus import RAW_CORPUS
from miniplm_assets.kinds.sequences import SEQUENCES
from miniplm_assets.kinds.tokenizer import TOKENIZER
from miniplm_assets.lineage.crew import LocalCrew, empty, open_crew, parts_of
from miniplm_assets.lineage.graph import build_graph
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.side_by_side import Steps, make_side_by_side
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.store import Result, Store
from tests.test_work import SQL, TestRun

GERMAN = "und der Fluss liest einen Korpus aus Wörtern im Winter"
WORDS = f"the river reads a corpus of winter tokens {GERMAN}".split()
ROOT = Path(__file__).parents[1]


def write_corpus(folder, num_files=3):
    """Files of texts in two languages; some stand in several files, some are much alike, some rows are no document."""
    folder.mkdir()
    for number in range(num_files):
        texts = [" ".join(WORDS[(place * step) % len(WORDS)] for step in range(1, 30)) for place in range(number, 40)]
        texts += ["", f"{' '.join(WORDS * 3)} {number}", "Das ist der gleiche Text in jeder Datei, und er ist deutsch."]
        rows = [json.dumps({"text": text, "domain": "web" if len(text) % 3 else "books"}) for text in texts]
        (folder / f"{number}.jsonl").write_text("\n".join([*rows, "no json"]) + "\n", encoding="utf-8")


def pipeline_of(folder, warehouse, **corpus):
    """Return the pipeline of an experiment over the corpus in a folder."""
    source = {"type": "jsonl", "path": str(folder / "corpus")}
    splits = {"reference": 0.4}
    experiment = Experiment.model_validate(
        {
            "warehouse": str(folder / warehouse),
            "corpus": {"source": source, "fields": {"domain_field": "domain"}, "splits": splits, **corpus},
            "sequences": {"sequence_length": 16},
            "tokenizers": {"bpe": {"source": "trained", "vocab_size": 280}},
            "processing": {"num_processes": 1 if warehouse == "one" else 2},
        }
    )
    graph = build_graph([SEQUENCES, TOKENIZER, DOCUMENTS, RAW_CORPUS], experiment, SQL)
    return Pipeline(graph, Store(Path(experiment.warehouse)))


def make(pipeline, *keys):
    """Make assets; return the lines that they report."""
    lines = []
    for key in keys:
        run = TestRun(pipeline, lines)
        pipeline.graph[key].kind.make(Work(pipeline, pipeline.graph[key], run))
    return lines


def contents(pipeline):
    """Return digests of all files of documents and sequences, and their facts, by address."""
    found = {}
    for result in pipeline.store.results(on_problem=pytest.fail):
        if result.manifest.kind in ("documents", "sequences"):
            address = f"{result.manifest.key} {result.manifest.fingerprint}"
            files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in result.matching("*")}
            found[address] = (files, result.manifest.facts)
    return found


KEYS = ("raw_corpus", "documents", "bpe/tokenizer", "bpe/sequences")


@pytest.mark.parametrize("cleaning", [{}, {"duplicates": "exact"}, {"duplicates": "near", "languages": ["de", "en"]}])
def test_two_processes_give_the_bytes_and_facts_of_one(cleaning, tmp_path):
    write_corpus(tmp_path / "corpus")
    keys = KEYS if not cleaning else KEYS[:2]
    one, two = (pipeline_of(tmp_path, name, cleaning=cleaning) for name in ("one", "two"))
    assert not any("processes" in line for line in make(one, *keys))
    lines = make(two, *keys)
    assert f"{keys[-1]}: 3 corpus files are made by 2 processes" in lines
    assert contents(one) == contents(two)
    assert len(contents(one)) == 4 * (len(keys) // 2)  # three files, and the asset itself
    [whole] = [facts for files, facts in contents(two).values() if not files and "num_duplicates" in facts] or [None]
    assert (whole is None) == (not cleaning)
    if cleaning:
        assert whole["duplicates_per_reason"]["exact_duplicate"] >= 2, whole
    # And what is stored already is read where others go on from it.
    if cleaning.get("duplicates") == "near":
        stored = contents(two)
        last = [result for result in results_of(two) if "1.jsonl" in str(result.manifest.ingredients)]
        two.store.remove(last[0])
        make(two, "documents")
        assert contents(two) == stored


@pytest.mark.parametrize("cleaning", [{"duplicates": "near"}, {"languages": ["de", "en", "zxx"]}])
def test_two_processes_that_look_at_one_file_give_the_bytes_of_one(cleaning, tmp_path):
    write_corpus(tmp_path / "corpus", num_files=1)
    texts = [f"{place} {place % 5_000} {place % 7}" for place in range(20_000)]  # batches of 4,096
    texts[4_000:12_000:500] = [f"{GERMAN} {place}" for place in range(16)]
    with (tmp_path / "corpus" / "0.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    one, two = (pipeline_of(tmp_path, name, cleaning=cleaning) for name in ("one", "two"))
    make(one, *KEYS[:2])
    assert "documents: 1 corpus file is made by 2 processes" in make(two, *KEYS[:2])
    assert contents(one) == contents(two)
    [facts] = [facts for files, facts in contents(two).values() if not files]
    if "duplicates" in cleaning:
        assert facts["num_duplicates"] > 0
    else:
        assert facts["documents_per_language"]["de"] >= 16 and facts["documents_per_language"]["zxx"] > 19_000


@pytest.mark.parametrize(
    ("sizes", "num_processes", "parts"),
    [
        ([10], 4, [4]),
        ([10, 10, 10], 4, [2, 2, 2]),
        ([10, 10, 10], 2, [1, 1, 1]),
        ([11, 10], 2, [1, 1]),
        ([900, 50, 50], 8, [7, 1, 1]),
        ([0, 0], 2, [1, 1]),
    ],
)
def test_a_file_is_parted_where_it_is_larger_than_a_fair_share(sizes, num_processes, parts):
    assert list(parts_of(dict(enumerate(sizes)), num_processes).values()) == parts


def test_a_file_that_cannot_be_used_is_named_once_both_who_look_at_it_have_ended(tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.jsonl").write_text('[{"text": "an array"}]')
    pipeline = pipeline_of(tmp_path, "two", cleaning={"duplicates": "near"})
    with pytest.raises(CorpusError, match=r"a\.jsonl: this file is one JSON array"):
        make(pipeline, *KEYS[:2])
    assert not results_of(pipeline)
    (tmp_path / "corpus" / "a.jsonl").write_text('{"text": "an object"}')
    make(pipeline, *KEYS[:2])
    assert len(results_of(pipeline)) == 1


def results_of(pipeline):
    return [one for one in pipeline.store.results(on_problem=pytest.fail) if one.matching("documents.parquet")]


def test_a_bad_file_is_named_and_the_others_are_made(tmp_path):
    write_corpus(tmp_path / "corpus", num_files=4)
    (tmp_path / "corpus" / "1.jsonl").write_text('[{"text": "an array"}]')
    plain = pipeline_of(tmp_path, "plain")
    with pytest.raises(CorpusError, match=r"1\.jsonl: this file is one JSON array"):
        make(plain, *KEYS[:2])
    assert len(results_of(plain)) == 3
    # Where what stays rests on the files before, those after a bad one wait for it.
    exact = pipeline_of(tmp_path, "exact", cleaning={"duplicates": "exact"})
    with pytest.raises(CorpusError, match=r"1\.jsonl: this file is one JSON array") as raised:
        make(exact, *KEYS[:2])
    assert any("The files after it are read once this one is good" in note for note in raised.value.__notes__)
    assert len(results_of(exact)) == 1


def answer(what, *, report):
    """Is a task."""
    report("at work")
    return what


def die(*, report):
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(marker, *, report):
    if not marker.exists():
        marker.touch()
        (marker.parent / "left" / "half.parquet").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return list((marker.parent / "left").iterdir())


def fail(error, *arguments, report):
    raise error(*arguments)


class OddError(Exception):
    """An error that cannot be made again from what is pickled of it."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def test_a_crew_gives_what_a_task_gives_and_does_one_again_whose_process_was_lost(tmp_path):
    (tmp_path / "left").mkdir()
    lines = []
    crew = LocalCrew(1, {}, threads_of_each=1)

    def do(task):
        return crew.do(task, "a.jsonl", tmp_path / "left", lines.append)

    try:
        assert do(partial(answer, {"num": 3})) == {"num": 3}
        assert lines == ["at work"]
        with pytest.raises(CorpusError, match="line 3"):
            do(partial(fail, CorpusError, "line 3"))
        with pytest.raises(OSError) as raised:
            do(partial(fail, OSError, 28, "No space left on device"))
        assert raised.value.errno == 28 and "tests/test_side_by_side.py" in raised.value.__notes__[0]
        with pytest.raises(RuntimeError, match="OddError: one and two"):
            do(partial(fail, OddError, "one", "two"))
        assert do(partial(die_once, tmp_path / "marker")) == []  # what the lost one wrote is gone
        assert "a.jsonl: the process that worked on it was lost, and it is done again" in lines[-1]
        with pytest.raises(CorpusError, match=r"shard a\.jsonl: 2 processes in a row .* lower processing"):
            do(die)
    finally:
        crew.close()
    assert not children()


def children():
    return [child for child in psutil.Process().children() if "crew_process" in " ".join(child.cmdline())]


def wait_for_ever(marker, *, report):
    marker.touch()
    time.sleep(600)


@pytest.fixture
def work(tmp_path):
    write_corpus(tmp_path / "corpus", num_files=3)
    pipeline = pipeline_of(tmp_path, "two")
    make(pipeline, "raw_corpus")
    return Work(pipeline, pipeline.graph["documents"], TestRun(pipeline))


def test_a_stop_ends_the_processes_and_gives_up_what_was_under_way(work, tmp_path):

    marker = tmp_path / "marker"
    crew = LocalCrew(2, {}, threads_of_each=1)

    def stop():
        while not marker.exists():
            time.sleep(0.01)
        work.run.stop.is_asked = True
        work.run.errands.put(work.run.stop.look)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Stopped):
        make_side_by_side(work, lambda shard, draft: Steps(partial(wait_for_ever, marker)), crew)
    thread.join()
    assert not children()
    # Their locks are free again.
    for recipe in work.piece_recipes.values():
        begun = work.pipeline.store.begin(recipe)
        assert not isinstance(begun, Result)
        work.pipeline.store.give_up(begun, Stopped())


def test_nobody_is_asked_where_there_is_little_to_do(work):
    def crew_for(num_processes, num_bytes):
        return open_crew(work, Processing(num_processes=num_processes), num_bytes=lambda _: num_bytes, little_bytes=100)

    assert crew_for(None, 33) is None
    assert crew_for(1, 1_000_000) is None
    assert crew_for(2, 1).num_at_once == 2
    assert crew_for(50, 1).num_at_once == 3  # no more than there are files


def test_processes_end_with_a_run_that_is_killed(tmp_path):
    script = (
        "from functools import partial; from pathlib import Path; from miniplm_assets.lineage.crew import LocalCrew\n"
        "from tests.test_side_by_side import wait_for_ever\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "LocalCrew(1, {}, threads_of_each=1).do(partial(wait_for_ever, folder / 'marker'), 'a', folder, print)"
    )
    run = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    while not (tmp_path / "marker").exists():
        assert run.poll() is None
        time.sleep(0.05)
    workers = psutil.Process(run.pid).children(recursive=True)
    assert workers
    run.kill()
    run.wait()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive


def test_what_a_lost_process_left_is_removed_folders_too(tmp_path: Path) -> None:
    (tmp_path / "documents.parquet").touch()
    (tmp_path / ".spill").mkdir()
    (tmp_path / ".spill" / "one.tmp").touch()
    empty(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_container_has_no_more_memory_than_its_limit(tmp_path: Path) -> None:
    limit, whole = tmp_path / "memory.max", psutil.virtual_memory().total
    for said, expected in ((None, whole), ("max", whole), ("1048576", 1 << 20), (str(2 * whole), whole)):
        if said is not None:
            limit.write_text(f"{said}\n")
        assert memory_of_this_machine(limit) == expected
