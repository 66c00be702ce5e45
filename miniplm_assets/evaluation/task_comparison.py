"""Students side by side on tasks, each against its baseline on the same documents; in a table and in words."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import hypot
from statistics import fmean
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from miniplm_assets.core.errors import TaskError
from miniplm_assets.core.paired import PairedDifference, mean_difference, paired_over_seeds, share_interval

AVERAGE: Final = "average"
BETTER: Final = "better"
WORSE: Final = "worse"
ALIKE: Final = "cannot be told apart"

SCHEMA: Final[dict[str, pl.DataType]] = {
    "student": pl.String(),
    "baseline": pl.String(),
    "task": pl.String(),
    "metric": pl.String(),
    "num_documents": pl.Int64(),
    "num_seeds": pl.Int64(),
    "value": pl.Float64(),
    "low": pl.Float64(),
    "high": pl.Float64(),
    "baseline_value": pl.Float64(),
    "difference": pl.Float64(),
    "difference_low": pl.Float64(),
    "difference_high": pl.Float64(),
    "p_value": pl.Float64(),
    "verdict": pl.String(),
}


@dataclass(frozen=True)
class TaskScore:
    """What a student scores on one task.

    Attributes:
        task: its name.
        named: what the experiment file names it by.
        metric: the one to look at first.
        higher_is_better: whether more of it is better.
        values: the metric, for each seed.
        documents: a hash for each document, in the order of the answers.
        answers: for each seed, a number for each document; None where the metric is no mean of such.
    """

    task: str
    named: str
    metric: str
    higher_is_better: bool
    values: tuple[float, ...]
    documents: tuple[str, ...]
    answers: tuple[NDArray[np.float64], ...] | None

    @property
    def value(self) -> float:
        """The metric, in the mean over the seeds."""
        return fmean(self.values)

    @property
    def is_accuracy(self) -> bool:
        """Whether it is a share of right answers: what an average over tasks is taken of."""
        return self.answers is not None and self.higher_is_better and all(_in_unit(one) for one in self.answers)


def score_of(task: str, seeds: Sequence[tuple[pl.DataFrame, pl.DataFrame]]) -> TaskScore:
    """Return what a student scores on a task.

    Args:
        task: its name.
        seeds: for each, the tables of metrics and of answers.

    Raises:
        TaskError: if the seeds were asked about other documents.
    """
    rows = [metrics.filter("is_primary", pl.col("task") == task).row(0, named=True) for metrics, _ in seeds]
    first = rows[0]
    tables = [
        answers.filter(pl.col("task") == task, pl.col("filter") == first["filter"]).sort("doc_id")
        for _, answers in seeds
    ]
    documents = tuple(tables[0]["doc_hash"])
    if any(tuple(table["doc_hash"]) != documents for table in tables):
        raise TaskError(f"task {task}: the seeds were asked about other documents; {_REMEDY}")
    is_mean = all(row["stderr"] is not None for row in rows) and not any(table["value"].has_nulls() for table in tables)
    return TaskScore(
        task=task,
        named=first["named"],
        metric=first["metric"],
        higher_is_better=first["higher_is_better"],
        values=tuple(row["value"] for row in rows),
        documents=documents,
        answers=tuple(table["value"].to_numpy() for table in tables) if is_mean else None,
    )


def task_table(
    students: Mapping[str, Mapping[str, TaskScore]], baselines: Mapping[str, str | None]
) -> tuple[pl.DataFrame, str]:
    """Hold every student against its baseline, on each task and in the average; return the table, and it in words.

    Args:
        students: by name, what each scores on each task.
        baselines: whom each is held against; None for whom it is not.

    Raises:
        TaskError: if two that are compared were asked about other documents.
    """
    rows: list[dict[str, Any]] = []
    words = []
    for name, scores in students.items():
        baseline = baselines[name]
        theirs = None if baseline is None else students[baseline]
        differences = {}
        for task, score in scores.items():
            other = None if theirs is None else theirs[task]
            difference = None if other is None else _difference(name, score, baseline, other)
            if difference is not None:
                differences[task] = difference
            rows.append({"student": name, "baseline": baseline, **_row(score, other, difference)})
        average = _average(scores, theirs, differences)
        if average is not None:
            rows.append({"student": name, "baseline": baseline, **average})
        if baseline is not None:
            words.append(" ".join(_in_words(name, baseline, [row for row in rows if row["student"] == name])))
    return pl.DataFrame(rows, schema=SCHEMA), "\n\n".join(words)


def _difference(name: str, score: TaskScore, baseline: str | None, other: TaskScore) -> PairedDifference | None:
    if score.documents != other.documents or score.metric != other.metric:
        raise TaskError(f"task {score.task}: {name} and {baseline} were asked about other documents; {_REMEDY}")
    if score.answers is None or other.answers is None:
        return None
    return paired_over_seeds(score.answers, other.answers)


def _row(score: TaskScore, other: TaskScore | None, difference: PairedDifference | None) -> dict[str, Any]:
    low, high = share_interval(score.answers) if score.is_accuracy and score.answers else (None, None)
    return {
        "task": score.task,
        "metric": score.metric,
        "num_documents": len(score.documents),
        "num_seeds": len(score.values),
        "value": score.value,
        "low": low,
        "high": high,
        **_against(
            score.value, None if other is None else other.value, difference, higher_is_better=score.higher_is_better
        ),
    }


def _average(
    scores: Mapping[str, TaskScore],
    theirs: Mapping[str, TaskScore] | None,
    differences: Mapping[str, PairedDifference],
) -> dict[str, Any] | None:
    """Return the row of the average over what the file names, of accuracies; None where that is less than two.

    A group counts as one, whatever number of tasks it holds.
    """
    by_name: dict[str, list[TaskScore]] = {}
    for score in scores.values():
        if score.is_accuracy:
            by_name.setdefault(score.named, []).append(score)
    if len(by_name) < 2:
        return None

    def average(of: Mapping[str, TaskScore]) -> float:
        return fmean(fmean(of[score.task].value for score in group) for group in by_name.values())

    value = average(scores)
    intervals = [share_interval(score.answers) for group in by_name.values() for score in group if score.answers]
    weights = [1 / len(by_name) / len(group) for group in by_name.values() for _ in group]
    middles = [score.value for group in by_name.values() for score in group]
    below = hypot(*(weight * (mid - low) for weight, mid, (low, _) in zip(weights, middles, intervals, strict=True)))
    above = hypot(*(weight * (high - mid) for weight, mid, (_, high) in zip(weights, middles, intervals, strict=True)))
    groups = [[differences.get(score.task) for score in group] for group in by_name.values()]
    known = [[one for one in group if one is not None] for group in groups]
    is_known = all(len(group) == len(all_of) for group, all_of in zip(known, groups, strict=True))
    difference = mean_difference([mean_difference(group) for group in known]) if is_known else None
    first = next(iter(scores.values()))
    return {
        "task": AVERAGE,
        "metric": "accuracy",
        "num_documents": sum(len(score.documents) for group in by_name.values() for score in group),
        "num_seeds": len(first.values),
        "value": value,
        "low": value - below,
        "high": value + above,
        **_against(value, None if theirs is None else average(theirs), difference, higher_is_better=True),
    }


def _against(
    value: float, other: float | None, difference: PairedDifference | None, *, higher_is_better: bool
) -> dict[str, Any]:
    if other is None:
        return {}
    row: dict[str, Any] = {"baseline_value": other, "difference": value - other}
    if difference is None:
        return row
    gain = difference.mean if higher_is_better else -difference.mean
    return row | {
        "difference_low": difference.low,
        "difference_high": difference.high,
        "p_value": difference.p_value,
        "verdict": (BETTER if gain > 0 else WORSE) if difference.is_told else ALIKE,
    }


def _in_words(name: str, baseline: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    average = next((row for row in rows if row["task"] == AVERAGE), None)
    tasks = [row for row in rows if row is not average]
    if average is not None:
        held = f"{average['value']:.1%} against {average['baseline_value']:.1%}"
        told = average.get("verdict")
        if told is None:
            yield f"{name} against {baseline}, in the average over the tasks: {held} right."
        else:
            comparison = f"{told} than" if told != ALIKE else f"{ALIKE} from"
            verb = "is " if told != ALIKE else ""
            yield (
                f"{name} {verb}{comparison} {baseline} in the average over the tasks: {held} right, {_points(average)}."
            )
    else:
        yield f"{name} is held against {baseline} on {len(tasks)} {'task' if len(tasks) == 1 else 'tasks'}."
    by_verdict: dict[str, list[str]] = {BETTER: [], WORSE: [], ALIKE: []}
    for row in tasks:
        if row.get("verdict") is not None:
            by_verdict[row["verdict"]].append(f"{row['task']} ({_shown(row)})")
    for verdict, found in by_verdict.items():
        if found:
            yield f"{verdict[0].upper()}{verdict[1:]} on {len(found)} of {len(tasks)} tasks: {', '.join(found)}."
    untold = [f"{row['task']} ({_shown(row)})" for row in tasks if row.get("verdict") is None]
    if untold:
        yield f"Without an interval: {', '.join(untold)}."
    if all(row["num_seeds"] == 1 for row in tasks):
        yield "With one seed of each this holds for these two models on other such documents, not for other seeds."


def _points(row: Mapping[str, Any]) -> str:
    low, high = (100 * row[f"difference_{end}"] for end in ("low", "high"))
    return f"{100 * row['difference']:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}"


def _shown(row: Mapping[str, Any]) -> str:
    return f"{row['metric']} {row['value']:.3f} against {row['baseline_value']:.3f}"


def _in_unit(values: NDArray[np.float64]) -> bool:
    return bool(((values >= 0) & (values <= 1)).all())


_REMEDY: Final = "a data set changed between; delete what is stored of `tasks` and `student_tasks`, and evaluate anew"
