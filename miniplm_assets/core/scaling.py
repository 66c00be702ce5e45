"""The loss of a student as a power law of its compute, L(C) = A / C^a + L_inf (arXiv 2410.17215, section 3.2).

Fitted by variable projection: for a given exponent, A and L_inf follow by weighted linear least squares, so that only
the exponent is searched, over a grid that is then made finer. Deviations are those of the logarithms under Huber's
loss, so that a single bad evaluation does not bend the curve (as Hoffmann et al. 2022, arXiv 2203.15556, appendix D.3).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from miniplm_assets.core.errors import TrainingError
from miniplm_assets.core.intervals import CONFIDENCE

# Three constants need more points than three to say how sure they are.
MIN_POINTS: Final = 6
NUM_RESAMPLES: Final = 1_000
LOWEST_EXPONENT, HIGHEST_EXPONENT = 0.01, 4.0
_NUM_EXPONENTS: Final = 100
_NUM_FINER: Final = 3
# Of Huber's loss, in standard deviations of the logarithms: 95 % as good as least squares where nothing is amiss.
_BEND: Final = 1.345
_NUM_REWEIGHTINGS: Final = 8
# The median of the absolute deviation of a normal distribution, in standard deviations.
_MEDIAN_DEVIATION: Final = 0.6745

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PowerLaw:
    """L(C) = amount / C^exponent + floor.

    Attributes:
        amount: A, in nats a token by FLOPs to the exponent.
        exponent: a.
        floor: L_inf, nats a token.
    """

    amount: float
    exponent: float
    floor: float

    def loss(self, flops: float) -> float:
        """Return the loss after a number of training FLOPs, in nats a token."""
        return float(self.amount * flops**-self.exponent + self.floor)


@dataclass(frozen=True)
class ScalingFit:
    """A power law that was fitted, and those that it might have been.

    Attributes:
        law: the best one.
        resampled: amount, exponent and floor of fits to evaluations drawn anew, of shape (NUM_RESAMPLES, 3).
        is_bounded: whether the best exponent lies within what was searched; else the curve shows no such law.
    """

    law: PowerLaw
    resampled: Floats
    is_bounded: bool

    def interval_of_exponent(self) -> tuple[float, float]:
        """Return the 95 % interval of a."""
        return _interval(self.resampled[:, 1])

    def interval_of_floor(self) -> tuple[float, float]:
        """Return the 95 % interval of L_inf, nats a token."""
        return _interval(self.resampled[:, 2])

    def interval_of_loss(self, flops: float) -> tuple[float, float]:
        """Return the 95 % interval of the loss after a number of training FLOPs, nats a token."""
        amounts, exponents, floors = self.resampled.T
        return _interval(amounts * float(flops) ** -exponents + floors)


def fit_power_law(flops: Sequence[float], losses: Sequence[float], *, seed: int = 0) -> ScalingFit:
    """Fit L(C) = A / C^a + L_inf, with A and L_inf not below 0.

    Intervals come from fits to the best curve with its own deviations drawn anew, widened for the three constants that
    were fitted and, as Student's t is, for how few they are. They take the evaluations as independent.

    Args:
        flops: training FLOPs at each evaluation, above 0, in any order.
        losses: nats a token there, above 0.
        seed: of the draws.

    Raises:
        TrainingError: if there are fewer than 6 evaluations, or one is not above 0.
    """
    from scipy.stats import norm, t

    compute, measured = np.asarray(flops, np.float64), np.asarray(losses, np.float64)
    if len(compute) < MIN_POINTS or len(compute) != len(measured):
        raise TrainingError(
            f"a power law needs at least {MIN_POINTS} evaluations, each with its FLOPs: {len(measured)}"
        )
    if not (np.all(compute > 0) and np.all(measured > 0) and np.all(np.isfinite(compute * measured))):
        raise TrainingError("a power law is fitted to FLOPs and losses above 0; one is not")
    unit = float(np.exp(np.log(compute).mean()))  # near which powers neither vanish nor run over
    scaled = compute / unit
    [best] = _fit(scaled, measured[None, :])
    fitted = best[0] * scaled ** -best[1] + best[2]
    deviations = np.log(measured / fitted)
    freedom = len(compute) - 3
    deviations *= (
        np.sqrt(len(compute) / freedom) * t.ppf((1 + CONFIDENCE) / 2, freedom) / norm.ppf((1 + CONFIDENCE) / 2)
    )
    drawn = np.random.default_rng(seed).choice(deviations, size=(NUM_RESAMPLES, len(compute)))
    resampled = _fit(scaled, fitted * np.exp(drawn))
    resampled[:, 0] *= unit ** resampled[:, 1]
    return ScalingFit(
        PowerLaw(float(best[0] * unit ** best[1]), float(best[1]), float(best[2])),
        resampled,
        is_bounded=bool(LOWEST_EXPONENT * 1.01 < best[1] < HIGHEST_EXPONENT / 1.01),
    )


def _fit(scaled: Floats, measured: Floats) -> Floats:
    """Return amount, exponent and floor for each row of measured losses, of shape (num_rows, 3)."""
    exponents = np.tile(np.geomspace(LOWEST_EXPONENT, HIGHEST_EXPONENT, _NUM_EXPONENTS), (len(measured), 1))
    found = np.empty((len(measured), 3))
    # What is a deviation too far is settled at the exponent that least squares like best, and is then left alone.
    weights = np.ones_like(measured)
    for _ in range(_NUM_FINER):
        found = _best(scaled, measured, exponents, weights)
        deviations = np.log((found[:, :1] * scaled ** -found[:, 1:2] + found[:, 2:]) / measured)
        weights = _huber_weights(deviations)
        ratio = (exponents[:, 1] / exponents[:, 0])[:, None]
        around = np.linspace(-1, 1, _NUM_EXPONENTS // 4)[None, :]
        exponents = np.clip(found[:, 1:2] * ratio**around, LOWEST_EXPONENT, HIGHEST_EXPONENT)
    for _ in range(_NUM_REWEIGHTINGS):
        found = _best(scaled, measured, exponents, weights)
        weights = _huber_weights(np.log((found[:, :1] * scaled ** -found[:, 1:2] + found[:, 2:]) / measured))
    return found


def _huber_weights(deviations: Floats) -> Floats:
    spread = np.median(np.abs(deviations), axis=1, keepdims=True) / _MEDIAN_DEVIATION
    bend = _BEND * np.maximum(spread, 1e-9)
    return np.asarray(np.minimum(1, bend / np.maximum(np.abs(deviations), 1e-300)))


def _best(scaled: Floats, measured: Floats, exponents: Floats, weights: Floats) -> Floats:
    """Return the best amount, exponent and floor of each row, by its own exponents and weights.

    The deviation of a logarithm is that of the loss by the loss, as far as both are small.
    """
    powers = scaled[None, None, :] ** -exponents[:, :, None]  # (rows, exponents, points)
    by_loss = (weights / measured**2)[:, None, :]
    losses = measured[:, None, :]
    total, first, second = by_loss.sum(-1), (by_loss * powers).sum(-1), (by_loss * powers**2).sum(-1)
    mean, mixed = (by_loss * losses).sum(-1), (by_loss * powers * losses).sum(-1)
    spread = total * second - first**2
    amount = (total * mixed - first * mean) / np.maximum(spread, 1e-300)
    floor = (mean - amount * first) / total
    amount = np.where(floor < 0, mixed / second, amount)
    floor = np.maximum(floor, 0)
    floor = np.where(amount < 0, mean / total, floor)
    amount = np.maximum(amount, 0)
    squares = (by_loss * (amount[:, :, None] * powers + floor[:, :, None] - losses) ** 2).sum(-1)
    rows, chosen = np.arange(len(measured)), squares.argmin(1)
    return np.column_stack([amount[rows, chosen], exponents[rows, chosen], floor[rows, chosen]])


def _interval(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
