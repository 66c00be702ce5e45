"""The page of an asset: nothing is wider than a screen, what is short stands in place, the bookkeeping is last."""
# ruff: noqa: F811

import re
from dataclasses import replace
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import dagster as dg
import polars as pl
import pytest

from miniplm_assets.assets.asset_page import describe
from miniplm_assets.assets.checks import COLUMNS_ARE_AS_DESCRIBED, check_results, check_specs
from miniplm_assets.assets.observing import Observing
from miniplm_assets.assets.pages import BEHIND_A_BUTTON, MAX_WORD_CHARACTERS, behind_a_button, shown
from miniplm_assets.core.progressed import Progressed
from miniplm_assets.evaluation.differences import PER_BYTE, PER_TOKEN, SCHEMA, HeldAgainst
from miniplm_assets.evaluation.small_chart import small_chart
from miniplm_assets.experiment import Decoding
from miniplm_assets.kinds import comparison_page
from miniplm_assets.kinds.evaluation_page import evaluation_page
from miniplm_assets.kinds.generated_page import generated_page
from miniplm_assets.lineage.facts_page import page_of_facts, page_of_table
from miniplm_assets.lineage.kind import Check
from miniplm_assets.lineage.page import Lines, Rows, Words, amount, seconds_in_words
from miniplm_assets.storage.manifest import CheckOutcome, Manifest
from tests.test_work import LENGTHS, make_lengths, work  # noqa: F401 (a fixture)

LAST = ["what the words mean", "bookkeeping"]


def test_what_came_out_is_first_and_the_bookkeeping_last(work):
    one = work("lengths")
    page = describe(one, make_lengths(one))
    assert list(page) == ["by", "figures", "made", "shards", "columns", "dagster/row_count", *LAST]
    assert "All 2 corpus files were computed in this run" in page["made"]
    assert "| a.jsonl | 2 | computed |" in page["shards"].md_str
    assert "| corpus file | a file of the corpus" in page["what the words mean"].md_str
    kept = page["bookkeeping"].value
    assert (kept["num_results_computed"], kept["facts"]["num_rows"]) == (2, 5)


def test_what_is_found_stored_says_when_it_was_made_and_by_which_run(work):
    one = work("lengths")
    one.run.run_id = "0123456789ab"
    make_lengths(one)
    minutes = {piece.manifest.created_at[:16].replace("T", " ") for piece in one.tally.pieces.values()}
    again = work("lengths")
    page = describe(again, make_lengths(again))
    made = page["made"].md_str
    assert made.startswith("Nothing was computed. All 2 corpus files were found stored, as made ")
    assert all(minute in made for minute in minutes)
    assert "[01234567](/runs/0123456789ab)" in made
    assert "| stored |" in page["shards"].md_str


def test_a_manifest_of_an_earlier_release_is_as_whole_as_it_was():
    ingredients = {"kind": "k", "inputs": {}}
    content = {
        "key": "k", "kind": "k", "fingerprint": "?", "ingredients": ingredients, "files": (), "facts": {},
        "seconds": 1.0, "created_at": "2026-01-01T00:00:00+00:00", "versions": {},
    }  # fmt: skip
    from miniplm_assets.core.recipe import fingerprint_of

    content["fingerprint"] = fingerprint_of(ingredients)
    # As that release worked the checksum out, which knew no `made_by`.
    as_it_was = content | {"format": 2, "files": [], "checks": []}
    sealed = Manifest.model_validate(as_it_was | {"checksum": fingerprint_of(as_it_was)})
    assert sealed.made_by == {}
    with pytest.raises(ValueError, match="own checksum"):
        Manifest.model_validate(content | {"made_by": {"run": "r"}, "checksum": fingerprint_of(as_it_was)})


def test_no_word_of_a_page_is_wider_than_a_screen():
    path = "/a/very/long/path/" + 200 * "x"
    for entry in (path, Rows(("file",), [[path]]), f"**found** {path}"):
        for value in shown("it", entry).values():
            text = value if isinstance(value, str) else value.md_str
            assert max(map(len, re.split(r"[\s\u200b]", text))) <= MAX_WORD_CHARACTERS + 2
            assert path in text.replace("\u200b", "")


def test_what_is_short_stands_in_place_and_what_is_bookkeeping_never_does():
    few = shown("t", Rows(("a", "b, nats"), [["x", 1234.5], ["y", 1_234_567]]))["t"]
    assert few.md_str.splitlines()[1:] == ["| --- | ---: |", "| x | 1,234 |", "| y | 1,234,567 |"]
    texts = shown("t", Rows(("text",), [[150 * "ab "] for _ in range(6)]))["t"]
    assert isinstance(texts, dg.TableMetadataValue) and len(texts.records) == 6
    link = shown("t", Rows(("text",), [["write to me@example.org"]]))["t"]
    assert isinstance(link, dg.TableMetadataValue)  # Markdown would make a link of what a corpus holds
    assert len(behind_a_button({"a": 1}).md_str) >= BEHIND_A_BUTTON
    with pytest.raises(AssertionError, match="6 columns"):
        Rows(tuple("abcdef"), [])


@pytest.mark.parametrize("num_lines", [1, 2, 4])
def test_a_chart_of_a_few_lines_stands_in_place(num_lines):
    lines = {
        f"a <student> {place}": [(step * 1e6, 8 / (step + place + 1)) for step in range(99)]
        for place in range(num_lines)
    }
    (chart,) = shown("loss", Lines(lines, x="tokens")).values()
    assert len(chart.md_str) < BEHIND_A_BUTTON and chart.md_str.startswith("![loss](<data:image/svg+xml,")


def test_a_chart_has_its_ends_where_they_are():
    root = ET.fromstring(small_chart({"one": [(0, 1.0), (5, 3.0), (10, 2.0)]}, x="steps", num_points=3))
    path = next(one.get("d") for one in root.findall("{*}path") if one.get("stroke") == "#47a")
    # From the lower left corner to the top in the middle, then half way down at the right end.
    assert path == "M42,130l115,-116 115,58"
    assert [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")] == ["3", "1", "0", "10", "steps"]


def test_facts_of_a_kind_without_a_page_of_its_own_are_all_in_place():
    page = page_of_facts(
        {"num_rows": 3, "verdict": "**Go.** now", "by_split": {"a": 1}, "rows": [{"x": 1, "y": "b"}], "pieces": []}
    )
    assert list(page.outcome) == ["verdict", "by split", "rows", "figures"]


def test_numbers_are_written_for_a_reader():
    assert [amount(one) for one in (800034, 4.619012, 12345.6, True, None)] == [
        "800,034",
        "4.619",
        "12,346",
        "yes",
        "none",
    ]
    assert [seconds_in_words(one) for one in (0.312, 42.4, 200, 18_180)] == [
        "0.31 s",
        "42 s",
        "3 min 20 s",
        "5 h 3 min",
    ]


def test_a_long_step_observes_its_asset_now_and_then(work, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("miniplm_assets.assets.observing.time.monotonic", lambda: now[0])
    events = []
    context = SimpleNamespace(
        asset_key=dg.AssetKey("lengths"), log_event=events.append, run=SimpleNamespace(run_id="0123456789")
    )
    observing = Observing(context)
    with pytest.raises(OSError, match="full"), observing.until_made():
        raise OSError("full")
    assert not events, "nothing was told that is no longer so"
    one = work("lengths")
    make_lengths(one)
    first = Progressed("step 1 of 9", done=1, total=9)
    for second, line in ((10, "too early"), (61, first), (70, "too early again"), (130, "step 5 of 9")):
        now[0] = second
        observing.tell(line)
    assert [event.metadata["progress"].value for event in events] == ["11 %: step 1 of 9", "step 5 of 9"]
    assert all(dg.deserialize_value(dg.serialize_value(event), dg.AssetObservation) == event for event in events)
    del one.tally.rows["b.jsonl"]
    now[0] = 200
    observing.see(one.tally, ["a.jsonl", "b.jsonl"])
    assert events[-1].metadata["progress"].value == "1 of 2 are there"
    with observing.until_made():
        pass
    assert events[-1].metadata["progress"].value == "1 of 2 are there"
    with pytest.raises(OSError, match="full"), observing.until_made():
        raise OSError("full")
    assert events[-1].metadata["progress"].value.startswith("ended before it was complete")
    assert "Run 01234567 says why" in events[-1].metadata["progress"].value
    assert events[-1].metadata["pieces"].value.splitlines()[-1] == "| b.jsonl |  | to do |  |  |"


def test_checks_of_columns_are_one_that_names_what_failed():
    kind = replace(
        LENGTHS,
        checks=(
            Check("not_null_a", "a is.", is_of_columns=True),
            Check("unique_a", "one a.", is_of_columns=True),
            Check("pairs", "p"),
        ),
    )
    assert [spec.name for spec in check_specs(kind, dg.AssetKey("x"))] == ["pairs", COLUMNS_ARE_AS_DESCRIBED]

    def results(**passed):
        return check_results(
            kind, [CheckOutcome(name=name, passed=ok, description="why") for name, ok in passed.items()]
        )

    fine = results(not_null_a=True, unique_a=True, pairs=True)
    assert [(one.check_name, one.passed) for one in fine] == [("pairs", True), (COLUMNS_ARE_AS_DESCRIBED, True)]
    wrong = results(not_null_a=True, unique_a=False, pairs=True)[1]
    assert not wrong.passed and wrong.severity == dg.AssetCheckSeverity.ERROR and wrong.description == "unique_a: why"


def test_columns_that_do_not_fit_beside_the_others_are_behind_a_button():
    rows = [["half/selection", "candidates", "boilerplate", 1_000, 2_000_000]]
    in_place, whole = shown("t", Rows(("a", "b", "c", "d", "e"), rows)).items()
    assert in_place[0] == "t" and in_place[1].md_str.splitlines()[0] == "| a | b | c | d |"
    assert whole[0] == "t: all columns" and "| e |" in whole[1].md_str and len(whole[1].md_str) >= BEHIND_A_BUTTON


def test_of_a_long_text_stands_in_place_how_its_paragraphs_begin():
    short = "One is better. By 0.3 nats."
    assert shown("verdict", Words(short))["verdict"].md_str == short
    pairs = [f"s{n} is worse than s0, by 0.{n} nats. {'And so on. ' * 40}" for n in range(1, 40)]
    whole = "\n\n".join([*pairs[:1], "Of 39 held against s0, all end higher.", *pairs[1:]])
    in_place, in_full = shown("verdict", Words(whole)).items()
    assert in_place[0] == "verdict" and len(in_place[1].md_str) < BEHIND_A_BUTTON
    beginnings = in_place[1].md_str.split("\n\n")
    assert beginnings[:3] == [
        "s1 is worse than s0, by 0.1 nats. …",
        "Of 39 held against s0, all end higher.",
        "s2 is worse than s0, by 0.2 nats. …",
    ]
    assert 10 < len(beginnings) < 30
    assert in_full == ("verdict: in full", dg.MetadataValue.md(whole))
    # One sentence that is too long for any page is shown as it is.
    assert list(shown("verdict", Words("word " * 400))) == ["verdict"]


def student_row(student, seed, loss):
    return {
        "student": student,
        "seed": seed,
        "validation_nll_nats_per_token": loss,
        "bits_per_byte": loss / 2,
        "num_tokens": 100 + seed,
        "tokens_saved_factor": None,
    }


def held_against(student, baseline, *, fewer=None, unit=PER_TOKEN, is_over_seeds=True):
    columns = dict.fromkeys(SCHEMA)
    return HeldAgainst(
        **columns
        | {"student": student, "baseline": baseline, "unit": unit, "is_over_seeds": is_over_seeds}
        | {"difference": -0.272, "difference_low": -0.323, "difference_high": -0.221, "tokens_saved_factor": fewer}
    )


def test_students_are_told_with_their_intervals_the_lowest_loss_first_each_once():
    rows = [student_row(name, seed, loss + seed / 100) for name, loss in (("a", 4.0), ("b", 3.0)) for seed in (1, 3)]
    held = {"b": held_against("b", "a", fewer=2.06)}
    students, more = comparison_page._students([*rows, rows[0], rows[1]], held).items()
    assert (students[0], more[0]) == ("students", "their seeds and tokens")
    assert students[1].columns == (
        "student",
        "held-out loss, nats / token, mean of 2 seeds",
        "against a (95 % interval)",
        "times fewer tokens",
    )
    assert students[1].rows == [
        ["b", pytest.approx(3.02), "-0.272 (-0.323 to -0.221)", "2.060"],
        ["a", pytest.approx(4.02), "", ""],
    ]
    assert [row[1:] for row in more[1].rows] == [
        pytest.approx([3.01, 3.03, 1.51, 102]),
        pytest.approx([4.01, 4.03, 2.01, 102]),
    ]


def test_of_several_baselines_each_difference_names_its_own():
    rows = [student_row(name, 1, loss) for name, loss in (("a", 4.0), ("b", 3.0), ("c", 2.0))]
    held = {
        "b": held_against("b", "a", is_over_seeds=False),
        "c": held_against("c", "b", unit=PER_BYTE, is_over_seeds=False),
    }
    table = comparison_page._students(rows, held)["students"]
    assert table.columns[1:3] == ("held-out loss, nats / token", "against its baseline (95 % interval)")
    assert [row[2] for row in table.rows] == [
        "b: -0.272 (-0.323 to -0.221) bits / byte; one seed",
        "a: -0.272 (-0.323 to -0.221); one seed",
        "",
    ]


def test_a_small_picture_has_baselines_and_the_lowest_of_many_curves():
    curves = {f"s{n}": [(1.0, 9.0), (2.0, 5.0 - n / 10)] for n in range(8)}
    assert list(comparison_page._few(curves, {"s0", None})) == ["s0", "s4", "s5", "s6", "s7"]
    assert comparison_page._few(dict(list(curves.items())[:5]), set()) == dict(list(curves.items())[:5])


def evaluation(loss, **more):
    domains = [
        {"domain": name, "nll_nats_per_token": loss + n, "perplexity": 9.0, "num_scored_tokens": 50}
        for n, name in enumerate("ab")
    ]
    facts = {
        "nll_nats_per_token": loss,
        "bits_per_byte": loss / 2,
        "perplexity": 7.5,
        "num_scored_tokens": 12_345,
        "num_sequences": 100,
        "over": "all domains but noise",
        "in_context_gain_nats_per_token": 0.25,
        "by_domain": domains,
    }
    return SimpleNamespace(facts=facts | more)


def evaluated(**seeds):
    inputs = {"student_checkpoint": "miniplm/student_checkpoint"}
    return SimpleNamespace(tally=SimpleNamespace(pieces=seeds), node=SimpleNamespace(inputs=inputs))


def test_an_evaluation_begins_with_its_loss_over_all_seeds():
    page = evaluation_page(evaluated(one=evaluation(4.0), two=evaluation(4.5)), None)
    assert list(page.outcome) == ["outcome", "by domain", "by seed"]
    assert page.outcome["outcome"] == (
        "Held-out loss 4.25 nats a token (2.125 bits a byte), from 4 to 4.5, of 2 seeds, over 12,345 tokens of 100 "
        "validation sequences: all domains but noise."
    )
    assert page.outcome["by domain"].rows == [["a", 4.25, 4.0, 4.5, 50], ["b", 5.25, 5.0, 5.5, 50]]
    assert page.outcome["by seed"].rows == [["one", 4.0, 7.5, 2.0], ["two", 4.5, 7.5, 2.25]]
    assert page.made_of["long contexts lower the loss by, nats / token"] == 0.25


def test_an_evaluation_of_one_seed_has_no_spread():
    none = {"in_context_gain_nats_per_token": None, "mean_over_last_checkpoints": 3}
    page = evaluation_page(evaluated(one=evaluation(4.0, **none)), None)
    assert page.outcome["outcome"].startswith("Held-out loss 4 nats a token (2 bits a byte), over 12,345 tokens")
    assert list(page.outcome) == ["outcome", "by domain"]
    assert page.outcome["by domain"].rows[0] == ["a", 4.0, 9.0, 50]
    assert page.made_of == {"measured": "miniplm/student_checkpoint, the mean over its last 3 states"}


def test_a_generated_corpus_shows_how_what_was_written_begins(tmp_path):
    rows = {"domain": ["code", "web", "web"], "continuation": ["  ", "and then\n  " + "x" * 300, "the end"]}
    path = tmp_path / "generated_corpus.parquet"
    pl.DataFrame(rows).write_parquet(path)
    piece = SimpleNamespace(matching=lambda _pattern: [path])
    kind = SimpleNamespace(table=path.name, pieces="shard")
    work = SimpleNamespace(
        piece_recipes={"a.jsonl": None, "b.jsonl": "recipe"},
        pipeline=SimpleNamespace(store=SimpleNamespace(find={"recipe": piece, None: None}.get)),
        node=SimpleNamespace(kind=kind, inputs={"model": "large/teacher_model"}),
        settings=SimpleNamespace(prompt_tokens=768, decoding=Decoding()),
    )
    facts = {
        "num_sequences": 200, "num_tokens": 4_000, "num_prompt_tokens": 3_000, "num_generated_tokens": 1_000,
        "num_short": 20, "num_kept_as_they_are": 10, "num_ended": 50, "device_seconds": 20.0,
    }  # fmt: skip
    page = generated_page(work, SimpleNamespace(facts=facts))
    assert page.outcome["outcome"] == (
        "Of 200 sequences the teacher wrote 1,000 of 4,000 tokens (25.0%) in 20 s of a device, 50 tokens a second; the "
        "others are the prompts."
    )
    assert [row[1:] for row in page.outcome["what became of them"].rows] == [[50, "25.0%"], [20, "10.0%"], [10, "5.0%"]]
    examples = page.outcome["how what it wrote begins"].rows
    assert [row[0] for row in examples] == ["web", "web"]
    assert examples[0][1].startswith("and then xxx") and examples[1][1] == "the end"
    assert ["tokens of a prompt", 768] in page.made_of["settings asked for"].rows


def test_of_a_table_that_tells_nothing_else_a_page_shows_how_it_begins(tmp_path):
    path = tmp_path / "marks.parquet"
    pl.DataFrame({"name": [f"n{n}" for n in range(99)], "ids": [[1]] * 99, "value": range(99)}).write_parquet(path)
    result = SimpleNamespace(
        facts={},
        manifest=SimpleNamespace(checks=()),
        described=lambda _pattern: [SimpleNamespace(name=path.name, num_rows=99)],
        matching=lambda _pattern: [path],
    )
    kind = SimpleNamespace(checks=(), table=path.name, pieces=None)
    work = SimpleNamespace(node=SimpleNamespace(kind=kind), tally=SimpleNamespace(pieces={}))
    [(name, rows)] = page_of_table(work, result).outcome.items()
    assert (name, list(rows.columns)) == ("its first 5 rows", ["name", "value"])
    assert rows.rows == [[f"n{n}", n] for n in range(5)]


def test_a_page_says_what_its_checks_found_but_not_what_they_mean():
    checks = (
        CheckOutcome(name="agree", passed=True, description="both agree"),
        CheckOutcome(name="whole", passed=True, description="A failure means that rows are lost."),
        CheckOutcome(name="silent", passed=True),
    )
    kind = SimpleNamespace(checks=(Check("whole", "A failure means that rows are lost."),), table=None, pieces=None)
    result = SimpleNamespace(facts={"num_rows": 3}, manifest=SimpleNamespace(checks=checks))
    page = page_of_table(SimpleNamespace(node=SimpleNamespace(kind=kind)), result)
    assert page.outcome["checks"] == "both agree"
