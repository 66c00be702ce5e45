"""How far a run is, and how long the rest takes: the plan's times, told in lines, or in bars where somebody looks."""

import logging
import os
import pty
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import polars as pl
import pytest

from miniplm_assets.assets import run_progress
from miniplm_assets.assets.run_progress import RunProgress
from miniplm_assets.core.errors import ModelError
from miniplm_assets.lineage import time_left
from miniplm_assets.lineage.plan import PlannedAsset
from miniplm_assets.lineage.time_left import TimeLeft, about
from tests.test_work import work as work

ROOT = Path(__file__).parents[1]
KEYS = ["lengths", "one/learnt", "summary"]


class Clock:
    def __init__(self):
        self.now = 1_000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time_left, "time", clock)
    monkeypatch.setattr(run_progress, "time", clock)
    return clock


@pytest.fixture
def pipeline(work):
    return work("lengths").pipeline


def planning(monkeypatch, **seconds):
    """Let a plan say how long each asset takes; count how often it is asked."""
    asked = []

    def plan_on(pipeline, snapshot):
        asked.append(snapshot)
        return [
            one if isinstance(one, PlannedAsset) else PlannedAsset(key=key, num_stored=0, num_missing=1, seconds=one)
            for key, one in ((name.replace("__", "/"), one) for name, one in seconds.items())
        ]

    monkeypatch.setattr(time_left, "plan_on", plan_on)
    return asked


def test_what_is_left_is_what_the_plan_says_of_the_assets_that_are_left(pipeline, clock, monkeypatch):
    asked = planning(monkeypatch, lengths=1.0, one__learnt=100.0, summary=20.0)
    left = TimeLeft(pipeline, KEYS)
    assert left.begin("lengths") is None and not left.is_long  # no model: not worth a plan
    assert asked == []
    left.end("lengths")
    assert left.begin("one/learnt") == 120.0 and left.is_long
    left.end("one/learnt")
    assert left.begin("summary") == 20.0
    assert len(asked) == 2  # the clock stands still, so that planning has cost nothing


def test_nobody_plans_for_what_is_stored(work, pipeline, clock, monkeypatch):
    for key in ("lengths", "one/learnt"):
        work(key).make_pieces(
            lambda piece, draft: pl.DataFrame({"n": [1]}).write_parquet(draft.path / "lengths.parquet")
        )
    asked = planning(monkeypatch)
    left = TimeLeft(pipeline, ["lengths", "one/learnt"])
    assert left.begin("one/learnt") is None and not left.is_long
    assert asked == []


def test_what_is_like_nothing_before_takes_its_flops_at_the_rate_of_this_run(pipeline, clock, monkeypatch):
    def costing(key, flops, seconds=None):
        return PlannedAsset(key=key, num_stored=0, num_missing=1, flops=flops, seconds=seconds)

    planning(monkeypatch, one__learnt=costing("one/learnt", 1_000), summary=costing("summary", 4_000))
    left = TimeLeft(pipeline, ["one/learnt", "summary"])
    assert left.begin("one/learnt") is None  # nobody knows
    clock.now += 50
    left.end("one/learnt")
    assert left.begin("summary") == 200.0  # 4,000 at 1,000 in 50 seconds


def test_what_is_made_at_once_takes_that_much_less(pipeline, clock, monkeypatch):
    planning(monkeypatch, lengths=0.0, one__learnt=100.0, summary=60.0)
    left = TimeLeft(pipeline, KEYS)
    assert left.begin("one/learnt") == 160.0
    assert left.begin("summary") == 100.0  # not 80: the longer one is not shared out
    left.end("one/learnt")
    assert left.begin("lengths") == 60.0


def test_one_unknown_asset_makes_the_whole_unknown(pipeline, clock, monkeypatch):
    unknown = PlannedAsset(key="summary", num_stored=0, num_missing=None)
    planning(monkeypatch, one__learnt=100.0, summary=unknown)
    assert TimeLeft(pipeline, ["one/learnt", "summary"]).begin("one/learnt") is None


def test_planning_takes_a_small_share_of_the_time(pipeline, clock, monkeypatch):
    asked = []

    def plan_on(*_):
        asked.append(clock.now)
        clock.now += 3
        return []

    monkeypatch.setattr(time_left, "plan_on", plan_on)
    left = TimeLeft(pipeline, KEYS)
    for _ in range(400):
        left.begin("one/learnt")
        clock.now += 1
    assert len(asked) == 3  # each takes 3 seconds of 153


def test_a_plan_that_cannot_be_made_leaves_the_time_unsaid(pipeline, clock, monkeypatch):
    def plan_on(*_):
        raise ModelError("no such folder")

    monkeypatch.setattr(time_left, "plan_on", plan_on)
    assert TimeLeft(pipeline, KEYS).begin("one/learnt") is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(3, "10 s"), (44, "40 s"), (89, "90 s"), (90, "2 min"), (840, "14 min"), (7_000, "2 h"), (200_000, "2 days")],
)
def test_a_time_is_told_as_roughly_as_it_is_known(seconds, words):
    assert about(seconds) == words


def event(kind, key):
    return SimpleNamespace(event_type=kind, step_key=key.replace("/", "__"))


def test_lines_say_which_asset_it_is_for_models_and_else_every_ten_seconds(pipeline, clock, monkeypatch, caplog):
    planning(monkeypatch, lengths=0.0, one__learnt=840.0, summary=0.0)
    steps = [key.replace("/", "__") for key in KEYS]
    progress = RunProgress(
        pipeline, SimpleNamespace(log=logging.getLogger("run")), SimpleNamespace(step_keys_to_execute=steps)
    )
    with caplog.at_level(logging.INFO), progress.shown():
        for key in KEYS:
            progress.follow(event(dg.DagsterEventType.STEP_START, key))
            if key == "one/learnt":  # tried again
                progress.follow(event(dg.DagsterEventType.STEP_UP_FOR_RETRY, key))
                progress.follow(event(dg.DagsterEventType.STEP_START, key))
                clock.now += 11
            progress.follow(event(dg.DagsterEventType.STEP_SUCCESS, key))
        progress.follow(SimpleNamespace(event_type=dg.DagsterEventType.RUN_SUCCESS, step_key=None))
    assert caplog.messages == ["asset 2 of 3, about 14 min left: one/learnt", "asset 3 of 3: summary"]


SHOWS = """
    import logging, sys
    import subprocess
    from miniplm_assets.assets.bars import bars, bars_that_are_up
    from miniplm_assets.core.progressed import Progressed

    logging.basicConfig(format="%(message)s", level=logging.INFO)
    with bars(12):
        up = bars_that_are_up()
        print("up" if up else "none", file=sys.stderr)
        if up:
            up.begin("asset 3 of 12: [x]/y", num_done=2)
            up.show(Progressed("step 4 of 9", done=4, total=9))
        logging.info("a line")
        subprocess.run(["echo", "from another process"], check=True, stdout=sys.stderr)
    logging.info("after")
    assert bars_that_are_up() is None
"""


def environment(**more):
    left_out = ("CI", "TERM", "FORCE_COLOR", "TTY_COMPATIBLE")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return kept | {"PYTHONPATH": str(ROOT)} | more


def shown_in_a_terminal(**variables):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", textwrap.dedent(SHOWS)]
    subprocess.run(command, stdout=theirs, stderr=theirs, env=environment(**variables), check=True)
    os.close(theirs)
    said = b""
    while True:
        try:
            more = os.read(ours, 65_536)
        except OSError:  # as Linux says that the other end is closed
            more = b""
        if not more:
            break
        said += more
    os.close(ours)
    return said.decode()


def test_a_terminal_has_bars_and_lines_above_them():
    said = shown_in_a_terminal(TERM="xterm", COLUMNS="100", LINES="40")
    assert "2/12" in said and "asset 3 of 12: [x]/y" in said
    assert "4/9" in said and "step 4 of 9" in said
    lines = said.split("\r\n")
    assert all(any(wanted in line for line in lines) for wanted in ("up", "a line", "from another process"))
    assert lines[-2:] == ["after", ""] or said.rstrip().endswith("after")


@pytest.mark.parametrize("variables", [{"TERM": "dumb"}, {"TERM": "xterm", "CI": "true"}, {}])
def test_a_dumb_terminal_and_ci_have_none(variables):
    assert shown_in_a_terminal(**variables).split("\r\n") == ["none", "a line", "from another process", "after", ""]


def test_a_pipe_has_none():
    command = [sys.executable, "-c", textwrap.dedent(SHOWS)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(TERM="xterm"), check=True)
    assert (done.stdout, done.stderr) == ("", "none\na line\nfrom another process\nafter\n")
