"""The soak of `tests.soak`, some minutes of it; and that each of its checks can fail."""

from dataclasses import replace

import pytest

from tests.soak import History, Run, computed_twice, soak, too_many_runs, unexplained_failures

GOOD = Run(run_id="good", status="SUCCESS", begun=100.0, ended=110.0, made=["f1", "f2"])
FAILED = replace(GOOD, run_id="failed", status="FAILURE", errors=["documents: b.jsonl cannot be read"], made=[])
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
        (History(runs=[CANCELLED]), False),
        (History(runs=[CANCELLED], stopped=["cancelled"]), True),
        (History(runs=[replace(CANCELLED, is_put_down=True)]), True),
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


def test_a_run_more_than_there_were_rests_is_named():
    history = History(writes=[0.0, 1.0, 5.0, 6.0])  # it rested after the second write, and after the last
    two = [GOOD, replace(GOOD, run_id="second")]
    assert list(too_many_runs(replace(history, runs=two), quiet_seconds=3)) == []
    retried = replace(GOOD, run_id="third", is_retry=True)
    assert list(too_many_runs(replace(history, runs=[*two, retried]), quiet_seconds=3)) == []
    third = replace(retried, is_retry=False)
    [problem] = too_many_runs(replace(history, runs=[*two, third]), quiet_seconds=3)
    assert problem == "3 runs were asked for, 0 stopped, and the corpus rested 2 times"
    assert list(too_many_runs(replace(history, runs=[*two, third], stopped=["second"]), quiet_seconds=3)) == []


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_some_minutes_of_it(tmp_path):
    report = soak(tmp_path, minutes=2, num_events=20, seed=11)
    assert {check: problems for check, problems in report["found"].items() if problems} == {}
    assert len(report["events"]) >= 20
    # How many come to their end before the next event, the machine decides; the last one does.
    assert [run["status"] for run in report["history"]["runs"]].count("SUCCESS") >= 1
    assert len(report["history"]["runs"]) >= 2
