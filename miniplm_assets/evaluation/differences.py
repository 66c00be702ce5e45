"""How each student's held-out loss differs from its baseline's, and how many tokens it saves, with intervals.

With several seeds of both, an interval is over the seeds and over the text: another pair of seeds, measured on other
sequences of the same kind, would lie in it. With one seed it is over the text alone, and speaks of these two models.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Final, get_type_hints

import numpy as np
import polars as pl
from numpy.typing import NDArray

from miniplm_assets.core.curves import tokens_saved_factor, tokens_to_loss
from miniplm_assets.core.errors import ScoringError
from miniplm_assets.core.intervals import Difference, difference_of_means, difference_over_text, smallest_told
from miniplm_assets.core.resampling import resampled_ratios
from miniplm_assets.evaluation.comparison import StudentRecord, find_student

# Below this, two losses print as the same number.
EQUAL_NATS: Final = 0.0005
# Fewer groups of sequences than these say little of how a loss varies with the text.
MIN_GROUPS: Final = 20
LOWER, HIGHER, ALIKE, UNTOLD = "lower", "higher", "alike", "not told apart"
PER_TOKEN, PER_BYTE = "nats_per_token", "bits_per_byte"


@dataclass(frozen=True, kw_only=True)
class HeldAgainst:
    """A student against its baseline: a row of the table of differences.

    Attributes:
        student: its name.
        baseline: what it is held against.
        unit: nats_per_token, or bits_per_byte where the two have different tokenizers.
        num_seeds: of the student.
        baseline_num_seeds: of the baseline.
        num_sequences: held-out sequences that the student was measured on.
        loss: mean over the seeds, on the whole validation split without the excluded domains.
        baseline_loss: likewise.
        difference: loss - baseline_loss.
        difference_low: lower end of its 95 % interval; None where there is none.
        difference_high: upper end.
        is_over_seeds: whether the interval is over seeds and text; else over the text alone, of these two models.
        outcome: lower, higher, not told apart (the interval holds 0), or alike (both print as the same number).
        num_seeds_needed: that would tell a difference of this size in 8 of 10 cases; None where unknown or too many.
        smallest_told: the smallest difference that so many seeds tell in 8 of 10 cases; None with one seed.
        seed_variance: the variances of the seeds of both, added up; None with one seed.
        text_variance: of the difference, by the choice of the text; None where it is not known.
        tokens_saved_factor: how many times fewer tokens it takes to the baseline's final loss along the way, the
            geometric mean over the pairs of seeds; None where one of the pairs never got there.
        tokens_saved_low: lower end of its 95 % interval over seeds; None with one seed.
        tokens_saved_high: upper end.
        num_pairs_reached: pairs of a seed of the student and one of the baseline of which the one got there.
    """

    student: str
    baseline: str
    unit: str
    num_seeds: int
    baseline_num_seeds: int
    num_sequences: int
    loss: float
    baseline_loss: float
    difference: float
    difference_low: float | None
    difference_high: float | None
    is_over_seeds: bool
    outcome: str
    num_seeds_needed: int | None
    smallest_told: float | None
    seed_variance: float | None
    text_variance: float | None
    tokens_saved_factor: float | None
    tokens_saved_low: float | None
    tokens_saved_high: float | None
    num_pairs_reached: int

    @property
    def is_told(self) -> bool:
        """Whether the one is lower or higher than the other, as far as the interval goes."""
        return self.outcome in (LOWER, HIGHER)


_COLUMN_TYPES: Final[dict[Any, Any]] = {
    str: pl.String,
    bool: pl.Boolean,
    int: pl.Int64,
    int | None: pl.Int64,
    float: pl.Float64,
    float | None: pl.Float64,
}
SCHEMA: Final = {name: _COLUMN_TYPES[kind] for name, kind in get_type_hints(HeldAgainst).items()}


def differences_table(rows: Sequence[HeldAgainst]) -> pl.DataFrame:
    """Return one row for each student that is held against another."""
    return pl.DataFrame([asdict(row) for row in rows], schema=SCHEMA)


def differences_of(rows: Sequence[dict[str, Any]]) -> dict[str, HeldAgainst]:
    """Return what rows of the table say, by student."""
    return {row["student"]: HeldAgainst(**row) for row in rows}


def hold_against(
    student: StudentRecord, baseline: StudentRecord, *, excluded_domains: Collection[str] = ()
) -> HeldAgainst:
    """Hold a student against its baseline.

    Args:
        student: its runs were measured on the same sequences as the baseline's where both have one tokenizer.
        baseline: what it is held against.
        excluded_domains: left out of the losses along the way, as they are of the totals.

    Raises:
        ScoringError: if both have one tokenizer and were measured on different sequences.
    """
    unit = PER_TOKEN if student.tokenizer == baseline.tokenizer else PER_BYTE
    column = "nll_nats_per_token" if unit == PER_TOKEN else "bits_per_byte"
    loss, baseline_loss = student.mean(column), baseline.mean(column)
    difference = _difference(student, baseline, column)
    if abs(loss - baseline_loss) < EQUAL_NATS:
        outcome = ALIKE
    elif difference is not None and not difference.is_told:
        outcome = UNTOLD
    else:
        outcome = LOWER if loss < baseline_loss else HIGHER
    over_seeds = difference if difference is not None and difference.is_over_seeds else None
    return HeldAgainst(
        student=student.name,
        baseline=baseline.name,
        unit=unit,
        num_seeds=len(student.runs),
        baseline_num_seeds=len(baseline.runs),
        num_sequences=int(student.runs[0].groups["num_sequences"].sum()),
        loss=loss,
        baseline_loss=baseline_loss,
        difference=loss - baseline_loss,
        difference_low=None if difference is None else difference.low,
        difference_high=None if difference is None else difference.high,
        is_over_seeds=over_seeds is not None,
        outcome=outcome,
        num_seeds_needed=None if over_seeds is None else over_seeds.num_needed(),
        smallest_told=None if over_seeds is None else _smallest_told(over_seeds, student, baseline),
        seed_variance=None if over_seeds is None else over_seeds.spread,
        text_variance=None if difference is None else difference.text_variance,
        **_tokens_saved(student, baseline, excluded_domains),
    )


def hold_all(
    students: Sequence[StudentRecord], *, baseline: str, excluded_domains: Collection[str] = ()
) -> list[HeldAgainst]:
    """Hold every student but the baseline against it.

    Raises:
        TrainingError: if there is no student of the baseline's name.
    """
    base = find_student(students, baseline)
    return [hold_against(one, base, excluded_domains=excluded_domains) for one in students if one is not base]


def _difference(student: StudentRecord, baseline: StudentRecord, column: str) -> Difference | None:
    """Return how a student differs from its baseline; None where nothing says how sure that is."""
    resampled = _resampled(student, baseline, column)
    text_variance = 0.0 if resampled is None else float(resampled.var())
    if min(len(student.runs), len(baseline.runs)) > 1:
        ours, theirs = ([run.overall(column) for run in one.runs] for one in (student, baseline))
        return difference_of_means(ours, theirs, text_variance=text_variance)
    return None if resampled is None else difference_over_text(student.mean(column) - baseline.mean(column), resampled)


def _smallest_told(difference: Difference, student: StudentRecord, baseline: StudentRecord) -> float:
    numbers = np.array([min(len(student.runs), len(baseline.runs))])
    return float(smallest_told(difference.spread, numbers, text_variance=difference.text_variance)[0])


def _resampled(student: StudentRecord, baseline: StudentRecord, column: str) -> NDArray[np.float64] | None:
    """Return the difference on texts drawn anew; None where there is too little text to draw from."""
    unit, scale = ("num_scored_tokens", 1.0) if column == "nll_nats_per_token" else ("num_scored_bytes", math.log(2))
    ours, theirs = (_mean_of_seeds(one, unit) for one in (student, baseline))
    if min(len(ours), len(theirs)) < MIN_GROUPS:
        return None
    if student.tokenizer != baseline.tokenizer:  # other sequences of the same text
        mine, other = (
            resampled_ratios(*_columns([one], unit), seed=seed)[:, 0] for seed, one in enumerate((ours, theirs))
        )
        return np.asarray((mine - other) / scale)
    if not (ours["group"].equals(theirs["group"]) and ours[unit].equals(theirs[unit])):
        raise ScoringError(
            f"{student.name} and {baseline.name} were measured on different held-out sequences, though both have the "
            f"tokenizer {student.tokenizer}; materialise the evaluations of both again"
        )
    both = resampled_ratios(*_columns([ours, theirs], unit))
    return np.asarray((both[:, 0] - both[:, 1]) / scale)


def _mean_of_seeds(student: StudentRecord, unit: str) -> pl.DataFrame:
    """Return the nats of each group that holds any of the unit, the mean over the seeds, with its tokens or bytes."""
    return (
        pl.concat(run.groups for run in student.runs)
        .group_by("group")
        .agg(pl.col("nll_nats").mean(), pl.col(unit).first())
        .filter(pl.col(unit) > 0)
        .sort("group")
    )


def _columns(tables: Sequence[pl.DataFrame], unit: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    nats, units = (np.column_stack([table[name].to_numpy() for table in tables]) for name in ("nll_nats", unit))
    return nats.astype(np.float64), units.astype(np.float64)


def _tokens_saved(student: StudentRecord, baseline: StudentRecord, excluded_domains: Collection[str]) -> dict[str, Any]:
    """Return the tokens saved of all pairs of a seed of the one and a seed of the other.

    As logarithms, the factors of the pairs are a mean and what the seed of the student and that of the baseline add to
    it; so the mean varies with both, as a difference of two means does.
    """
    nothing = dict.fromkeys(("tokens_saved_factor", "tokens_saved_low", "tokens_saved_high"))
    if student.tokenizer != baseline.tokenizer:
        return nothing | {"num_pairs_reached": 0}
    curves = [run.curve(excluded_domains) for run in student.runs]
    finals = [run.curve(excluded_domains)["held_out_nll_nats_per_token"][-1] for run in baseline.runs]
    factors = [[_factor(curve, final, baseline.num_tokens) for final in finals] for curve in curves]
    reached = [factor for row in factors for factor in row if factor is not None]
    if len(reached) < len(curves) * len(finals):  # a mean of those that got there alone would flatter it
        return nothing | {"num_pairs_reached": len(reached)}
    logarithms = np.log(np.array(factors, dtype=np.float64))
    by_student, by_baseline = logarithms.mean(1).tolist(), logarithms.mean(0).tolist()
    mean = fmean(by_student)
    found = {"tokens_saved_factor": math.exp(mean), "num_pairs_reached": len(reached)}
    if min(len(curves), len(finals)) == 1:
        return nothing | found
    interval = difference_of_means(by_student, [mean - one for one in by_baseline])
    return found | {"tokens_saved_low": math.exp(interval.low), "tokens_saved_high": math.exp(interval.high)}


def _factor(curve: pl.DataFrame, target: float, baseline_tokens: int) -> float | None:
    needed = tokens_to_loss(
        curve["num_tokens"].to_list(),
        curve["held_out_nll_nats_per_token"].to_list(),
        target_nats_per_token=target,
    )
    return tokens_saved_factor(baseline_tokens=baseline_tokens, tokens_to_baseline_loss=needed)
