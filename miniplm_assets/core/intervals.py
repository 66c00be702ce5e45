"""How sure a difference of two means is, from a few values of each: the seeds of two students, say.

The values are taken as drawn from two normal distributions of unlike spread (Welch 1947, Biometrika 34).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Final

import numpy as np

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
        spread: the variances of both kinds of values, added up.
    """

    mean: float
    low: float
    high: float
    spread: float

    @property
    def is_told(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0

    def num_needed(self) -> int | None:
        """Return how many values of each would tell a difference of this size from none in 8 of 10 cases.

        Were their spread as it is here. None for more than 1,000, or for no difference.
        """
        from scipy.stats import t

        numbers = np.arange(2, MAX_NEEDED + 1)
        freedom = 2 * numbers - 2
        needed = t.ppf((1 + CONFIDENCE) / 2, freedom) + t.ppf(POWER, freedom)
        (enough,) = np.nonzero(abs(self.mean) >= needed * np.sqrt(self.spread / numbers))
        return int(numbers[enough[0]]) if self.mean and len(enough) else None


def difference_of_means(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Return the mean of ours less the mean of theirs, with its interval.

    Args:
        ours: at least two values.
        theirs: likewise.
    """
    from scipy.stats import ttest_ind

    mean, spread = fmean(ours) - fmean(theirs), variance(ours) + variance(theirs)
    if spread == 0:  # no test is of any use; what does not vary is known
        return Difference(mean, mean, mean, spread)
    low, high = ttest_ind(ours, theirs, equal_var=False).confidence_interval(CONFIDENCE)
    return Difference(mean, float(low), float(high), spread)
