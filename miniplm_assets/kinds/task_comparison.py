"""`task_comparison`: students held against their baselines on tasks, on the same documents."""

from collections.abc import Iterator
from typing import Final

import polars as pl

from miniplm_assets.core.intervals import in_words
from miniplm_assets.evaluation.task_comparison import TaskScore, score_of, task_table
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.student_tasks import ANSWERS, METRICS, student_tasks_key
from miniplm_assets.lineage.kind import Blueprint, Kind, Node
from miniplm_assets.lineage.outcome import TASK_COMPARISON as NAME
from miniplm_assets.lineage.page import Page, Rows, Words
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.store import Draft, Result

COMPARED_TASKS: Final = "compared_tasks.parquet"
DIFFERENCE: Final = ("difference", "difference_low", "difference_high")


class ComparedOnTasks(Settings):
    """Who is compared.

    Attributes:
        baselines: by student, whom it is held against; None for one that is held against nobody.
    """

    baselines: dict[str, str | None]


def _nodes(blueprint: Blueprint) -> Iterator[Node[ComparedOnTasks]]:
    experiment = blueprint.experiment
    baselines = {name: student.baseline for name, student in experiment.students.items()}
    if experiment.evaluation.tasks is None or not any(baselines.values()):
        return
    keys = [student_tasks_key(name) for name in baselines]
    yield Node(kind=TASK_COMPARISON, inputs={key: key for key in keys}, settings=ComparedOnTasks(baselines=baselines))


def _make(work: Work[ComparedOnTasks]) -> Result:
    """Hold every student that names a baseline against it, on each task."""

    def write(draft: Draft) -> None:
        students = {name: _scores(work, name) for name in work.settings.baselines}
        table, verdict = task_table(students, work.settings.baselines)
        table.write_parquet(draft.path / COMPARED_TASKS)
        shown = ("student", "task", "metric", "value", *DIFFERENCE, "verdict")
        draft.facts = {"verdict": verdict, "tasks": table.select(shown).to_dicts()}
        work.report(verdict)

    return work.make(write)


def _scores(work: Work[ComparedOnTasks], student: str) -> dict[str, TaskScore]:
    pieces = work.input_pieces(student_tasks_key(student)).values()
    seeds = [
        (pl.read_parquet(piece.file(METRICS), glob=False), pl.read_parquet(piece.file(ANSWERS), glob=False))
        for piece in pieces
    ]
    metrics = seeds[0][0]
    return {task: score_of(task, seeds) for task in metrics.filter("is_primary")["task"]}


def _page(_work: Work[ComparedOnTasks], result: Result) -> Page:
    rows = [
        [
            row["student"],
            f"{row['task']} ({row['metric']})",
            row["value"],
            "" if row["difference"] is None else in_words(*(row[name] for name in DIFFERENCE), signed=True),
            row["verdict"],
        ]
        for row in result.facts["tasks"]
    ]
    columns = ("student", "task", "value", "against its baseline (95 % interval)", "so it is")
    return Page(outcome={"verdict": Words(result.facts["verdict"]), "tasks": Rows(columns, rows)})


TASK_COMPARISON = Kind(
    name=NAME,
    code_version="1",
    section="reports",
    technologies=frozenset({"parquet"}),
    description="""Students on tasks, each against its baseline on the same documents, and in the average over tasks.

With one seed of each the test is McNemar's, exact, and the interval Newcombe's; with more, the spread over the seeds
is in the interval too. Tasks are judged one by one: of twenty that are alike, one seems told by chance.""",
    nodes=_nodes,
    make=_make,
    page=_page,
    table=COMPARED_TASKS,
    columns={
        "student": "its name",
        "baseline": "what it is held against; empty for a student that names none",
        "task": "its name; average: the mean of the accuracies over what the file names, each with the same weight",
        "metric": "that is compared",
        "num_documents": "that were asked",
        "num_seeds": "of the student",
        "value": "the metric, in the mean over the seeds",
        "low": "lower end of the 95 % interval of an accuracy",
        "high": "upper end",
        "baseline_value": "the metric of the baseline",
        "difference": "value - baseline_value",
        "difference_low": "lower end of its 95 % interval, paired on documents; empty where a document has no number",
        "difference_high": "upper end",
        "p_value": "of McNemar's exact test; empty with several seeds, and where a document is not just right or wrong",
        "verdict": "better, worse, cannot be told apart; empty where there is no interval",
    },
)
