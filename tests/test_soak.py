"""The soak of `tests.soak`, some minutes of it; and that each of its checks can fail."""

from dataclasses import replace

import pytest

from tests.soak import (
    History,
    Outcome,
    Run,
    Write,
    computed_twice,
    differences,
    left_in_the_making,
    rests,
    soak,
    table,
    too_many_runs,
    unexplained_failures,
)

pytestmark = pytest.mark.long

GOOD = Run(run_id="good", status="SUCCESS", begun=100.0, ended=110.0, state="A", made=["f1", "f2"])
FAILED = replace(GOOD, run_id="failed", status="FAILURE", errors=["documents: b.jsonl cannot be read"], made=[])
CHANGED = replace(FAILED, is_scheduled=True, errors=["shard b.jsonl: its files changed while the run was at work (..."])
UNBORN = replace(FAILED, has_started=False, errors=[])
CANCELLED = replace(GOOD, run_id="cancelled", status="CANCELED", made=[])


@pytest.mark.parametrize(
    ("history", "is_well"),
    [
        (History(runs=[GOOD]), True),
        (History(runs=[FAILED], broken=[("b.jsonl", 90.0, 101.0)]), True),
        (History(runs=[FAILED], broken=[("b.jsonl", 111.0, 120.0)]), False),  # broken later
        (History(runs=[FAILED], broken=[("c.jsonl", 90.0, 120.0)]), False),  # another one was
        (History(runs=[replace(FAILED, errors=[])], broken=[("b.jsonl", 90.0, 120.0)]), False),
        (History(runs=[replace(FAILED, errors=[*FAILED.errors, "x"])], broken=[("b.jsonl", 90.0, 120.0)]), False),
        (History(runs=[FAILED], killed=["failed"]), True),
        (History(runs=[CHANGED], writes=[Write(105.0, "b.jsonl", "A")]), True),
        (History(runs=[CHANGED], writes=[Write(105.0, "c.jsonl", "A")]), False),
        (History(runs=[CHANGED], writes=[Write(90.0, "b.jsonl", "A"), Write(111.0, "b.jsonl", "B")]), False),
        (History(runs=[replace(CHANGED, is_scheduled=False)], writes=[Write(105.0, "b.jsonl", "A")]), False),
        (History(runs=[replace(FAILED, is_scheduled=True)], writes=[Write(105.0, "b.jsonl", "A")]), False),
        (History(runs=[UNBORN]), False),
        (History(runs=[UNBORN], daemon_killed=[102.0]), True),
        (History(runs=[UNBORN], daemon_killed=[99.0, 131.0]), False),  # before it was asked for, or long after
        (History(runs=[replace(UNBORN, has_started=True)], daemon_killed=[102.0]), False),
        (History(runs=[CANCELLED]), False),
        (History(runs=[CANCELLED], stopped=["cancelled"]), True),
        (History(runs=[replace(CANCELLED, put_down="a newer state, B, is wanted")]), True),
        (History(runs=[replace(CANCELLED, put_down="b.jsonl changed")], writes=[Write(90.0, "b.jsonl", "A")]), True),
        (History(runs=[replace(CANCELLED, put_down="b.jsonl changed")], writes=[Write(90.0, "c.jsonl", "A")]), False),
        # A signal is an explanation where somebody sent it.
        (History(runs=[replace(CANCELLED, put_down="a signal to its process")]), False),
        (History(runs=[replace(CANCELLED, put_down="a signal to its process")], stopped=["cancelled"]), True),
        # Who is told to stop has not failed.
        (History(runs=[replace(FAILED, errors=[])], stopped=["failed"]), False),
    ],
)
def test_a_run_that_ended_badly_is_explained_or_named(history, is_well):
    found = list(unexplained_failures(history))
    assert (found == []) == is_well
    assert all(history.runs[0].run_id in problem for problem in found)


def test_what_two_runs_made_is_named():
    again = replace(GOOD, run_id="again", made=["f2", "f3"])
    assert list(computed_twice(History(runs=[GOOD, replace(again, made=["f3"])]))) == []
    assert list(computed_twice(History(runs=[GOOD, again]))) == ["f2 was made by good and again"]
    assert list(computed_twice(History(rewritten=["manifest.json changed"]))) == ["manifest.json changed"]


def test_what_was_made_once_more_after_it_was_published_is_named():
    # It was published in second 105, by a run that was cancelled afterwards; the manifest tells no fractions.
    history = History(runs=[replace(GOOD, begun_to_make=[("f1", 105.9), ("f3", 300.0)])], published={"f1": 105.0})
    assert list(computed_twice(history)) == []
    late = replace(GOOD, run_id="late", made=[], begun_to_make=[("f1", 120.0)])
    assert list(computed_twice(replace(history, runs=[*history.runs, late]))) == [
        "run late began to make f1, published 15 s before"
    ]


def writes(*pairs):
    return [Write(at, "b.jsonl", state) for at, state in pairs]


@pytest.mark.parametrize(
    ("written", "rested"),
    [
        ([(0.0, "A")], ["A"]),
        ([(0.0, "A"), (1.0, "B"), (5.0, "C"), (6.0, "D")], ["B", "D"]),
        ([(0.0, "A"), (5.0, "A"), (10.0, "A")], ["A"]),  # touched
        ([(0.0, "A"), (5.0, "B"), (6.0, "A")], ["A"]),  # there and back at once
        ([(0.0, "A"), (5.0, "B"), (10.0, "A")], ["A", "B", "A"]),
    ],
)
def test_a_corpus_rests_where_nothing_is_written_for_the_quiet_period(written, rested):
    assert rests(History(writes=writes(*written)), quiet_seconds=3) == rested


def test_a_run_more_than_there_were_rests_is_named():
    history = History(writes=writes((0.0, "x"), (1.0, "A"), (5.0, "x"), (6.0, "B")))
    two = [GOOD, replace(GOOD, run_id="second", state="B")]
    assert list(too_many_runs(replace(history, runs=two), quiet_seconds=3)) == []
    retried = replace(two[1], run_id="third", is_retry=True)
    assert list(too_many_runs(replace(history, runs=[*two, retried]), quiet_seconds=3)) == []
    scheduled = replace(GOOD, run_id="scheduled", state="", is_scheduled=True)
    assert list(too_many_runs(replace(history, runs=[two[0], scheduled, two[1]]), quiet_seconds=3)) == []
    third = replace(retried, is_retry=False, state="x")
    [problem] = too_many_runs(replace(history, runs=[*two, third]), quiet_seconds=3)
    assert problem == "3 runs were asked for, 0 of them again, and the corpus rested 2 times"


def test_a_run_that_is_asked_for_again_without_need_is_named():
    again = replace(GOOD, run_id="again")
    history = History(writes=writes((0.0, "A"), (5.0, "A")))
    [problem] = too_many_runs(replace(history, runs=[GOOD, again]), quiet_seconds=3)
    assert problem == "run again was asked for, which good had been, and ended SUCCESS"
    put_down = replace(CANCELLED, put_down="a signal to its process")
    assert list(too_many_runs(replace(history, runs=[put_down, again]), quiet_seconds=3)) == []
    # What was killed, Dagster tries again; the sensor asks once more only where that was put down.
    killed, retry = replace(FAILED, run_id="killed"), replace(put_down, is_retry=True)
    assert list(too_many_runs(replace(history, runs=[killed, retry, again]), quiet_seconds=3)) == []
    assert len(list(too_many_runs(replace(history, runs=[killed, again]), quiet_seconds=3))) == 1


def test_whatever_differs_from_one_run_is_named():
    fresh = Outcome({"documents": "f1"}, {"documents f1 documents.parquet": "d1"}, {"documents": (3, "t1")})
    assert list(differences(fresh, fresh)) == []
    for changed, named in (
        (replace(fresh, recipes={"documents": "f0"}), "recipes: documents is f0, by one run f1"),
        (replace(fresh, files={}), "files: documents f1 documents.parquet is None, by one run d1"),
        (replace(fresh, tables={"documents": (4, "t1")}), "tables: documents is (4, 't1'), by one run (3, 't1')"),
        (replace(fresh, tables=fresh.tables | {"of_old": (1, "t")}), "tables: of_old is (1, 't'), by one run None"),
    ):
        assert list(differences(changed, fresh)) == [named]
    # Two that hold nothing are not alike.
    assert len(list(differences(Outcome({}, {}, {}), Outcome({}, {}, {})))) == 3


def test_a_work_folder_that_is_left_of_what_is_wanted_is_named(tmp_path):
    for name in ("documents-f1", "student_checkpoint-f2"):
        (tmp_path / ".work" / name).mkdir(parents=True)
    (tmp_path / ".work" / "documents-f1.lock").touch()
    assert list(left_in_the_making(tmp_path, {"f1", "f3"})) == [f"{tmp_path / '.work' / 'documents-f1'} is left"]
    assert list(left_in_the_making(tmp_path, {"f3"})) == []


def test_the_table_names_the_check_that_failed():
    history = {"runs": [vars(GOOD)], "killed": [], "stopped": ["x"], "published": {"f1": 1.0}}
    found = {"equals one run": ["tables: ..."], "no tick failed": []}
    lines = list(table({"events": [(1.0, "add b.jsonl")], "history": history, "rests": 1, "found": found}))
    assert lines[-3:] == ["FAILED   equals one run", "         tables: ...", "ok       no tick failed"]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_some_minutes_of_it(tmp_path):
    report = soak(tmp_path, minutes=2, num_events=20, seed=11)
    assert {check: problems for check, problems in report["found"].items() if problems} == {}
    assert len(report["events"]) >= 20
    # How many come to their end before the next event, the machine decides; the last one does.
    assert [run["status"] for run in report["history"]["runs"]].count("SUCCESS") >= 1
    assert [run["is_scheduled"] for run in report["history"]["runs"]].count(False) >= 1
    assert [run["is_scheduled"] for run in report["history"]["runs"]].count(True) >= 1  # by the clock, every minute
