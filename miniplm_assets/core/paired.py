"""Two models on the same documents: how much better one is, and how sure that is.

Right or wrong: the interval is Newcombe's (1998, Statistics in Medicine 17, 2635, method 10: Wilson's intervals of both
shares, put together with their correlation), the test is McNemar's, exact (1947, Psychometrika 12). Any other
number a document: Student's t over the differences.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot, sqrt
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

from miniplm_assets.core.intervals import CONFIDENCE, difference_of_means

SIGNIFICANCE = 1 - CONFIDENCE


@dataclass(frozen=True)
class PairedDifference:
    """The mean of ours less the mean of theirs, over the same documents.

    Attributes:
        mean: as it was found.
        low: lower end of its 95 % interval.
        high: upper end.
        p_value: of the exact test that neither is right more often; None where a document is not just right or wrong.
    """

    mean: float
    low: float
    high: float
    p_value: float | None = None

    @property
    def is_told(self) -> bool:
        """Whether the two can be told apart: by the test where there is one, else by the interval."""
        return self.low > 0 or self.high < 0 if self.p_value is None else self.p_value < SIGNIFICANCE


def wilson_interval(num_right: float, number: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927, Journal of the American Statistical Association 22).

    Args:
        num_right: of `number`; no whole one where a mean over several seeds is meant.
        number: of documents, at least 1.
    """
    z = _normal_quantile()
    share = num_right / number
    middle = share + z**2 / (2 * number)
    spread = z * sqrt(max(0.0, share * (1 - share)) / number + z**2 / (4 * number**2))
    scale = 1 + z**2 / number
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def share_interval(seeds: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Return the 95 % interval of a share of right answers, over the seeds of a student.

    With one seed it is Wilson's. With more, its distances and those of Student's interval over the seeds are added in
    squares, since other documents and other seeds would both give another share.

    Args:
        seeds: for each, a number in [0, 1] for each document.
    """
    shares = [float(one.mean()) for one in seeds]
    share, number = fmean(shares), len(seeds[0])
    low, high = wilson_interval(share * number, number)
    if len(shares) == 1:
        return low, high
    from scipy.stats import t

    half = float(t.ppf((1 + CONFIDENCE) / 2, len(shares) - 1)) * stdev(shares) / sqrt(len(shares))
    return max(0.0, share - hypot(share - low, half)), min(1.0, share + hypot(high - share, half))


def mcnemar_p_value(num_only_ours: int, num_only_theirs: int) -> float:
    """Return how likely so unlike numbers are, were each document that one alone gets right a throw of a coin."""
    from scipy.stats import binomtest

    discordant = num_only_ours + num_only_theirs
    return float(binomtest(num_only_ours, discordant, 0.5).pvalue) if discordant else 1.0


def paired_difference(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> PairedDifference:
    """Return the mean of ours less that of theirs, with its interval, and the test where all is right or wrong.

    Args:
        ours: a number for each document, of shape (num_documents,): 1 where it is right, 0 where not, or any other.
        theirs: likewise, of the same documents in the same order.
    """
    assert ours.shape == theirs.shape, "of the same documents"
    both = np.concatenate([ours, theirs])
    if np.isin(both, (0.0, 1.0)).all():
        is_ours, is_theirs = ours == 1, theirs == 1
        return _difference_of_shares(
            both=int((is_ours & is_theirs).sum()),
            only_ours=int((is_ours & ~is_theirs).sum()),
            only_theirs=int((~is_ours & is_theirs).sum()),
            neither=int((~is_ours & ~is_theirs).sum()),
        )
    differences = ours - theirs
    mean, number = float(differences.mean()), len(differences)
    if number == 1:
        return PairedDifference(mean, -np.inf, np.inf)
    from scipy.stats import t

    half = float(t.ppf((1 + CONFIDENCE) / 2, number - 1) * differences.std(ddof=1) / sqrt(number))
    return PairedDifference(mean, mean - half, mean + half)


def paired_over_seeds(
    ours: Sequence[NDArray[np.float64]], theirs: Sequence[NDArray[np.float64]]
) -> PairedDifference | None:
    """Return the difference of two students that were trained with several seeds, or with one.

    With several, both other documents and other seeds would give another difference: the half-widths of the interval
    over the documents, of each one's mean over the seeds, and of Welch's over the seeds are added in squares.

    Args:
        ours: for each seed, a number for each document.
        theirs: likewise, of the same documents in the same order.

    Returns:
        None where one student has several seeds and the other only one, whose spread nobody knows.
    """
    if len(ours) == len(theirs) == 1:
        return paired_difference(ours[0], theirs[0])
    if min(len(ours), len(theirs)) < 2:
        return None
    documents = paired_difference(np.mean(ours, axis=0), np.mean(theirs, axis=0))
    seeds = difference_of_means([float(one.mean()) for one in ours], [float(one.mean()) for one in theirs])
    mean = documents.mean
    low = mean - hypot(mean - documents.low, seeds.mean - seeds.low)
    high = mean + hypot(documents.high - mean, seeds.high - seeds.mean)
    return PairedDifference(mean, low, high)


def mean_difference(differences: Sequence[PairedDifference]) -> PairedDifference:
    """Return the mean over tasks of unlike documents, each with the same weight.

    The distances to the ends of independent intervals are added in squares (Zou & Donner 2008, Statistics in Medicine
    27, 1693).
    """
    mean = fmean(one.mean for one in differences)
    below, above = (
        hypot(*distances) / len(differences)
        for distances in zip(*((one.mean - one.low, one.high - one.mean) for one in differences), strict=True)
    )
    return PairedDifference(mean, mean - below, mean + above)


def _difference_of_shares(*, both: int, only_ours: int, only_theirs: int, neither: int) -> PairedDifference:
    number = both + only_ours + only_theirs + neither
    ours, theirs = (both + only_ours) / number, (both + only_theirs) / number
    ours_low, ours_high = wilson_interval(both + only_ours, number)
    theirs_low, theirs_high = wilson_interval(both + only_theirs, number)
    correlation = _correlation(both, only_ours, only_theirs, neither)

    def distance(one: float, other: float) -> float:
        return sqrt(max(0.0, one**2 - 2 * correlation * one * other + other**2))

    mean = (only_ours - only_theirs) / number
    return PairedDifference(
        mean,
        mean - distance(ours - ours_low, theirs_high - theirs),
        mean + distance(ours_high - ours, theirs - theirs_low),
        mcnemar_p_value(only_ours, only_theirs),
    )


def _correlation(both: int, only_ours: int, only_theirs: int, neither: int) -> float:
    """Return the correlation of right answers, with Newcombe's correction for continuity where it is positive."""
    margins = (both + only_ours, only_theirs + neither, both + only_theirs, only_ours + neither)
    scale = sqrt(float(np.prod([float(margin) for margin in margins])))
    if scale == 0:
        return 0.0
    excess = float(both * neither - only_ours * only_theirs)
    if excess > 0:
        excess = max(excess - sum(margins) / 4, 0.0)
    return excess / scale


def _normal_quantile() -> float:
    from scipy.stats import norm

    return float(norm.ppf((1 + CONFIDENCE) / 2))
