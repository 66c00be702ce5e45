"""Two models on the same documents: against published figures, SciPy, enumeration and simulation."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from miniplm_assets.core.paired import (
    PairedDifference,
    mcnemar_p_value,
    mean_difference,
    paired_difference,
    paired_over_seeds,
    share_interval,
    wilson_interval,
)


def answers(both: int, only_ours: int, only_theirs: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Right and wrong answers of two models, in a scrambled order that is the same for both."""
    ours = np.repeat([1.0, 1.0, 0.0, 0.0], [both, only_ours, only_theirs, neither])
    theirs = np.repeat([1.0, 0.0, 1.0, 0.0], [both, only_ours, only_theirs, neither])
    order = np.random.default_rng(1).permutation(len(ours))
    return ours[order], theirs[order]


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        # Newcombe (1998), method 10; and Bentur et al. (2009) as in Fagerland, Lydersen & Laake (2014).
        ((36, 12, 2, 0), 0.0569, 0.3404),
        ((1, 1, 7, 12), -0.507, -0.026),
    ],
)
def test_the_interval_is_the_published_one(counts, low, high):
    found = paired_difference(*answers(*counts))
    assert found.mean == pytest.approx((counts[1] - counts[2]) / sum(counts))
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-4), pytest.approx(high, abs=5e-4))


@pytest.mark.parametrize(("num_right", "number"), [(0, 1), (0, 7), (3, 7), (7, 7), (412, 1_000)])
def test_the_interval_of_a_share_is_wilsons(num_right, number):
    expected = stats.binomtest(num_right, number).proportion_ci(method="wilson")
    assert wilson_interval(num_right, number) == pytest.approx((expected.low, expected.high), abs=1e-12)
    one_seed = np.repeat([1.0, 0.0], [num_right, number - num_right])
    assert share_interval([one_seed]) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("only_ours", "only_theirs"), [(0, 0), (5, 0), (2, 6), (6, 2), (3, 3), (1, 7)])
def test_the_test_counts_all_throws_that_are_as_unlikely(only_ours, only_theirs):
    number = only_ours + only_theirs
    seen = math.comb(number, only_ours)
    as_unlikely = sum(math.comb(number, heads) for heads in range(number + 1) if math.comb(number, heads) <= seen)
    assert mcnemar_p_value(only_ours, only_theirs) == pytest.approx(as_unlikely / 2**number)
    found = paired_difference(*answers(4, only_ours, only_theirs, 3))
    assert found.p_value == pytest.approx(as_unlikely / 2**number)


@pytest.mark.parametrize("shares", [(0.3, 0.2, 0.1, 0.4), (0.1, 0.1, 0.1, 0.7), (0.45, 0.25, 0.2, 0.1)])
def test_the_interval_holds_the_truth_as_often_as_it_says(shares):
    """All tables of 25 documents, each with its probability: no simulation is as exact."""
    number, truth = 25, shares[1] - shares[2]
    held = 0.0
    for both, ours, theirs in itertools.product(range(number + 1), repeat=3):
        neither = number - both - ours - theirs
        if neither < 0:
            continue
        ways = math.comb(number, both) * math.comb(number - both, ours) * math.comb(number - both - ours, theirs)
        probability = ways * math.prod(
            share**count for share, count in zip(shares, (both, ours, theirs, neither), strict=True)
        )
        if probability < 1e-7:
            continue
        found = paired_difference(*answers(both, ours, theirs, neither))
        held += probability * (found.low <= truth <= found.high)
    assert 0.925 < held < 0.985


def test_any_other_numbers_have_students_interval():
    generator = np.random.default_rng(2)
    ours, theirs = generator.normal(size=(2, 40))
    found = paired_difference(ours, theirs)
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.p_value is None
    assert found.is_told == (stats.ttest_rel(ours, theirs).pvalue < 0.05)


def test_one_document_tells_nothing():
    assert not paired_difference(np.array([0.3]), np.array([0.9])).is_told
    assert not paired_difference(np.array([1.0]), np.array([0.0])).is_told


def test_right_against_wrong_is_told_by_the_test():
    """Where test and interval disagree, the exact one counts."""
    found = paired_difference(*answers(0, 5, 0, 45))
    assert found.low > 0
    assert found.p_value == pytest.approx(2 / 2**5)
    assert not found.is_told


def test_one_seed_against_several_has_no_interval():
    one, other = np.array([1.0, 0.0]), np.array([1.0, 1.0])
    assert paired_over_seeds([one], [one, other]) is None
    assert paired_over_seeds([one, other], [one]) is None
    assert paired_over_seeds([one], [other]) == paired_difference(one, other)


def test_with_several_seeds_documents_and_seeds_are_both_drawn_anew():
    """Simulated: skills of documents, and a seed's own luck, under no difference and under one."""
    generator = np.random.default_rng(3)
    held, num_repeats = 0, 300
    for _ in range(num_repeats):
        skill = generator.normal(size=200)
        seeds = generator.normal(scale=0.3, size=(2, 3))
        chances = 1 / (1 + np.exp(-(skill[None, None, :] + seeds[:, :, None])))
        found = (generator.random(chances.shape) < chances).astype(float)
        difference = paired_over_seeds(list(found[0]), list(found[1]))
        assert difference is not None and difference.p_value is None
        held += difference.low <= 0 <= difference.high
    assert held / num_repeats > 0.93
    assert share_interval(list(found[0]))[0] < found[0].mean() < share_interval(list(found[0]))[1]


def test_the_mean_over_tasks_holds_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(4)
    held, num_repeats = 0, 400
    for _ in range(num_repeats):
        differences = []
        for number, share in ((60, 0.3), (100, 0.5), (200, 0.8)):
            right = generator.random(number) < share
            ours, theirs = (np.where(generator.random(number) < 0.7, right, ~right).astype(float) for _ in range(2))
            differences.append(paired_difference(ours, theirs))
        mean = mean_difference(differences)
        held += mean.low <= 0 <= mean.high
    assert 0.92 < held / num_repeats <= 0.99


def test_the_mean_over_tasks_by_hand():
    found = mean_difference([PairedDifference(0.1, 0.0, 0.14, 0.04), PairedDifference(0.3, 0.3, 0.33, 0.0)])
    assert (found.mean, found.low, found.high) == pytest.approx((0.2, 0.15, 0.225))
    assert found.p_value is None and found.is_told
