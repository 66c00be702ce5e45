"""How each student's loss falls with its compute, and where that leads: a power law for each.

The points are the evaluations along the way. Each stands at another place of the schedule of the learning rate than
the end of a shorter training would, so that the law speaks of this training: the paper's figures are of the same kind.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from miniplm_assets.core.scaling import MIN_POINTS, ScalingFit, fit_power_law
from miniplm_assets.evaluation.comparison import StudentRecord

# Of the tokens: before, the learning rate warms up and the loss falls as no power law does.
LEFT_OUT_SHARE: Final = 0.1
# How far ahead the law is followed, in the student's own training FLOPs.
AHEAD: Final = 10
SCHEMA: Final = {
    "student": pl.String,
    "num_seeds": pl.Int64,
    "num_evaluations": pl.Int64,
    "amount": pl.Float64,
    "exponent": pl.Float64,
    "exponent_low": pl.Float64,
    "exponent_high": pl.Float64,
    "floor": pl.Float64,
    "floor_low": pl.Float64,
    "floor_high": pl.Float64,
    "training_flops": pl.Float64,
    "loss": pl.Float64,
    "flops_ahead": pl.Float64,
    "loss_ahead": pl.Float64,
    "loss_ahead_low": pl.Float64,
    "loss_ahead_high": pl.Float64,
    "problem": pl.String,
}


@dataclass(frozen=True)
class StudentLaw:
    """The evaluations of a student along the way, and the law that was fitted to them.

    Attributes:
        student: whose.
        points: flops, nll_nats_per_token; of all its seeds.
        fit: None where there are too few points.
    """

    student: StudentRecord
    points: pl.DataFrame
    fit: ScalingFit | None

    @property
    def flops(self) -> float:
        """Training FLOPs of one seed."""
        return float(self.student.runs[0].training_flops)

    @property
    def problem(self) -> str | None:
        """Say why there is no law, or none to be followed further; None where there is one."""
        if self.fit is None:
            return (
                f"{self.points.height} evaluations after the first {LEFT_OUT_SHARE:.0%} of the tokens, at least "
                f"{MIN_POINTS} are needed: raise training.num_evaluations, or name more seeds"
            )
        return (
            None if self.fit.is_bounded else "the losses follow no such law: the exponent lies at the end of the search"
        )


def law_of(student: StudentRecord, *, excluded_domains: Collection[str] = ()) -> StudentLaw:
    """Fit L(C) = A / C^a + L_inf to the evaluations of all seeds of a student along the way."""
    points = pl.concat(
        run.curve(excluded_domains)
        .filter(pl.col("num_tokens") > LEFT_OUT_SHARE * run.num_tokens)
        .select(
            (pl.col("num_tokens") * (run.training_flops / run.num_tokens)).alias("flops"),
            pl.col("held_out_nll_nats_per_token").alias("nll_nats_per_token"),
        )
        for run in student.runs
    )
    fit = None
    if points.height >= MIN_POINTS:
        fit = fit_power_law(points["flops"].to_list(), points["nll_nats_per_token"].to_list())
    return StudentLaw(student, points, fit)


def scaling_table(laws: Sequence[StudentLaw]) -> pl.DataFrame:
    """Return one row for each student, columns as in `SCHEMA`; a law that does not hold is told in `problem` alone."""
    return pl.DataFrame([_row(law) for law in laws], schema=SCHEMA)


def _row(law: StudentLaw) -> dict[str, Any]:
    row: dict[str, Any] = {
        "student": law.student.name,
        "num_seeds": len(law.student.runs),
        "num_evaluations": law.points.height,
        "training_flops": law.flops,
        "problem": law.problem,
    }
    fit = law.fit
    if fit is None or law.problem is not None:
        return row
    ahead = AHEAD * law.flops
    ends = {
        "exponent": fit.interval_of_exponent(),
        "floor": fit.interval_of_floor(),
        "loss_ahead": fit.interval_of_loss(ahead),
    }
    return (
        row
        | {
            "amount": fit.law.amount,
            "exponent": fit.law.exponent,
            "floor": fit.law.floor,
            "loss": fit.law.loss(law.flops),
            "flops_ahead": ahead,
            "loss_ahead": fit.law.loss(ahead),
        }
        | {f"{name}_low": low for name, (low, _) in ends.items()}
        | {f"{name}_high": high for name, (_, high) in ends.items()}
    )
