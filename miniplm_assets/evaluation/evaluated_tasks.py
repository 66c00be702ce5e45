"""Tasks evaluated by lm-evaluation-harness: what a student answers to each document, and each metric over all."""

import random
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite, log, sqrt
from statistics import fmean, stdev
from typing import Any, Final

import numpy as np
import polars as pl

from miniplm_assets.core.doors import explained_as
from miniplm_assets.core.errors import TaskError
from miniplm_assets.core.recipe import fingerprint_of
from miniplm_assets.evaluation.loaded_tasks import RANDOM_SEED, LoadedTask, quiet

MULTIPLE_CHOICE: Final = "multiple_choice"
BITS_PER_BYTE: Final = "bits_per_byte"

METRICS_SCHEMA: Final[dict[str, pl.DataType]] = {
    "task": pl.String(),
    "named": pl.String(),
    "metric": pl.String(),
    "filter": pl.String(),
    "is_primary": pl.Boolean(),
    "value": pl.Float64(),
    "stderr": pl.Float64(),
    "higher_is_better": pl.Boolean(),
    "num_documents": pl.Int64(),
    "num_fewshot": pl.Int64(),
    "task_version": pl.String(),
    "config_hash": pl.String(),
    "num_truncated": pl.Int64(),
}
ANSWERS_SCHEMA: Final[dict[str, pl.DataType]] = {
    "task": pl.String(),
    "doc_id": pl.Int64(),
    "doc_hash": pl.String(),
    "filter": pl.String(),
    "target": pl.String(),
    "prediction": pl.String(),
    "logprob_nats": pl.List(pl.Float64()),
    "is_greedy": pl.List(pl.Boolean()),
    "acc": pl.Float64(),
    "acc_norm": pl.Float64(),
    "metric": pl.String(),
    "value": pl.Float64(),
}


def evaluate_task(
    loaded: LoadedTask, described: dict[str, Any], student: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Evaluate a student on one task.

    Args:
        loaded: the task.
        described: its row in the table of tasks.
        student: as `open_student` gives it.

    Returns:
        A row for each metric, and one for each document.

    Raises:
        TaskError: if the task fails over an answer, or its documents are not those that the table tells of.
    """
    from lm_eval.evaluator import evaluate

    _seed()
    with (
        quiet(),
        explained_as(
            TaskError,
            f"task {loaded.name}: cannot be evaluated",
            "where memory ran out, lower evaluation.tasks.requests_per_batch; else correct its file, or leave it out",
        ),
    ):
        found = evaluate(
            lm=student,
            task_dict={"tasks": {loaded.name: loaded.task}},
            limit=loaded.limit,
            bootstrap_iters=0,  # it would start a pool of processes for what a formula gives
            log_samples=True,
        )
    samples = found["samples"][loaded.name]
    values = _values(samples, described["metric"])
    answers = [_answer(loaded, described, *one) for one in zip(samples, values, strict=True)]
    first_filter = samples[0]["filter"]
    hashes = [sample["doc_hash"] for sample in samples if sample["filter"] == first_filter]
    if len(hashes) != described["num_documents"]:
        raise TaskError(
            f"task {loaded.name}: {len(hashes):,} documents were evaluated, and it has {described['num_documents']:,}"
        )
    return list(_metrics(loaded, described, found["results"][loaded.name], samples)), answers


def taken_over(
    metrics: pl.DataFrame, answers: pl.DataFrame, described: Mapping[str, dict[str, Any]]
) -> Iterator[tuple[str, list[dict[str, Any]], list[dict[str, Any]]]]:
    """Go through the tasks of an earlier evaluation of the same student that are the same, to the letter, as some now.

    Args:
        metrics: its table of metrics.
        answers: its table of answers.
        described: by task, the row in the table of tasks now.

    Returns:
        Of each such task its name, the rows of its metrics and those of its answers.
    """
    for name, row in described.items():
        of_task, of_documents = metrics.filter(pl.col("task") == name), answers.filter(pl.col("task") == name)
        primary = of_task.filter("is_primary")
        if len(primary) != 1:
            continue
        before = primary.row(0, named=True)
        hashes = of_documents.filter(pl.col("filter") == before["filter"])["doc_hash"].to_list()
        is_same = all(before[name] == row[name] for name in ("metric", "num_fewshot", "task_version", "config_hash"))
        if is_same and fingerprint_of(hashes) == row["documents_hash"]:
            yield name, of_task.with_columns(named=pl.lit(row["named"])).to_dicts(), of_documents.to_dicts()


def tables_of(
    metrics: Sequence[dict[str, Any]], answers: Sequence[dict[str, Any]]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the table of metrics, and that of answers."""
    return pl.DataFrame(metrics, schema=METRICS_SCHEMA), pl.DataFrame(answers, schema=ANSWERS_SCHEMA)


def _metrics(
    loaded: LoadedTask, described: dict[str, Any], results: dict[str, Any], samples: Sequence[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    first_filter = samples[0]["filter"]
    for name, higher_is_better in loaded.metrics.items():
        for filter_name in dict.fromkeys(sample["filter"] for sample in samples):
            value = results.get(f"{name},{filter_name}")
            if not isinstance(value, int | float):
                continue
            values = _values([sample for sample in samples if sample["filter"] == filter_name], name)
            yield {
                "task": loaded.name,
                "named": loaded.named,
                "metric": name,
                "filter": filter_name,
                "is_primary": name == described["metric"] and filter_name == first_filter,
                "value": float(value),
                "stderr": _standard_error(values, float(value)),
                "higher_is_better": higher_is_better,
                "num_documents": len(values),
                "num_fewshot": described["num_fewshot"],
                "task_version": described["task_version"],
                "config_hash": described["config_hash"],
            }


def _standard_error(values: Sequence[float | None], mean: float) -> float | None:
    """Return that of a mean over the documents; None for a metric that is no mean of a number a document."""
    numbers = [value for value in values if value is not None]
    if len(numbers) < max(2, len(values)) or abs(fmean(numbers) - mean) > 1e-9:
        return None
    return stdev(numbers) / sqrt(len(numbers))


def _values(samples: Sequence[dict[str, Any]], metric: str) -> list[float | None]:
    """Return a number for each document whose mean over all is the metric; None where there is no such.

    Bits per byte are those of all documents by the bytes of all: a document's own bits by the bytes of a mean one.
    """
    found = [sample.get(metric) for sample in samples]
    if metric != BITS_PER_BYTE or not all(isinstance(one, tuple) for one in found):
        return [_number(one) for one in found]
    pairs = [one for one in found if isinstance(one, tuple)]
    mean_bytes = fmean(num_bytes for _, num_bytes in pairs)
    return [-nats / log(2) / mean_bytes for nats, _ in pairs]


def _answer(
    loaded: LoadedTask, described: dict[str, Any], sample: dict[str, Any], value: float | None
) -> dict[str, Any]:
    metric = described["metric"]
    answers = sample["filtered_resps"]
    logprobs, is_greedy, prediction = [], [], None
    for answer in answers:
        match answer:
            case (int() | float() as logprob, bool() as greedy):
                logprobs.append(float(logprob))
                is_greedy.append(greedy)
            case int() | float():
                logprobs.append(float(answer))
            case str():
                prediction = answer
            case _:
                prediction = str(answer)
    if described["output_type"] == MULTIPLE_CHOICE and logprobs:
        prediction = _continuation(sample["arguments"][int(np.argmax(logprobs))])
    return {
        "task": loaded.name,
        "doc_id": int(sample["doc_id"]),
        "doc_hash": sample["doc_hash"],
        "filter": sample["filter"],
        "target": str(sample["target"]),
        "prediction": prediction,
        "logprob_nats": logprobs,
        "is_greedy": is_greedy,
        "acc": _number(sample.get("acc")),
        "acc_norm": _number(sample.get("acc_norm")),
        "metric": metric,
        "value": value,
    }


def _continuation(arguments: Sequence[Any]) -> str | None:
    return str(arguments[1]) if len(arguments) > 1 else None


def _number(value: Any) -> float | None:
    is_number = isinstance(value, bool | int | float | np.number)
    return float(value) if is_number and isfinite(value) else None


def _seed() -> None:
    """Let whatever a task draws be what the harness's own command draws."""
    random.seed(RANDOM_SEED)
