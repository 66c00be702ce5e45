"""What students cost, and who is the cheaper from when on: numbers that can be worked out by hand."""

import pytest

from miniplm_assets.evaluation.ledger import (
    Offline,
    break_even_table,
    cheaper_range,
    flops_to_loss_of,
    ledger_in_words,
    ledger_table,
)
from tests.test_evaluation import half, student

# Curves are measured each 2,000 tokens; the loss of their sample lies on both domains alike.
PLAIN = student("plain", [5.0, 4.0, 3.0, 2.0], by_domain={"code": 2.0})
BETTER = student("better", [4.0, 2.0, 1.5, 1.0], by_domain={"code": 1.0}, selection=half())
WORSE = student("worse", [6.0, 5.0, 4.5, 4.0], by_domain={"code": 4.0})
OFFLINE = [
    Offline(asset="large/teacher_scores", flops=90_000_000, students=frozenset({"better", "worse"})),
    Offline(asset="small/reference_scores", flops=10_000_000, students=frozenset({"better"})),
]
TRAINING = 48_000_000.0  # of each, on 8,000 tokens


def test_a_student_pays_its_training_and_its_part_of_what_was_made_before():
    rows = {row["student"]: row for row in ledger_table([PLAIN, BETTER, WORSE], OFFLINE).iter_rows(named=True)}
    assert rows["plain"]["flops"] == rows["plain"]["training_flops"] == TRAINING
    assert rows["plain"]["offline_assets"] == []
    assert rows["better"]["offline_flops"] == 100_000_000
    assert rows["better"]["offline_flops_share"] == 55_000_000
    assert rows["better"]["flops"] == TRAINING + 55_000_000
    assert rows["better"]["offline_assets"] == ["large/teacher_scores", "small/reference_scores"]
    assert rows["worse"]["offline_flops_share"] == 45_000_000
    assert (rows["better"]["num_tokens"], rows["better"]["num_seeds"]) == (8_000, 1)


def test_the_training_to_a_loss_ends_where_the_curve_crosses_it():
    assert flops_to_loss_of(BETTER, PLAIN, []) == [TRAINING / 2]  # 2.0 after 4,000 of 8,000 tokens
    assert flops_to_loss_of(PLAIN, BETTER, []) == []


@pytest.mark.parametrize(
    ("extra_offline", "saved_each", "expected"),
    [
        (100, 24, (5, None)),  # 4 * 24 = 96 < 100 < 5 * 24
        (96, 24, (5, None)),  # as dear at 4
        (0, 24, (1, None)),
        (-50, 24, (1, None)),
        (100, 0, None),
        (100, -3, None),
        (-1, 0, (1, None)),
        (-100, -30, (1, 3)),
        (-90, -30, (1, 2)),  # as dear at 3
        (-30, -30, None),
        (0, 0, None),
    ],
)
def test_a_way_is_cheaper_from_or_up_to_a_number(extra_offline, saved_each, expected):
    assert cheaper_range(extra_offline=extra_offline, saved_each=saved_each) == expected
    for number in range(1, 9):  # the oracle: the costs themselves
        first, last = expected or (99, None)
        is_cheaper = extra_offline - number * saved_each < 0
        assert is_cheaper == (first <= number <= (last or 99))


def test_pairs_say_from_when_on():
    students = [PLAIN, BETTER, WORSE]
    table = break_even_table(students, ledger_table(students, OFFLINE))
    rows = {(row["student"], row["opponent"]): row for row in table.iter_rows(named=True)}
    assert len(rows) == 6
    better = rows["better", "plain"]
    assert better["training_flops"] == TRAINING / 2
    assert better["cheaper_from_students"] == 5  # 100 of scoring, 24 saved with each
    assert better["cheaper_from_tokens"] == 5 * 8_000
    assert better["outcome"] == "better against plain: it is the cheaper way from 5 students on."
    plain = rows["plain", "better"]
    assert (plain["num_seeds_reached"], plain["training_flops"], plain["cheaper_from_students"]) == (0, None, None)
    assert "never reached that loss" in plain["outcome"]
    assert rows["plain", "worse"]["cheaper_from_students"] == 1
    words = ledger_in_words(ledger_table(students, OFFLINE), table, [("better", "plain")])
    assert words.splitlines()[3] == better["outcome"]
    assert "One seed of each" in words and "against worse" not in words


def test_another_tokenizer_has_other_losses_a_token_and_is_held_against_none():
    other = student("other", [1.0, 1.0], by_domain={"code": 1.0}, tokenizer="words")
    assert break_even_table([PLAIN, other], ledger_table([PLAIN, other], [])).is_empty()
