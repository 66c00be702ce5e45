"""Students held against their baseline, with intervals: cases that can be worked by hand."""

import math
from dataclasses import replace

import polars as pl
import pytest

from miniplm_assets.core.errors import ScoringError
from miniplm_assets.core.intervals import difference_of_means
from miniplm_assets.evaluation.comparison import StudentRecord, StudentRun
from miniplm_assets.evaluation.differences import differences_in, differences_table, hold_against

NUM_GROUPS = 100


def run_of(losses: list[float], *, seed: int, shift: float = 0.0) -> StudentRun:
    """A run that was measured at 2,000, 4,000 ... tokens; its sequences cost the last loss, more and less in turn."""
    spread = [0.5 if group % 2 else -0.5 for group in range(NUM_GROUPS)]
    nats = pl.Series([10 * (losses[-1] + one + shift * group / NUM_GROUPS) for group, one in enumerate(spread)])
    total = float(nats.sum())
    groups = pl.DataFrame({"group": range(NUM_GROUPS), "nll_nats": nats}).with_columns(
        num_sequences=2, num_scored_tokens=10, num_scored_bytes=40
    )
    num_tokens = [2_000 * (place + 1) for place in range(len(losses))]
    return StudentRun(
        seed=seed,
        num_epochs=1.0,
        measured_by={},
        training_flops=1,
        training_log=pl.DataFrame({"num_tokens": num_tokens}),
        held_out_log=pl.DataFrame({"num_tokens": num_tokens, "nll_nats": [10 * loss for loss in losses]}).with_columns(
            domain=pl.lit("code"), num_scored_tokens=10
        ),
        held_out=pl.DataFrame(
            {
                "domain": ["all domains"],
                "is_total": [True],
                "nll_nats_per_token": [total / (10 * NUM_GROUPS)],
                "bits_per_byte": [total / math.log(2) / (40 * NUM_GROUPS)],
            }
        ),
        groups=groups,
    )


def student(name: str, *curves: list[float], tokenizer: str = "bpe", shift: float = 0.0) -> StudentRecord:
    runs = tuple(run_of(losses, seed=seed, shift=shift) for seed, losses in enumerate(curves))
    return StudentRecord(name=name, corpus="candidates", tokenizer=tokenizer, num_parameters=1, runs=runs)


def test_one_seed_of_each_is_judged_over_the_text_alone() -> None:
    # The difference of a sequence is -0.2 + 0.1 g / 100 for its group g: its mean -0.1505, its deviation 0.0289.
    held = hold_against(student("better", [4.0, 2.8], shift=0.1), student("no_kd", [4.0, 3.0]))
    assert held.difference == pytest.approx(-0.2 + 0.1 * 0.495)
    assert (held.outcome, held.is_over_seeds, held.num_seeds_needed) == ("lower", False, None)
    half = 1.96 * 0.0289 / math.sqrt(NUM_GROUPS)
    assert held.difference_low == pytest.approx(held.difference - half, abs=0.001)
    assert held.difference_high == pytest.approx(held.difference + half, abs=0.001)
    assert held.num_sequences == 2 * NUM_GROUPS


def test_what_both_find_hard_does_not_blur_the_difference() -> None:
    # Each loss varies by 0.5 from sequence to sequence, the difference not at all.
    held = hold_against(student("better", [4.0, 2.999]), student("no_kd", [4.0, 3.0]))
    assert held.text_variance == pytest.approx(0, abs=1e-20)
    assert (held.difference_low, held.difference_high) == pytest.approx((-0.001, -0.001))
    assert held.outcome == "lower"
    assert hold_against(student("same", [4.0, 2.9996]), student("no_kd", [4.0, 3.0])).outcome == "alike"


def test_several_seeds_are_judged_over_seeds_and_text() -> None:
    base = student("no_kd", [4.0, 3.0], [4.0, 3.1], [4.0, 3.2])
    held = hold_against(student("better", [4.0, 2.6], [4.0, 2.7], [4.0, 2.8]), base)
    by_seeds = difference_of_means([2.6, 2.7, 2.8], [3.0, 3.1, 3.2])  # tested against Welch's own
    assert (held.difference_low, held.difference_high) == pytest.approx((by_seeds.low, by_seeds.high))
    assert (held.outcome, held.is_over_seeds, held.seed_variance) == ("lower", True, pytest.approx(0.02))
    beside = hold_against(student("beside", [4.0, 2.9], [4.0, 3.1], [4.0, 3.2]), base)
    assert (beside.outcome, beside.num_seeds_needed) == (
        "not told apart",
        difference_of_means([2.9, 3.1, 3.2], [3.0, 3.1, 3.2]).num_needed(),
    )
    # Three seeds of each: Student's t at 97.5 % and 80 % of 4 degrees of freedom are 2.7764 and 0.9410.
    assert held.smallest_told == pytest.approx((2.7764 + 0.9410) * math.sqrt(0.02 / 3), abs=1e-4)
    wide = hold_against(student("wide", [4.0, 2.6], [4.0, 2.7], [4.0, 2.8], shift=0.4), base)
    assert wide.text_variance == pytest.approx((0.4 * 0.2887) ** 2 / NUM_GROUPS, rel=0.1)
    assert wide.difference_high - wide.difference_low > by_seeds.high - by_seeds.low


def held_student() -> StudentRecord:
    return student("better", [4.0, 2.0], [4.0, 2.0])


def test_tokens_saved_are_those_of_all_pairs_of_seeds() -> None:
    base = student("no_kd", [4.0, 3.0], [4.0, 3.2])
    # Half-way down at 3,000 tokens for the one target, and at 2,800 for the other; and twice as steep.
    held = hold_against(held_student(), base)
    factors = [4_000 / 3_000, 4_000 / 2_800] * 2
    assert held.tokens_saved_factor == pytest.approx(math.prod(factors) ** 0.25)
    assert held.num_pairs_reached == 4
    assert held.flops_saved_factor == pytest.approx(held.tokens_saved_factor)
    dear = replace(held_student(), runs=tuple(replace(run, training_flops=3) for run in held_student().runs))
    assert hold_against(dear, base).flops_saved_factor == pytest.approx(held.tokens_saved_factor / 3)
    logs = [math.log(4_000 / 3_000), math.log(4_000 / 2_800)]
    middle = sum(logs) / 2
    interval = difference_of_means([middle, middle], [middle - one for one in logs])
    assert held.tokens_saved_low == pytest.approx(math.exp(interval.low))
    assert held.tokens_saved_high == pytest.approx(math.exp(interval.high))
    late = hold_against(student("late", [4.0, 3.1], [4.0, 2.0]), base)  # one seed gets to 3.2 alone
    assert (late.tokens_saved_factor, late.tokens_saved_low, late.num_pairs_reached) == (None, None, 3)
    one = hold_against(student("one", [4.0, 2.0]), student("no_kd", [4.0, 3.0]))
    assert (one.tokens_saved_factor, one.tokens_saved_low) == (pytest.approx(4 / 3), None)


def test_students_of_other_tokenizers_are_held_against_each_other_by_bytes() -> None:
    held = hold_against(student("words", [4.0, 2.0], tokenizer="words"), student("no_kd", [4.0, 3.0]))
    assert (held.unit, held.tokens_saved_factor, held.num_pairs_reached) == ("bits_per_byte", None, 0)
    assert held.difference == pytest.approx(-10 / 40 / math.log(2))
    # Each mean of 100 sequences that vary by 0.5 nats a token, 10 tokens and 40 bytes a sequence; drawn independently.
    error = 0.5 * 10 / 40 / math.log(2) / math.sqrt(NUM_GROUPS)
    assert held.text_variance == pytest.approx(2 * error**2, rel=0.1)


def test_students_of_one_tokenizer_must_have_been_measured_on_the_same_sequences() -> None:
    base, other = student("no_kd", [4.0, 3.0]), student("other", [4.0, 3.0])
    [only] = other.runs
    fewer = replace(other, runs=(replace(only, groups=only.groups.head(50)),))
    with pytest.raises(ScoringError, match="other and no_kd were measured on different held-out sequences"):
        hold_against(fewer, base)


def test_too_little_text_gives_no_interval() -> None:
    def cut(one: StudentRecord) -> StudentRecord:
        return replace(one, runs=tuple(replace(run, groups=run.groups.head(19)) for run in one.runs))

    held = hold_against(cut(student("better", [4.0, 2.0])), cut(student("no_kd", [4.0, 3.0])))
    assert (held.difference_low, held.text_variance, held.outcome) == (None, None, "lower")


def test_the_table_says_the_same_when_it_is_read() -> None:
    held = hold_against(student("better", [4.0, 2.8], [4.0, 2.7]), student("no_kd", [4.0, 3.0]))
    assert differences_in(differences_table([held])) == [held]
