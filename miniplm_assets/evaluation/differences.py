"""How each student's held-out loss differs from its baseline's, and how many tokens it saves, with intervals.

With several seeds of both, an interval is over the seeds and over the text: another pair of seeds, measured on other
sequences of the same kind, would lie in it. With one seed it is over the text alone, and speaks of these two models.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any, Final, get_type_hints

import numpy as np
import polars as pl

from miniplm_assets.core.curves import tokens_saved_factor
from miniplm_assets.core.errors import ScoringError
from miniplm_assets.core.intervals import Difference, difference_of_means, difference_over_text, smallest_told
from miniplm_assets.core.resampling import Floats, resampled_ratios
from miniplm_assets.evaluation.comparison import StudentRecord, find_student, tokens_along

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
        text: that both were measured on; None: the validation split.
        unit: nats_per_token, or bits_per_byte where the two have different tokenizers.
        num_seeds: of the student.
        baseline_num_seeds: of the baseline.
        num_sequences: held-out sequences, or documents of the text, that the student was measured on.
        loss: mean over the seeds; of the validation split, without the excluded domains.
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
        flops_saved_factor: how many times fewer training FLOPs that is, by what a token costs each of the two; its
            interval is that of the tokens, by the same factor.
        num_pairs_reached: pairs of a seed of the student and one of the baseline of which the one got there.
    """

    student: str
    baseline: str
    text: str | None
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
    flops_saved_factor: float | None
    num_pairs_reached: int


_COLUMN_TYPES: Final[dict[Any, Any]] = {
    str: pl.String,
    str | None: pl.String,
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


def differences_in(table: pl.DataFrame) -> list[HeldAgainst]:
    """Return what the rows of a table of differences say."""
    return [HeldAgainst(**row) for row in table.iter_rows(named=True)]


@dataclass(frozen=True)
class Measured:
    """What a student cost on some text.

    Attributes:
        values: the mean loss of each seed, in nats a token or bits a byte.
        groups: group, nll_nats (the mean over the seeds) and num_units, of the groups of texts that hold any.
        scale: what nats a unit are divided by for a value: 1 for a token, ln 2 for a byte.
        num_texts: sequences or documents.
    """

    values: tuple[float, ...]
    groups: pl.DataFrame
    scale: float
    num_texts: int

    @classmethod
    def of(cls, values: Iterable[float], groups: Iterable[pl.DataFrame], unit: str) -> "Measured":
        """Put together what the seeds of a student cost.

        Args:
            values: of each seed.
            groups: of each seed, as `core.resampling.in_groups` returns them: nll_nats, num_scored_tokens,
                num_scored_bytes.
            unit: `PER_TOKEN` or `PER_BYTE`.
        """
        counted, scale = ("num_scored_tokens", 1.0) if unit == PER_TOKEN else ("num_scored_bytes", math.log(2))
        tables = list(groups)
        mean_of_seeds = (
            pl.concat(tables)
            .group_by("group")
            .agg(pl.col("nll_nats").mean(), num_units=pl.col(counted).first())
            .filter(pl.col("num_units") > 0)
            .sort("group")
        )
        return cls(tuple(values), mean_of_seeds, scale, int(tables[0]["num_sequences"].sum()))


def hold_against(
    student: StudentRecord, baseline: StudentRecord, *, excluded_domains: Collection[str] = ()
) -> HeldAgainst:
    """Hold a student against its baseline, on the validation split.

    Args:
        student: its runs were measured on the same sequences as the baseline's where both have one tokenizer.
        baseline: what it is held against.
        excluded_domains: left out of the losses along the way, as they are of the totals.

    Raises:
        ScoringError: if both have one tokenizer and were measured on different sequences.
    """
    is_alike = student.tokenizer == baseline.tokenizer
    unit = PER_TOKEN if is_alike else PER_BYTE
    ours, theirs = (
        Measured.of(
            (run.overall("nll_nats_per_token" if is_alike else "bits_per_byte") for run in one.runs),
            (run.groups for run in one.runs),
            unit,
        )
        for one in (student, baseline)
    )
    names = (student.name, baseline.name)
    if is_alike and not ours.groups.drop("nll_nats").equals(theirs.groups.drop("nll_nats")):
        raise ScoringError(
            f"{student.name} and {baseline.name} were measured on different held-out sequences, though both have the "
            f"tokenizer {student.tokenizer}; materialise the evaluations of both again"
        )
    # Sequences of another tokenizer are other ones.
    held = _held(names, ours, theirs, unit=unit, is_paired=is_alike)
    return replace(held, **tokens_saved(student, baseline, excluded_domains))


def hold_on_text(names: tuple[str, str], text: str, ours: Measured, theirs: Measured) -> HeldAgainst:
    """Hold a student against its baseline on the documents of a text, in bits a byte, document by document.

    Args:
        names: of the student and of its baseline.
        text: its name.
        ours: of the student.
        theirs: of the baseline.
    """
    return replace(_held(names, ours, theirs, unit=PER_BYTE, is_paired=True), text=text)


def _held(names: tuple[str, str], ours: Measured, theirs: Measured, *, unit: str, is_paired: bool) -> HeldAgainst:
    loss, baseline_loss = fmean(ours.values), fmean(theirs.values)
    difference = _difference(ours, theirs, is_paired=is_paired)
    if abs(loss - baseline_loss) < EQUAL_NATS:
        outcome = ALIKE
    elif difference is not None and not difference.is_told:
        outcome = UNTOLD
    else:
        outcome = LOWER if loss < baseline_loss else HIGHER
    over_seeds = difference if difference is not None and difference.is_over_seeds else None
    num_seeds = np.array([min(len(ours.values), len(theirs.values))])
    return HeldAgainst(
        student=names[0],
        baseline=names[1],
        text=None,
        unit=unit,
        num_seeds=len(ours.values),
        baseline_num_seeds=len(theirs.values),
        num_sequences=ours.num_texts,
        loss=loss,
        baseline_loss=baseline_loss,
        difference=loss - baseline_loss,
        difference_low=None if difference is None else difference.low,
        difference_high=None if difference is None else difference.high,
        is_over_seeds=over_seeds is not None,
        outcome=outcome,
        num_seeds_needed=None if over_seeds is None else over_seeds.num_needed(),
        smallest_told=None
        if over_seeds is None
        else float(smallest_told(over_seeds.spread, num_seeds, text_variance=over_seeds.text_variance)[0]),
        seed_variance=None if over_seeds is None else over_seeds.spread,
        text_variance=None if difference is None else difference.text_variance,
        tokens_saved_factor=None,
        tokens_saved_low=None,
        tokens_saved_high=None,
        flops_saved_factor=None,
        num_pairs_reached=0,
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


def _difference(ours: Measured, theirs: Measured, *, is_paired: bool) -> Difference | None:
    """Return how one differs from another; None where nothing says how sure that is."""
    resampled = _resampled(ours, theirs, is_paired=is_paired)
    text_variance = 0.0 if resampled is None else float(resampled.var())
    if min(len(ours.values), len(theirs.values)) > 1:
        return difference_of_means(ours.values, theirs.values, text_variance=text_variance)
    if resampled is None:
        return None
    return difference_over_text(fmean(ours.values) - fmean(theirs.values), resampled)


def _resampled(ours: Measured, theirs: Measured, *, is_paired: bool) -> Floats | None:
    """Return the difference on texts drawn anew; None where there is too little text to draw from."""
    if min(len(ours.groups), len(theirs.groups)) < MIN_GROUPS:
        return None
    if is_paired:
        both = ours.groups.join(theirs.groups, on="group", how="full", suffix="_theirs").fill_null(0)
        nats, units = (both.select(name, f"{name}_theirs").to_numpy() for name in ("nll_nats", "num_units"))
        drawn = resampled_ratios(nats, units)
        return np.asarray((drawn[:, 0] - drawn[:, 1]) / ours.scale)
    mine, other = (
        resampled_ratios(one.groups.select("nll_nats").to_numpy(), one.groups.select("num_units").to_numpy(), seed=seed)
        for seed, one in enumerate((ours, theirs))
    )
    return np.asarray((mine - other)[:, 0] / ours.scale)


def tokens_saved(student: StudentRecord, baseline: StudentRecord, excluded_domains: Collection[str]) -> dict[str, Any]:
    """Return the tokens saved of all pairs of a seed of the one and a seed of the other.

    As logarithms, the factors of the pairs are a mean and what the seed of the student and that of the baseline add to
    it; so the mean varies with both, as a difference of two means does.
    """
    if student.tokenizer != baseline.tokenizer:
        return {}
    curves = [run.curve(excluded_domains) for run in student.runs]
    finals = [run.curve(excluded_domains)["held_out_nll_nats_per_token"][-1] for run in baseline.runs]
    factors = [
        [
            tokens_saved_factor(baseline_tokens=baseline.num_tokens, tokens_to_baseline_loss=tokens_along(curve, final))
            for final in finals
        ]
        for curve in curves
    ]
    reached = [factor for row in factors for factor in row if factor is not None]
    if len(reached) < len(curves) * len(finals):  # a mean of those that got there alone would flatter it
        return {"num_pairs_reached": len(reached)}
    logarithms = np.log(np.array(factors, dtype=np.float64))
    by_student, by_baseline = logarithms.mean(1).tolist(), logarithms.mean(0).tolist()
    mean = fmean(by_student)
    flops_per_token = [fmean(run.training_flops / run.num_tokens for run in one.runs) for one in (student, baseline)]
    found = {
        "tokens_saved_factor": math.exp(mean),
        "flops_saved_factor": math.exp(mean) * flops_per_token[1] / flops_per_token[0],
        "num_pairs_reached": len(reached),
    }
    if min(len(curves), len(finals)) == 1:
        return found
    interval = difference_of_means(by_student, [mean - one for one in by_baseline])
    return found | {"tokens_saved_low": math.exp(interval.low), "tokens_saved_high": math.exp(interval.high)}
