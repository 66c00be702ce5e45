"""`show` and `diff`, on results that are written by hand: no model is run."""

import json
import re

import polars as pl
import pytest

from miniplm_assets.cli import main
from miniplm_assets.commands.show import figure, in_rows
from miniplm_assets.core.words import count, cut, duration, size, table, wrapped
from miniplm_assets.kinds.registry import open_pipeline
from miniplm_assets.lm.device_speed import DeviceSpeed
from miniplm_assets.storage.manifest import CheckOutcome
from tests.corpora import tiny_experiment, write_experiment
from tests.test_cli import experiment, see  # noqa: F401 - a fixture

CUTOFF = "half/selection_cutoff"


@pytest.fixture
def other(experiment, tmp_path):  # noqa: F811
    """A second experiment on the same corpus and warehouse: another keep fraction, one student more."""
    content = tiny_experiment(tmp_path / "corpus", tmp_path / "warehouse")
    content["selections"]["half"]["keep_fraction"] = 0.25
    content["students"]["third"] = content["students"]["no_kd"] | {"baseline": "no_kd"}
    return write_experiment(tmp_path / "other.yaml", content)


@pytest.fixture(autouse=True)
def anywhere(monkeypatch):
    """The same on every machine and terminal."""
    monkeypatch.setattr(DeviceSpeed, "seconds", lambda *_: 60.0)
    monkeypatch.setenv("COLUMNS", "80")


def store_cutoff(path, num_kept=1_234):
    pipeline = open_pipeline(path)

    def write(draft):
        pl.DataFrame({"num_kept": [num_kept], "example": ["a text of " + "many words " * 30]}).write_parquet(
            draft.path / "selection_cutoff.parquet"
        )
        draft.facts = {"num_kept": num_kept, "kept_share": 0.5, "cutoff": {"difference": -0.125}, "file_bytes": 2_000}
        draft.checks = [
            CheckOutcome(name="good", passed=True),
            CheckOutcome(name="bad", passed=False, description="3 rows are odd."),
        ]

    return pipeline.store.make(pipeline.latest_fingerprints().recipe(CUTOFF), write)


def test_an_asset_is_shown_with_its_state_figures_and_first_rows(experiment, other, capsys):  # noqa: F811
    assert main(["show", CUTOFF, str(experiment)]) == 0
    assert capsys.readouterr().out.startswith(f"{CUTOFF}: never made; ")
    result = store_cutoff(experiment)
    assert main(["show", CUTOFF, str(experiment)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{CUTOFF}: stored; 1 rows, ")
    for line in (
        r"num_kept +1,234",
        r"kept_share +50\.0%",
        r"cutoff\.difference +-0\.125",
        r"file_bytes +2\.0 kB",
        r"Checks: 1 of 2 passed",
        r"  failed: bad\. 3 rows are odd\.",
        r"The first 1 of 1 rows:",
        r"  example +a text of many words .*…",
    ):
        assert re.search(f"^{line}$", printed, re.MULTILINE), line
    assert all(len(line) <= 80 or "/" in line for line in printed.splitlines())

    assert main(["show", CUTOFF, str(experiment), "--json", "--rows", "0"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["state"], told["rows"], told["num_rows"]) == ("stored", [], 1)
    assert told["fingerprint"] == result.manifest.fingerprint and told["folders"] == [str(result.folder)]
    assert [check["name"] for check in told["checks"] if not check["passed"]] == ["bad"]

    # Of another keep fraction, what is stored is shown as what it is.
    assert main(["show", CUTOFF, str(other)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{CUTOFF}: stale; 1 rows, ") and "settings.keep_fraction: 0.5 -> 0.25" in printed


def test_an_asset_of_which_one_piece_is_stored(experiment, capsys):  # noqa: F811
    pipeline = open_pipeline(experiment)
    [recipe] = pipeline.latest_fingerprints().stored("documents")
    frame = pl.DataFrame({"text": ["one"], "domain": ["code"]})
    pipeline.store.make(recipe, lambda draft: frame.write_parquet(draft.path / "documents.parquet"))
    assert main(["show", "documents", str(experiment)]) == 0
    assert capsys.readouterr().out.startswith("documents: partly stored; 1 rows, ")  # the whole is still to be listed


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        ("refined_corpus", "the nearest: half/refined_corpus"),
        ("haf/selection_cutof", "the nearest: half/selection_cutoff"),
        ("half", "and 13 more"),
        ("qqq", "there are raw_corpus, documents"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(experiment, asked, nearest, capsys):  # noqa: F811
    assert main(["show", asked, str(experiment)]) == 2
    said = capsys.readouterr().err
    assert f"the experiment has no asset '{asked}'; " in said
    assert re.sub(r"\d+ more", "13 more", nearest) in re.sub(r"\d+ more", "13 more", said)


def test_two_experiments_are_held_against_each_other(experiment, other, capsys):  # noqa: F811
    assert main(["diff", str(experiment), str(other), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert {one["place"]: (one["first"], one["second"]) for one in told["settings"]}.keys() == {
        "selections.half.keep_fraction",
        "students.third",
    }
    changed = told["changed"]
    assert changed[CUTOFF] == ["settings.keep_fraction: 0.5 -> 0.25"]
    assert "half/refined_corpus" in changed and "large/teacher_scores" in told["shared"]
    # The third is no_kd under another name.
    assert "third/student_checkpoint" in told["shared"] and "third/student_checkpoint" not in told["only_second"]
    # What the first makes, the second does not pay for.
    paid = {one["key"] for one in told["cost"]}
    assert not paid & set(told["shared"]) and paid == set(changed) | set(told["only_second"])
    assert told["is_by_fingerprint"] and told["same_warehouse"]

    assert main(["diff", str(experiment), str(other)]) == 1
    printed = capsys.readouterr().out
    assert "selections.half.keep_fraction: 0.5 -> 0.25" in printed and "Neither has an outcome yet." in printed
    assert all(len(line) <= 80 or "/" in line for line in printed.splitlines())
    assert main(["diff", str(experiment), str(experiment)]) == 0
    assert "No setting and no result differs." in capsys.readouterr().out


def test_a_corpus_that_was_never_seen_is_compared_by_definitions(experiment, other, tmp_path, capsys):  # noqa: F811
    (tmp_path / "corpus").rename(tmp_path / "gone")
    (tmp_path / "warehouse" / "raw_corpus").rename(tmp_path / "seen")
    assert main(["diff", str(experiment), str(other), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert not told["is_by_fingerprint"] and "large/teacher_scores" in told["shared"] and CUTOFF in told["changed"]


def test_losses_stand_side_by_side(experiment, other, capsys):  # noqa: F811
    for path, losses in ((experiment, (4.0, 5.0)), (other, (4.5,))):
        pipeline = open_pipeline(path)

        def write(draft, losses=losses):
            draft.facts = {"verdict": "so."}
            pl.DataFrame(
                {"student": ["miniplm"] * len(losses), "validation_nll_nats_per_token": list(losses)}
            ).write_parquet(draft.path / "students.parquet")

        pipeline.store.make(pipeline.latest_fingerprints().recipe("comparison"), write)
    assert main(["diff", str(experiment), str(other)]) == 1
    assert re.search(r"^miniplm +4\.5000 +4\.5000 +\+0\.0000$", capsys.readouterr().out, re.MULTILINE)


def test_figures_say_their_units():
    told = {
        "num_tokens": (1_234_567, "1,234,567"),
        "num_bytes": (1_900_000_000, "1.9 GB"),
        "sequence_id": (1_234_567, "1234567"),
        "wall_seconds": (7_200.0, "2.0 h"),
        "kept_share": (0.4567, "45.7%"),
        "is_kept": (True, "yes"),
        "loss": (4.61953, "4.62"),
        "nothing": (None, "-"),
        "token_ids": (list(range(100)), "[0, 1, 2, 3, 4, 5, … 100 values]"),
    }
    assert {name: figure(name, value) for name, (value, _) in told.items()} == {
        name: expected for name, (_, expected) in told.items()
    }
    assert [duration(seconds) for seconds in (None, 3.21, 600, 5_970, 300_000, 1e9)] == [
        "-",
        "3.2 s",
        "10 min",
        "1.7 h",
        "3 days",
        "11,574 days",
    ]
    assert [count(number) for number in (None, 12, 1_500, 9.98e10, 3.7e20)] == ["-", "12", "1.5k", "99.8G", "3.7e20"]
    assert [size(number) for number in (None, 0, 999, 1_900)] == ["-", "0 B", "999 B", "1.9 kB"]


def test_tables_and_text_fit_the_terminal():
    lines = table(("asset", "time"), [("short", "1 s"), ("n" * 40, "12 s")], 30).splitlines()
    assert lines == ["asset" + " " * 21 + "time", "short" + " " * 22 + "1 s", "n" * 40, " " * 26 + "12 s"]
    assert wrapped("one two three\n\n/a/path/that/is/long", 8, " ") == " one two\n three\n\n /a/path/that/is/long"
    assert (cut("one  two\nthree", 20), cut("one two three", 8)) == ("one two three", "one two…")
    rows = [{"domain": "code", "texts": ["one", "two"], "num_kept": 3}]
    assert in_rows(rows, 80).splitlines() == ["domain  num_kept     text", "code           3  one two"]
    assert in_rows(rows, 20).splitlines() == ["  domain    code", "  num_kept  3", "  text      one two"]
