"""How sure a difference of two means is: over a few values of each, the seeds of two students, and over the text.

The values of the seeds are taken as drawn from two normal distributions of unlike spread (Welch 1947, Biometrika 34).
What the choice of the text adds comes from `core.resampling`, and is no matter of how many seeds there are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Final

import numpy as np
from numpy.typing import NDArray

CONFIDENCE: Final = 0.95
# Of seeing a difference that is there.
POWER: Final = 0.8
MAX_NEEDED: Final = 1_000


@dataclass(frozen=True)
class Difference:
    """The mean of some values less the mean of others.

    Attributes:
        mean: as it was found.
        low: lower end of its 95 % interval.
        high: upper end.
        spread: the variances of both kinds of values, added up; 0 where one of them has a single value.
        text_variance: what the choice of the text adds to the variance of the mean, however many values there are.
        is_over_seeds: whether the interval is one over values of each; else over the choice of the text alone.
    """

    mean: float
    low: float
    high: float
    spread: float
    text_variance: float = 0.0
    is_over_seeds: bool = True

    @property
    def is_told(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0

    def num_needed(self) -> int | None:
        """Return how many values of each would tell a difference of this size from none in 8 of 10 cases.

        Were their spread as it is here. None for more than 1,000, for no difference, or where no number is enough.
        """
        numbers = np.arange(2, MAX_NEEDED + 1)
        smallest = smallest_told(self.spread, numbers, text_variance=self.text_variance)
        (enough,) = np.nonzero(abs(self.mean) >= smallest)
        return int(numbers[enough[0]]) if self.mean and len(enough) else None


def smallest_told(spread: float, numbers: NDArray[np.int64], *, text_variance: float = 0.0) -> NDArray[np.float64]:
    """Return the smallest difference that is told from none in 8 of 10 cases, by how many values there are of each.

    Args:
        spread: the variances of both kinds of values, added up.
        numbers: of values of each, at least 2.
        text_variance: what the choice of the text adds to the variance of a difference of means.

    Returns:
        Of the shape of `numbers`.
    """
    from scipy.stats import t

    freedom = 2 * numbers - 2
    needed = t.ppf((1 + CONFIDENCE) / 2, freedom) + t.ppf(POWER, freedom)
    return np.asarray(needed * np.sqrt(spread / numbers + text_variance), dtype=np.float64)


def in_words(
    value: float | None, low: float | None, high: float | None, *, signed: bool = False, digits: int = 3
) -> str:
    """Return a value with its interval as a table shows it, to so many decimals; - where there is none."""
    if value is None:
        return "-"
    form = f"{'+' if signed else ''}.{digits}f"
    interval = "" if low is None or high is None else f" ({low:{form}} to {high:{form}})"
    return f"{value:{form}}{interval}"


def difference_of_means(ours: Sequence[float], theirs: Sequence[float], *, text_variance: float = 0.0) -> Difference:
    """Return the mean of ours less the mean of theirs, with its interval.

    Args:
        ours: at least two values.
        theirs: likewise.
        text_variance: what the choice of the text adds to the variance of the difference.
    """
    from scipy.stats import norm, t

    mean, variances = fmean(ours) - fmean(theirs), (variance(ours), variance(theirs))
    parts = [value / len(values) for value, values in zip(variances, (ours, theirs), strict=True)]
    # Welch and Satterthwaite.
    lost = sum(part**2 / (len(values) - 1) for part, values in zip(parts, (ours, theirs), strict=True))
    freedom = sum(parts) ** 2 / lost if lost else math.inf  # of what does not vary, any
    over_seeds = float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(sum(parts))
    # Known far better than the spread of a few seeds. Half widths add up as deviations do, so that neither hides the
    # other: degrees of freedom put together would make an interval narrower by adding a little of the text's.
    over_text = float(norm.ppf((1 + CONFIDENCE) / 2)) * math.sqrt(text_variance)
    half = math.hypot(over_seeds, over_text)
    return Difference(mean, mean - half, mean + half, sum(variances), text_variance)


def difference_over_text(mean: float, resampled: NDArray[np.float64]) -> Difference:
    """Return a difference of two models with the interval that the choice of the text gives it.

    Args:
        mean: as it was found.
        resampled: the same on texts drawn anew, of shape (num_resamples,).
    """
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Difference(mean, float(low), float(high), 0.0, float(resampled.var()), is_over_seeds=False)
