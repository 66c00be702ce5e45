"""`<student>/student_tasks`: what a student scores on tasks of lm-evaluation-harness, for each of its seeds."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final

import polars as pl

from miniplm_assets.core.errors import TaskError
from miniplm_assets.core.recipe import Recipe, key_of
from miniplm_assets.corpus.tokenizer import load_tokenizer
from miniplm_assets.evaluation.evaluated_tasks import evaluate_task, tables_of, taken_over
from miniplm_assets.evaluation.loaded_tasks import LoadedTask, open_tasks
from miniplm_assets.evaluation.task_files import HARNESS, require_harness, task_files
from miniplm_assets.experiment import Tasks
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.student_checkpoint import STUDENT_CHECKPOINT, checkpoint_key, seeds_of
from miniplm_assets.kinds.tasks import TASK_TABLE, TASKS
from miniplm_assets.kinds.tokenizer import TOKENIZER, tokenizer_key
from miniplm_assets.lineage.kind import Blueprint, Kind, Node
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.store import Draft, Result

# The rows of the metrics of a task, and those of its answers.
Evaluated = tuple[list[dict[str, Any]], list[dict[str, Any]]]

METRICS: Final = "metrics.parquet"
ANSWERS: Final = "answers.parquet"


class Examination(Settings):
    """How a student is asked; which tasks, its input says.

    Attributes:
        tasks: the section of the experiment file, of which backend, dtype, shots and limit count here.
        backend: that computes the log-probabilities.
        dtype: of the weights and activations.
        num_fewshot: examples in front of each question.
        limit: of each task, the first so many documents.
        max_tokens: that a student reads at once; longer questions lose their beginning.
        harness: version of lm-evaluation-harness.
    """

    runtime_only: ClassVar[frozenset[str]] = frozenset({"tasks"})

    tasks: Tasks
    backend: str
    dtype: str
    num_fewshot: int
    limit: int | None = None
    max_tokens: int
    harness: str


def _nodes(blueprint: Blueprint) -> Iterator[Node[Examination]]:
    experiment = blueprint.experiment
    tasks = experiment.evaluation.tasks
    if tasks is None:
        return
    for name, student in experiment.students.items():
        yield Node(
            kind=STUDENT_TASKS,
            names=(name,),
            inputs={
                STUDENT_CHECKPOINT.name: checkpoint_key(name),
                TOKENIZER.name: tokenizer_key(student.tokenizer),
                TASKS.name: TASKS.name,
            },
            settings=Examination(
                tasks=tasks,
                backend=tasks.backend,
                dtype=tasks.dtype,
                num_fewshot=tasks.num_fewshot,
                limit=tasks.limit,
                max_tokens=experiment.sequences.sequence_length,
                harness=HARNESS,
            ),
            seeds=seeds_of(experiment, student),
        )


def _make(work: Work[Examination]) -> Result:
    """Evaluate a student on every task."""
    checkpoints = work.input_pieces(STUDENT_CHECKPOINT.name)

    def write(seed: str, draft: Draft) -> None:
        require_harness()
        tasks_folder = work.input(TASKS.name).verified_folder()
        described = {row["task"]: row for row in pl.read_parquet(tasks_folder / TASK_TABLE, glob=False).to_dicts()}
        with open_tasks(
            list(dict.fromkeys(row["named"] for row in described.values())),
            tasks_folder if task_files(tasks_folder) else None,
            num_fewshot=work.settings.num_fewshot,
            limit=work.settings.limit,
        ) as loaded:
            _require_same(loaded, described)
            known = _answered_before(work, draft.recipe, described)
            asked = [task for task in loaded if task.name not in known]
            known |= _evaluate(work, checkpoints[seed], asked, described)
        parts = [known[name] for name in described]
        metrics, answers = tables_of(*([row for rows in part for row in rows] for part in zip(*parts, strict=True)))
        metrics.write_parquet(draft.path / METRICS)
        answers.write_parquet(draft.path / ANSWERS)
        primary = metrics.filter("is_primary")
        draft.facts = {
            "harness": f"lm_eval {HARNESS}",
            "tasks": primary.select("task", "metric", "value", "stderr", "num_documents").to_dicts(),
            **{row["task"]: row["value"] for row in primary.iter_rows(named=True)},
        }

    return work.make_pieces(write)


def _answered_before(
    work: Work[Examination], recipe: Recipe, described: dict[str, dict[str, Any]]
) -> dict[str, Evaluated]:
    """Return what earlier results have of the same student, asked in the same way: all but what was added since."""
    known: dict[str, Evaluated] = {}
    for result in work.pipeline.store.results(work.node.key, on_problem=lambda _problem: None):
        if not result.described(ANSWERS) or not _differ_in_tasks_alone(result.manifest.ingredients, recipe.ingredients):
            continue
        metrics, answers = (pl.read_parquet(result.file(name), glob=False) for name in (METRICS, ANSWERS))
        rest = {name: row for name, row in described.items() if name not in known}
        known |= {name: (of_task, rows) for name, of_task, rows in taken_over(metrics, answers, rest)}
    if known:
        work.report(f"{work.node.key}: {len(known)} of {len(described)} tasks are answered already")
    return known


def _differ_in_tasks_alone(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    def without_tasks(ingredients: Mapping[str, Any]) -> dict[str, Any]:
        inputs = {role: value for role, value in ingredients["inputs"].items() if role != TASKS.name}
        return {**ingredients, "inputs": inputs}

    return without_tasks(one) == without_tasks(other)


def _evaluate(
    work: Work[Examination], checkpoint: Result, loaded: list[LoadedTask], described: dict[str, dict[str, Any]]
) -> dict[str, Evaluated]:
    if not loaded:
        return {}
    from miniplm_assets.evaluation.harness_model import open_student

    tokenizer = load_tokenizer(work.input(TOKENIZER.name).verified_folder())
    evaluated: dict[str, Evaluated] = {}
    with (
        work.run.device(),
        open_student(
            checkpoint.verified_folder(),
            work.settings.tasks,
            max_tokens=work.settings.max_tokens,
            end_of_document_id=tokenizer.end_of_document_id,
            report=work.report,
            look=work.run.stop.look,
        ) as (student, requests),
    ):
        for place, task in enumerate(loaded, 1):
            work.run.stop.look()
            requests.begin(task.name)
            row = described[task.name]
            of_task, of_documents = evaluate_task(task, row, student)
            of_task = [{**one, "num_truncated": requests.num_truncated} for one in of_task]
            evaluated[task.name] = of_task, of_documents
            told = next(one for one in of_task if one["is_primary"])
            cut = f"; {requests.num_truncated:,} requests lost their beginning" if requests.num_truncated else ""
            work.report(
                f"{work.node.key}: task {place} of {len(loaded)}, {task.name}: {told['metric']} {told['value']:.4f} "
                f"on {row['num_documents']:,} documents{cut}"
            )
    return evaluated


def _require_same(loaded: list[LoadedTask], described: dict[str, dict[str, Any]]) -> None:
    """Make sure that what is evaluated is what the table of tasks tells of: the same tasks, with the same documents.

    Raises:
        TaskError: if a data set, or the harness, changed since.
    """
    found = {task.name: task.describe() for task in loaded}
    for name in sorted({*found, *described}):
        if found.get(name) != described.get(name):
            before, now = described.get(name) or {}, found.get(name) or {}
            what = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
            raise TaskError(
                f"task {name}: {', '.join(what)} changed since `tasks` was made, so that students would not be asked "
                "the same: was its data set fetched anew? Bring back what was there; or, to begin anew with what is "
                "there now, delete what is stored of `tasks` and `student_tasks`"
            )


STUDENT_TASKS = Kind(
    name="student_tasks",
    code_version="1",
    section="student",
    technologies=frozenset({"pytorch", "parquet"}),
    description="""What a student scores on the tasks of `evaluation.tasks`, by lm-evaluation-harness, for each seed.

`answers.parquet` beside the table holds what it answers to each document.""",
    nodes=_nodes,
    make=_make,
    num_devices=lambda _: 1,
    pieces="seed",
    table=METRICS,
    columns={
        "task": "its name",
        "named": "what the experiment file names: the task, or a group or tag that it is of",
        "metric": "acc: right by log-probability; acc_norm: by that a character; others as the task has them",
        "filter": "of the harness, over generated text; none where there is none",
        "is_primary": "whether it is the metric to look at first",
        "value": "over all documents",
        "stderr": "of the mean over the documents; empty for what is no mean",
        "higher_is_better": "whether more of it is better",
        "num_documents": "that were asked",
        "num_fewshot": "examples in front of each question",
        "task_version": "as its definition says",
        "config_hash": "of all that its definition says",
        "num_truncated": "questions, each with one of its answers, that were too long, and lost their beginning",
    },
)


def student_tasks_key(student: str) -> str:
    """Return the key of what a student scores on tasks."""
    return key_of(STUDENT_TASKS.name, student)
