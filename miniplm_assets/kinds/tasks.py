"""`tasks`: the tasks that students are evaluated on, found, opened and described before anything is trained."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Final

import polars as pl

from miniplm_assets.core.errors import TaskError
from miniplm_assets.evaluation.loaded_tasks import open_tasks
from miniplm_assets.evaluation.task_files import HARNESS, check_tasks, harness_version, require_harness, task_files
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.experiment.tasks import HELD_OUT_TASKS as HELD_OUT_NAMES
from miniplm_assets.kinds.held_out_tasks import HELD_OUT_TASKS
from miniplm_assets.lineage.folders import require_copied
from miniplm_assets.lineage.kind import Blueprint, Kind, Node
from miniplm_assets.lineage.sizes import Sizes
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.store import Draft, Result

TASK_TABLE: Final = "tasks.parquet"


class TaskList(Settings):
    """Which tasks there are.

    Attributes:
        names: of tasks, groups and tags.
        num_fewshot: examples in front of each question.
        limit: of each task, the first so many documents.
        harness: version of lm-evaluation-harness, whose tasks and prompts these are.
        folder: of task files of one's own; their content counts, not their place.
    """

    runtime_only: ClassVar[frozenset[str]] = frozenset({"folder"})

    names: tuple[str, ...]
    num_fewshot: int
    limit: int | None = None
    harness: str
    folder: str | None = None


def _nodes(blueprint: Blueprint) -> Iterator[Node[TaskList]]:
    tasks = blueprint.experiment.evaluation.tasks
    if tasks is None:
        return
    yield Node(
        kind=TASKS,
        inputs={HELD_OUT_TASKS.name: HELD_OUT_TASKS.name} if tasks.held_out_names else {},
        settings=TaskList(
            names=tasks.all_names,
            num_fewshot=tasks.num_fewshot,
            limit=tasks.limit,
            harness=HARNESS,
            folder=tasks.folder,
        ),
        folder=None if tasks.folder is None else Path(tasks.folder),
    )


def _make(work: Work[TaskList]) -> Result:
    """Copy the task files of one's own, and open every task."""
    settings, node_folder = work.settings, work.node.folder

    def write(draft: Draft) -> None:
        require_harness()
        check_tasks(_named_elsewhere(settings), node_folder, with_data=True)
        if node_folder is not None:
            _refuse_held_out_names(node_folder)
            for path in task_files(node_folder):
                shutil.copyfile(path, draft.path / path.name)
            require_copied(work.node, draft.recipe, draft.path)
        if HELD_OUT_TASKS.name in work.node.inputs:
            for path in task_files(work.input(HELD_OUT_TASKS.name).verified_folder()):
                shutil.copyfile(path, draft.path / path.name)
        work.report(f"{work.node.key}: opening {', '.join(settings.names)}")
        with open_tasks(
            settings.names,
            draft.path if task_files(draft.path) else None,
            num_fewshot=settings.num_fewshot,
            limit=settings.limit,
        ) as loaded:
            rows = []
            for task in loaded:
                work.run.stop.look()
                rows.append(task.describe())
        table = pl.DataFrame(rows)
        table.write_parquet(draft.path / TASK_TABLE)
        draft.facts = {
            "harness": f"lm_eval {HARNESS}",
            "tasks": table.select("task", "metric", "num_fewshot", "num_documents", "task_version").to_dicts(),
        }

    return work.make(write)


def _named_elsewhere(settings: TaskList) -> list[str]:
    """Return the names of tasks that are not made of the validation split."""
    return [name for name in settings.names if name not in HELD_OUT_NAMES]


def _refuse_held_out_names(folder: Path) -> None:
    taken = sorted({path.stem for path in task_files(folder)}.intersection(HELD_OUT_NAMES))
    if taken:
        raise TaskError(
            f"{folder}: {taken[0]} is what a task made of the validation split is called; give the file another name"
        )


def _problems(node: Node[TaskList], _sizes: Sizes) -> Iterator[str]:
    """Say which tasks nobody knows; that something is not here yet, the harness or data, making it will tell."""
    if harness_version() is None:
        return
    try:
        check_tasks(_named_elsewhere(node.settings), node.folder, with_data=False)
    except TaskError as error:
        yield str(error)


def _copied_files(folder: Path) -> list[Path]:
    """Return the files of a folder that make its tasks; in a result, those that it does not add itself."""
    return [path for path in task_files(folder) if path.stem not in HELD_OUT_NAMES]


TASKS: Kind[Any] = Kind(
    name="tasks",
    code_version="1",
    section="tasks",
    technologies=frozenset({"json"}),
    description="""The tasks that every student is evaluated on, opened before anything is trained.

A name that nobody knows, a wrong task file or a data set that is not there is an error here; and all students are
evaluated on the documents that are counted here.""",
    nodes=_nodes,
    make=_make,
    table=TASK_TABLE,
    columns={
        "task": "its name",
        "named": "what the experiment file names: the task, or a group or tag that it is of",
        "output_type": "multiple_choice, loglikelihood, loglikelihood_rolling or generate_until",
        "metric": "to look at first: acc_norm where it has that, else acc, else its own first",
        "higher_is_better": "whether more of it is better",
        "num_fewshot": "examples in front of each question",
        "task_version": "as its definition says",
        "config_hash": "of all that its definition says, its functions too",
        "data_set": "that it reads",
        "num_documents": "that students are asked about",
        "documents_hash": "of these documents, in their order",
    },
    copied_files=_copied_files,
    problems=_problems,
)
