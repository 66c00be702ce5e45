"""What students cost, with all that had to be made before them, and from how many on one way is the cheaper.

A student costs its training and its part of what was made offline for it: teacher and reference scored the corpus, and
were trained where that happened here. An offline result is made once, however many students use it. So a way with a
high price offline and a low one a student is the cheaper one from some number of students on:

    offline + number * training to a loss  <  other's offline + number * other's training

with the loss that the other ends with, on the sample that is measured along the way.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

import polars as pl
from polars._typing import PolarsDataType

from miniplm_assets.evaluation.comparison import StudentRecord, tokens_to_baseline_loss

LEDGER_SCHEMA: Final[dict[str, PolarsDataType]] = {
    "student": pl.String,
    "corpus": pl.String,
    "num_seeds": pl.Int64,
    "num_tokens": pl.Int64,
    "training_flops": pl.Float64,
    "offline_flops": pl.Float64,
    "offline_flops_share": pl.Float64,
    "flops": pl.Float64,
    "offline_assets": pl.List(pl.String),
}
BREAK_EVEN_SCHEMA: Final[dict[str, PolarsDataType]] = {
    "student": pl.String,
    "opponent": pl.String,
    "loss_nats_per_token": pl.Float64,
    "num_seeds": pl.Int64,
    "num_seeds_reached": pl.Int64,
    "training_flops": pl.Float64,
    "opponent_training_flops": pl.Float64,
    "offline_flops": pl.Float64,
    "opponent_offline_flops": pl.Float64,
    "cheaper_from_students": pl.Int64,
    "cheaper_up_to_students": pl.Int64,
    "cheaper_from_tokens": pl.Float64,
    "outcome": pl.String,
}


@dataclass(frozen=True, kw_only=True)
class Offline:
    """What was made before any student was trained.

    Attributes:
        asset: its key.
        flops: that it took.
        students: that could not have been trained without it.
    """

    asset: str
    flops: int
    students: frozenset[str]


def ledger_table(students: Sequence[StudentRecord], offline: Sequence[Offline]) -> pl.DataFrame:
    """Return a row for each student, columns as in `LEDGER_SCHEMA`.

    training_flops: of one of its seeds, the mean over them. offline_flops: of all that was made before for it.
    offline_flops_share: the same, each divided by the students that use it. flops: training and that share.
    """
    rows = []
    for student in students:
        used = [one for one in offline if student.name in one.students]
        training = fmean(run.training_flops for run in student.runs)
        share = sum(one.flops / len(one.students) for one in used)
        rows.append(
            {
                "student": student.name,
                "corpus": student.corpus,
                "num_seeds": len(student.runs),
                "num_tokens": student.num_tokens,
                "training_flops": training,
                "offline_flops": float(sum(one.flops for one in used)),
                "offline_flops_share": share,
                "flops": training + share,
                "offline_assets": [one.asset for one in used],
            }
        )
    return pl.DataFrame(rows, schema=LEDGER_SCHEMA)


def break_even_table(
    students: Sequence[StudentRecord], ledger: pl.DataFrame, *, excluded_domains: Collection[str] = ()
) -> pl.DataFrame:
    """Return a row for each pair of students with one tokenizer, columns as in `BREAK_EVEN_SCHEMA`.

    Args:
        students: at least one run of each.
        ledger: as `ledger_table` returns it, of the same.
        excluded_domains: left out of the losses along the way.

    Returns:
        loss_nats_per_token: the opponent's final one on the sample that is measured along the way. training_flops:
        what a student takes to get there, the mean over those of its seeds that do; null where not all do.
        opponent_training_flops: of its whole training. offline_flops: of all that was made before. Students of both
        ways that are trained use one offline result: `cheaper_from_students` of them make the student's way the
        cheaper one, or as many as `cheaper_up_to_students`; null where there is no such number.
        cheaper_from_tokens: that many times the opponent's tokens. outcome: the same in words.
    """
    costs = {row["student"]: row for row in ledger.iter_rows(named=True)}
    rows = [
        _pair(student, opponent, costs, excluded_domains)
        for student in students
        for opponent in students
        if student is not opponent and student.tokenizer == opponent.tokenizer
    ]
    return pl.DataFrame(rows, schema=BREAK_EVEN_SCHEMA)


def _pair(
    student: StudentRecord,
    opponent: StudentRecord,
    costs: Mapping[str, Mapping[str, float]],
    excluded_domains: Collection[str],
) -> dict[str, object]:
    reached = flops_to_loss_of(student, opponent, excluded_domains)
    is_reached = len(reached) == len(student.runs)
    mine, theirs = costs[student.name], costs[opponent.name]
    training = fmean(reached) if is_reached else None
    cheaper = None
    if training is not None:
        cheaper = cheaper_range(
            extra_offline=mine["offline_flops"] - theirs["offline_flops"],
            saved_each=theirs["training_flops"] - training,
        )
    first, last = cheaper or (None, None)
    return {
        "student": student.name,
        "opponent": opponent.name,
        "loss_nats_per_token": opponent.final_curve_loss(excluded_domains),
        "num_seeds": len(student.runs),
        "num_seeds_reached": len(reached),
        "training_flops": training,
        "opponent_training_flops": theirs["training_flops"],
        "offline_flops": mine["offline_flops"],
        "opponent_offline_flops": theirs["offline_flops"],
        "cheaper_from_students": first,
        "cheaper_up_to_students": last,
        "cheaper_from_tokens": None if first is None else float(first * opponent.num_tokens),
        "outcome": _outcome(student, opponent, len(reached), cheaper),
    }


def flops_to_loss_of(student: StudentRecord, opponent: StudentRecord, excluded_domains: Collection[str]) -> list[float]:
    """Return the training FLOPs after which a student reached the opponent's final loss, of each seed that did."""
    needed = ((run, tokens_to_baseline_loss(student, run, opponent, excluded_domains)) for run in student.runs)
    return [tokens * run.training_flops / run.num_tokens for run, tokens in needed if tokens is not None]


def cheaper_range(*, extra_offline: float, saved_each: float) -> tuple[int, int | None] | None:
    """Return from and up to how many students a way is the cheaper one; None where it is for no number of them.

    Args:
        extra_offline: FLOPs that it takes more offline; negative where it takes fewer.
        saved_each: FLOPs that it takes fewer for each student; negative where it takes more.
    """
    if saved_each > 0:
        return max(1, math.floor(extra_offline / saved_each) + 1), None
    if extra_offline >= 0:
        return None
    if saved_each == 0:
        return 1, None
    last = math.ceil(extra_offline / saved_each) - 1
    return (1, last) if last >= 1 else None


def _outcome(
    student: StudentRecord, opponent: StudentRecord, num_reached: int, cheaper: tuple[int, int | None] | None
) -> str:
    pair = f"{student.name} against {opponent.name}"
    if num_reached == 0:
        return f"{pair}: it never reached that loss, so that no number of students makes it the cheaper way."
    if num_reached < len(student.runs):
        return (
            f"{pair}: {num_reached} of its {len(student.runs)} seeds reached that loss, so that nothing can be said of "
            "its cost."
        )
    if cheaper is None:
        return f"{pair}: it costs more, however many students are trained."
    first, last = cheaper
    if last is not None:
        return f"{pair}: it is the cheaper way up to {last:,} students."
    if first == 1:
        return f"{pair}: it is the cheaper way from the first student on."
    return f"{pair}: it is the cheaper way from {first:,} students on."


def ledger_in_words(ledger: pl.DataFrame, break_even: pl.DataFrame, baselines: Iterable[tuple[str, str]]) -> str:
    """Say what the students cost, and of each that has a baseline, from how many on it is the cheaper way.

    Args:
        ledger: as `ledger_table` returns it.
        break_even: as `break_even_table` returns it.
        baselines: students, each with its baseline.
    """
    costs = [
        f"{row['student']}: {row['training_flops']:.2e} FLOPs of training"
        + (f", {row['offline_flops_share']:.2e} of what was made before" if row["offline_assets"] else "")
        for row in ledger.iter_rows(named=True)
    ]
    wanted = set(baselines)
    outcomes = [
        row["outcome"] for row in break_even.iter_rows(named=True) if (row["student"], row["opponent"]) in wanted
    ]
    single = [] if ledger["num_seeds"].max() != 1 else ["One seed of each says what they cost, not which is better."]
    return "\n".join([*costs, *outcomes, *single])
