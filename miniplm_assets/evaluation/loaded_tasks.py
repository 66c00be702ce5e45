"""Tasks of lm-evaluation-harness, opened: their documents are there, and what they are is known."""

import inspect
import json
import logging
import os
import random
import shutil
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from miniplm_assets.core.doors import cause_of, explained_as
from miniplm_assets.core.errors import MiniplmError, TaskError, UnreachableTaskError
from miniplm_assets.core.recipe import fingerprint_of
from miniplm_assets.evaluation.task_files import (
    LOCAL_READERS,
    definitions_in,
    harness_files,
    harness_folder,
    local_data,
    require_harness,
    require_known,
    task_files,
)
from miniplm_assets.storage.hub import may_pass

# Of a task's metrics, the first of these that it has is the one to look at (section 3.1 of the paper).
PREFERRED_METRICS: Final = ("acc_norm", "acc")
# Those of the harness's own command.
RANDOM_SEED: Final = 0
FEWSHOT_SEED: Final = 1_234


@dataclass(frozen=True)
class LoadedTask:
    """A task whose documents are there.

    Attributes:
        name: of the task.
        named: what the experiment file names: the task itself, or a group or a tag that it is of.
        task: the harness's own.
        limit: how many of its documents are meant; None for all.
        config_hash: of all that its definition says, its functions too.
    """

    name: str
    named: str
    task: Any
    limit: int | None
    config_hash: str

    @property
    def metrics(self) -> dict[str, bool]:
        """Its metrics, the one to look at first, and whether more of each is better."""
        higher = self.task.higher_is_better()
        names = list(self.task.aggregation())
        first = next((name for name in PREFERRED_METRICS if name in names), names[0])
        return {name: bool(higher.get(name, True)) for name in [first, *(name for name in names if name != first)]}

    @property
    def documents(self) -> list[str]:
        """The hashes of its documents, in their order, as the harness's logs have them."""
        from lm_eval.utils import handle_non_serializable, hash_string

        documents = self.task.eval_docs
        number = len(documents) if self.limit is None else min(self.limit, len(documents))
        return [
            hash_string(json.dumps(documents[place], indent=2, default=handle_non_serializable, ensure_ascii=False))
            for place in range(number)
        ]

    def describe(self) -> dict[str, Any]:
        """Return its row in the table of tasks."""
        metrics = self.metrics
        metric = next(iter(metrics))
        hashes = self.documents
        return {
            "task": self.name,
            "named": self.named,
            "output_type": str(self.task.OUTPUT_TYPE or self.task.config.output_type),
            "metric": metric,
            "higher_is_better": metrics[metric],
            "num_fewshot": int(self.task.config.num_fewshot or 0),
            "task_version": str(self.task.VERSION),
            "config_hash": self.config_hash,
            "data_set": "/".join(filter(None, (self.task.DATASET_PATH, self.task.DATASET_NAME))),
            "num_documents": len(hashes),
            "documents_hash": fingerprint_of(hashes),
        }


@contextmanager
def open_tasks(
    names: Sequence[str], folder: Path | None, *, num_fewshot: int, limit: int | None
) -> Iterator[list[LoadedTask]]:
    """Open tasks by their names; groups and tags give the tasks that they hold.

    Args:
        names: of tasks, groups and tags.
        folder: task files of one's own; they are copied, since Python would leave compiled files beside them.
        num_fewshot: examples in front of each question.
        limit: of each task, the first so many documents; None for all.

    Raises:
        TaskError: if a name is unknown, a task file wrong, or a data set not there.
        UnreachableTaskError: if a data set is out of reach.
    """
    require_harness()
    with tempfile.TemporaryDirectory(prefix="tasks-") as place, quiet():
        copy = None
        if folder is not None:
            copy = Path(place) / "files"
            copy.mkdir()
            for path in task_files(folder):
                shutil.copyfile(path, copy / path.name)
        manager, originals = _manager(names, copy, cache_folder=Path(place) / "data")
        loaded: dict[str, LoadedTask] = {}
        for named in names:
            for name, task in _built(manager, named).items():
                if name in loaded:
                    raise TaskError(
                        f"evaluation.tasks.names: the task {name} is of both {loaded[name].named} and {named}; name one"
                    )
                _set_shots(task, name, num_fewshot)
                config_hash = _config_hash(task, originals.get(name), copy)
                loaded[name] = LoadedTask(name, named, task, limit, config_hash)
        yield list(loaded.values())


@contextmanager
def quiet() -> Iterator[None]:
    """Let the harness and `datasets` draw no bars and tell nothing but errors; afterwards they are as they were."""
    import datasets
    import lm_eval.api.task

    logger, bars, module = logging.getLogger("lm_eval"), datasets.is_progress_bar_enabled(), lm_eval.api.task
    level, tqdm = logger.level, module.tqdm
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    module.tqdm = lambda things, **_: things
    try:
        yield
    finally:
        logger.setLevel(level)
        module.tqdm = tqdm
        if bars:
            datasets.enable_progress_bars()


def _manager(names: Sequence[str], copy: Path | None, *, cache_folder: Path) -> tuple[Any, dict[str, dict[str, Any]]]:
    """Return the harness's index of what the names need, and the data of own tasks as their files have it."""
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    own = {} if copy is None else definitions_in(copy)
    require_known(names, own)
    with explained_as(TaskError, "evaluation.tasks.folder: a group cannot be read", "its `task` is a list of names"):
        own_names, folders = _needed(names, own)
    manager = TaskManager(include_defaults=False, include_path=[*sorted(folders), *([copy] if copy else [])])
    index = manager.task_index
    originals = {}
    for name in own_names:
        path, definition = own[name]
        with explained_as(TaskError, f"{path.name}: cannot be loaded as a task", "correct the file"):
            content = load_yaml(path, resolve_func=True)
        originals[name] = dict(definition.get("dataset_kwargs") or {})
        if definition.get("dataset_path"):
            # Kept with the other caches, each copy of these files would stay there for ever.
            content["dataset_kwargs"] = {**local_data(path, definition), "cache_dir": str(cache_folder)}
        index[name] = replace(index[name], yaml_path=None, cfg=content)
    return manager, originals


def _needed(names: Sequence[str], own: Mapping[str, tuple[Path, dict[str, Any]]]) -> tuple[set[str], set[Path]]:
    """Return which tasks of one's own are meant, and which folders of the harness: all of it for a group of its."""
    own_names: set[str] = set()
    folders: set[Path] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in own:
            path = harness_files().get(name)
            folders.add(harness_folder() if path is None else path.parent)
        elif "group" not in own[name][1]:
            own_names.add(name)
        else:
            members = own[name][1].get("task") or []
            waiting += [one if isinstance(one, str) else str(one.get("task") or one.get("group")) for one in members]
    return own_names, {harness_folder()} if folders and harness_folder() in folders else folders


def _built(manager: Any, named: str) -> dict[str, Any]:
    random.seed(RANDOM_SEED)  # some tasks draw from it as their documents are read
    try:
        return dict(manager.load([named])["tasks"])
    except MiniplmError:
        raise
    except Exception as error:
        if not _is_over_data(error):
            raise TaskError(
                f"task {named}: cannot be made ({cause_of(error)}); where its file is in evaluation.tasks.folder, "
                "correct it, else leave the task out"
            ) from error
        raise _missing_data(manager, named, error) from error


def _is_over_data(error: Exception) -> bool:
    return any(
        frame.name == "load_dataset" or (frame.name == "download" and frame.filename.endswith("task.py"))
        for frame in traceback.extract_tb(error.__traceback__)
    )


def _missing_data(manager: Any, named: str, error: Exception) -> TaskError:
    entry = manager.task_index[named]
    data_set = (entry.cfg or {}).get("dataset_path") or "of a task that it holds"
    name = (entry.cfg or {}).get("dataset_name")
    call = f"datasets.load_dataset({data_set!r}{'' if name is None else f', {name!r}'})"
    if data_set in LOCAL_READERS:
        return TaskError(f"task {named}: its data cannot be read as {data_set} ({_cause(error)}); correct the file")
    is_script = "script" in str(error).lower()
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    remedy = (
        "the installed datasets reads no such scripts: get the data from its makers, and write a task file of your own "
        "that reads it into evaluation.tasks.folder, as experiments/tasks/storycloze_2018.yaml does (docs/tasks.md)"
        if is_script
        else f"with a network it comes by itself; without one, call {call} elsewhere and copy what that leaves in its "
        f"HF_HOME into the one here ({home}), or write a task file of your own that reads local files (docs/tasks.md)"
    )
    kind = UnreachableTaskError if _is_unreachable(error) else TaskError
    return kind(f"task {named}: its data set {data_set} cannot be read ({cause_of(error)}); {remedy}")


def _is_unreachable(error: BaseException) -> bool:
    """Whether an error is of a network or a server, or follows from one."""
    response = getattr(error, "response", None)
    if isinstance(error, ConnectionError | TimeoutError) or (
        isinstance(error, Exception) and response is not None and may_pass(error)
    ):
        return True
    return error.__cause__ is not None and _is_unreachable(error.__cause__)


def _cause(error: BaseException) -> str:
    """Return what is at the bottom of an error; `datasets` tells of a wrong line only there."""
    return cause_of(error) if error.__cause__ is None else _cause(error.__cause__)


def _set_shots(task: Any, name: str, num_fewshot: int) -> None:
    """Let a task have examples in front of its questions.

    Raises:
        TaskError: if it says of itself that it has none.
    """
    if task.config.num_fewshot == 0 and num_fewshot:
        raise TaskError(
            f"task {name}: has no examples by its own definition, but evaluation.tasks.num_fewshot is {num_fewshot}; "
            "leave the task out, or set num_fewshot to 0"
        )
    task.set_config("num_fewshot", num_fewshot)
    task.set_fewshot_seed(FEWSHOT_SEED)


def _config_hash(task: Any, original_data: dict[str, Any] | None, folder: Path | None) -> str:
    config = _plain(task.dump_config())
    metadata = dict(config.get("metadata") or {})
    metadata.pop("config_source", None)  # where it lies
    config["metadata"] = metadata
    if original_data is not None:
        config["dataset_kwargs"] = _plain(original_data)
        assert folder is not None, "an own task is of a folder"
        # A function calls others, which its own source does not tell.
        config["python"] = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))}
    return fingerprint_of(config)


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: of a function its source, which no address of a memory is in."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case dict():
            return {str(name): _plain(inner) for name, inner in sorted(value.items(), key=lambda item: str(item[0]))}
        case list() | tuple() | set():
            return [_plain(inner) for inner in value]
        case _ if callable(value):
            try:
                return inspect.getsource(value)
            except (TypeError, OSError):
                return getattr(value, "__qualname__", type(value).__name__)
        case _:
            return type(value).__name__
