"""Intervals over the text: against draws done by hand, and against what drawn texts give."""

import numpy as np
import polars as pl
import pytest

from miniplm_assets.core.intervals import difference_of_means, difference_over_text
from miniplm_assets.core.resampling import NUM_GROUPS, in_groups, resampled_ratios
from miniplm_assets.core.sampling import hash_fractions


def test_groups_add_up_and_are_the_same_for_everybody() -> None:
    ids = np.random.default_rng(0).permutation(20_000).astype(np.int64)
    rows = pl.DataFrame({"sequence_id": ids, "nll_nats": ids * 0.5, "num_scored_tokens": ids % 7})
    groups = in_groups(rows)
    assert groups["num_sequences"].sum() == 20_000
    assert groups["nll_nats"].sum() == pytest.approx(rows["nll_nats"].sum())
    one = rows.filter(pl.Series(np.floor(hash_fractions(ids, seed=0) * NUM_GROUPS) == groups["group"][5]))
    assert groups.row(5)[1:] == (one.height, one["nll_nats"].sum(), one["num_scored_tokens"].sum())
    assert in_groups(rows.sort("sequence_id")).equals(groups)


def test_ratios_vary_as_those_of_texts_drawn_one_by_one() -> None:
    random = np.random.default_rng(1)
    tokens = random.integers(1, 200, 300).astype(np.float64)
    nats = tokens * random.normal(4.0, 0.5, 300)
    found = resampled_ratios(nats[:, None], tokens[:, None])[:, 0]
    by_hand = []
    for _ in range(2_000):
        drawn = random.integers(0, 300, 300)
        by_hand.append(nats[drawn].sum() / tokens[drawn].sum())
    assert found.mean() == pytest.approx(np.mean(by_hand), abs=0.003)
    assert found.std() == pytest.approx(np.std(by_hand), rel=0.08)


def test_models_measured_on_the_same_text_are_drawn_together() -> None:
    random = np.random.default_rng(2)
    tokens = np.full((400, 2), 100.0)
    hard = random.normal(400, 80, 400)  # what makes a text hard for both
    ratios = resampled_ratios(np.column_stack([hard, hard + 10]), tokens)
    assert (ratios[:, 1] - ratios[:, 0]).std() == pytest.approx(0, abs=1e-12)
    assert ratios.std(0).min() > 0.02
    assert not np.array_equal(ratios, resampled_ratios(np.column_stack([hard, hard + 10]), tokens, seed=1))


@pytest.mark.parametrize("num_sequences", [60, 1_000])
def test_the_interval_over_text_holds_the_difference_as_often_as_it_says(num_sequences: int) -> None:
    random = np.random.default_rng(3)
    num_held = 0
    for _ in range(100):
        tokens = random.integers(20, 200, num_sequences).astype(np.float64)
        hard = random.normal(4.0, 1.0, num_sequences)
        ours = tokens * (hard + random.normal(-0.05, 0.3, num_sequences))
        theirs = tokens * hard
        ratios = resampled_ratios(np.column_stack([ours, theirs]), np.column_stack([tokens, tokens]))
        found = difference_over_text(0.0, ratios[:, 0] - ratios[:, 1])
        num_held += found.low <= -0.05 <= found.high
    assert 90 <= num_held <= 98


def test_the_interval_over_seeds_and_text_holds_the_difference_as_often_as_it_says() -> None:
    # Three seeds of each, and a text of which the mean difference has a standard deviation of its own.
    random = np.random.default_rng(4)
    num_held = {True: 0, False: 0}
    for _ in range(2_000):
        text = random.normal(0, 0.1)
        ours, theirs = (random.normal(text + 0.3, 0.1, 3).tolist(), random.normal(0, 0.1, 3).tolist())
        for knows_text in num_held:
            found = difference_of_means(ours, theirs, text_variance=0.01 if knows_text else 0.0)
            num_held[knows_text] += found.low <= 0.3 <= found.high
    assert 0.93 <= num_held[True] / 2_000 <= 0.98
    assert num_held[False] / 2_000 < 0.9  # what seeds alone say is too sure
