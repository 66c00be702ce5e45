"""Intervals of a difference of means: against a published example, and against what drawn values give."""

import numpy as np
import pytest

from miniplm_assets.core.intervals import difference_of_means, in_words


def test_the_interval_is_welchs() -> None:
    # By hand: means 3 and 7, variances 2.5 and 10 of five values each; standard error sqrt(2.5), degrees of freedom
    # 2.5^2 / ((0.5^2 + 2^2) / 4) = 5.882, for which Student's t at 97.5 % is 2.4586.
    found = difference_of_means([1, 2, 3, 4, 5], [3, 5, 7, 9, 11])
    assert found.mean == -4
    assert (found.low, found.high) == pytest.approx((-4 - 2.4586 * 2.5**0.5, -4 + 2.4586 * 2.5**0.5), abs=1e-3)
    assert found.is_told


def test_values_that_do_not_vary_are_known() -> None:
    found = difference_of_means([2.0, 2.0], [3.0, 3.0])
    assert (found.low, found.mean, found.high, found.num_needed()) == (-1, -1, -1, 2)
    assert found.is_told
    assert not difference_of_means([2.0, 2.0], [2.0, 2.0]).is_told


@pytest.mark.parametrize("sizes", [(3, 3), (2, 5)])
def test_the_interval_holds_the_difference_as_often_as_it_says(sizes: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    num_held = 0
    for _ in range(2_000):
        ours, theirs = random.normal(1.0, 0.2, sizes[0]), random.normal(0.7, 0.2, sizes[1])
        found = difference_of_means(ours.tolist(), theirs.tolist())
        num_held += found.low <= 0.3 <= found.high
    assert 0.93 <= num_held / 2_000 <= 0.99  # Welch's is on the safe side for so few


@pytest.mark.parametrize("effect", [0.2, 0.5, 1.5])
def test_as_many_as_are_said_to_be_needed_tell_the_difference_in_eight_of_ten_cases(effect: float) -> None:
    number = difference_of_means([effect - 1, effect, effect + 1], [-1, 0, 1]).num_needed()
    assert number is not None
    random = np.random.default_rng(1)

    def share_told(count: int) -> float:
        told = [
            difference_of_means(random.normal(effect, 1, count).tolist(), random.normal(0, 1, count).tolist()).is_told
            for _ in range(500)
        ]
        return float(np.mean(told))

    assert 0.74 <= share_told(number) <= 0.88
    assert share_told(max(2, number // 2)) < 0.7


def test_a_value_is_shown_with_its_interval() -> None:
    assert in_words(0.25, -0.1, 0.6, signed=True) == "+0.250 (-0.100 to +0.600)"
    assert in_words(2.0, 1.5, 2.5) == "2.000 (1.500 to 2.500)"
    assert (in_words(2.0, None, None), in_words(None, None, None)) == ("2.000", "-")


def test_a_difference_that_no_number_would_tell() -> None:
    assert difference_of_means([0.0, 1.0, 2.0], [0.001, 1.001, 2.001]).num_needed() is None
