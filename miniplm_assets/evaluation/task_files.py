"""Which tasks there are: those of lm-evaluation-harness, and those of a folder of one's own.

The harness's own index reads its fourteen thousand files as YAML, which takes a quarter of a minute. Here they are
looked through for the lines that name tasks, groups and tags; only to open a group or a tag is the index asked.
"""

import importlib.metadata
import importlib.util
import re
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from miniplm_assets.core.doors import explained_as
from miniplm_assets.core.errors import TaskError
from miniplm_assets.experiment.settings import nearest
from miniplm_assets.storage.manifest import MANIFEST

# Another version may hold other tasks, and other prompts of the same: it asks for a code version of the kinds that read
# it, and for another pin in pyproject.toml.
HARNESS: Final = "0.4.13"
# What makes a task: its file, the functions that it names, and its data.
TASK_FILES: Final = (
    "*.yaml",
    "*.yml",
    "*.py",
    "*.jsonl",
    "*.json",
    "*.csv",
    "*.tsv",
    "*.txt",
    "*.jsonl.gz",
    "*.jsonl.zst",
)
# The builders of `datasets` that read local files.
LOCAL_READERS: Final = frozenset({"json", "csv", "text", "parquet", "arrow"})

_NAMING: Final = re.compile(
    r"""^["']?(task|group|tag)["']?[ \t]*:[ \t]*  # then a name, or a list of them in either of YAML's ways
    (?:["']?([^\s"'\[\]{}#]+)["']?[ \t]*(?:\#.*)?$ | \[([^\]]*)\] | ((?:\n[ \t]*-[^\n]*)+))""",
    re.MULTILINE | re.VERBOSE,
)
_SEE: Final = "see docs/tasks.md for what stands in one"
_WORD: Final = re.compile(r"""[^\s"',\-\[\]][^\s"',\[\]]*""")


def require_harness() -> None:
    """Make sure that the version of lm-evaluation-harness is installed that results name.

    Raises:
        TaskError: if it is not; with the command that installs it.
    """
    found = harness_version()
    if found != HARNESS:
        raise TaskError(
            f"evaluation.tasks needs lm_eval {HARNESS}, and "
            f"{'none' if found is None else found} is installed here; run: pip install 'miniplm_assets[tasks]'"
        )


def harness_version() -> str | None:
    """Return the version of lm-evaluation-harness that is installed, if any; without loading it."""
    try:
        return importlib.metadata.version("lm_eval")
    except importlib.metadata.PackageNotFoundError:
        return None


def task_files(folder: Path) -> list[Path]:
    """Return the files of a folder that make its tasks, by name; a result of a warehouse is such a folder too."""
    found = {path for pattern in TASK_FILES for path in folder.glob(pattern) if path.is_file()}
    return sorted(path for path in found if path.name != MANIFEST)


def definitions_in(folder: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Return the task files of a folder by the task or group that each defines, unresolved: no function is loaded.

    Raises:
        TaskError: if one cannot be read, or two define the same.
    """
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.y*ml")):
        definition = _read(path)
        name = definition.get("group") or definition.get("task")
        if not isinstance(name, str):
            continue  # what others include
        if name in found:
            raise TaskError(f"{path}: defines the task {name}, as {found[name][0].name} does; rename one of them")
        found[name] = path, definition
    return found


def local_data(path: Path, definition: dict[str, Any]) -> dict[str, Any]:
    """Return the keywords that `datasets` reads a task's data with, its files found beside the task file.

    Args:
        path: the task file.
        definition: what it holds.

    Raises:
        TaskError: if a file is not there; it says where it is from, if the task file does (metadata.data_from).
    """
    with explained_as(TaskError, f"{path}: cannot be read as a task file", _SEE):
        return _local_data(path, definition)


def _local_data(path: Path, definition: dict[str, Any]) -> dict[str, Any]:
    keywords = dict(definition.get("dataset_kwargs") or {})
    if definition.get("dataset_path") in LOCAL_READERS:
        if not keywords.get("data_files"):
            raise TaskError(
                f"{path}: dataset_path is {definition['dataset_path']}, which reads files, and none is named; name "
                "them in dataset_kwargs.data_files, relative to this file"
            )
        metadata = definition.get("metadata") or {}
        keywords["data_files"] = _beside(path, keywords["data_files"], metadata.get("data_from"))
    return keywords


def require_known(names: Sequence[str], own: Collection[str]) -> None:
    """Make sure that somebody has each task, group or tag that is named.

    Args:
        names: that are asked for.
        own: names that a folder of one's own has.

    Raises:
        TaskError: naming those that nobody has, each with the nearest that there is.
    """
    rest = [name for name in names if name not in own]
    if not rest:
        return
    harness = harness_files()
    unknown = [name for name in rest if name not in harness]
    if unknown:
        known = [*harness, *own]
        lines = "".join(f"\n  - {name}: {nearest(name, known)}" for name in unknown)
        raise TaskError(
            f"evaluation.tasks.names: no such task in lm_eval {HARNESS}, nor in evaluation.tasks.folder:{lines}"
        )


@cache
def harness_files() -> dict[str, Path | None]:
    """Return all that the harness names: for a task its file, for a group or a tag None."""
    found: dict[str, Path | None] = {}
    for path in sorted(harness_folder().rglob("*yaml")):  # some that others include have no suffix
        for match in _NAMING.finditer(path.read_text(encoding="utf-8", errors="replace")):
            what, name, inline, lines = match.groups()
            if what == "task" and name:
                found[name] = path
            elif what == "tag" or name:  # the list behind `task:` is what a group holds
                for one in [name] if name else _WORD.findall(inline or lines):
                    found.setdefault(one, None)
    return found


def harness_folder() -> Path:
    """Return where the harness keeps its task files; nothing of it is loaded.

    Raises:
        TaskError: if it is not installed.
    """
    require_harness()
    spec = importlib.util.find_spec("lm_eval")
    assert spec is not None and spec.submodule_search_locations, "its version was found"
    return Path(next(iter(spec.submodule_search_locations))) / "tasks"


def check_tasks(names: Sequence[str], folder: Path | None, *, with_data: bool) -> None:
    """Make sure that tasks are known and their files can be read.

    Args:
        names: of tasks, groups and tags.
        folder: task files of one's own.
        with_data: whether the data that these read must be there as well.

    Raises:
        TaskError: if the harness is not installed, a name is unknown, a task file cannot be read, or a data file is
            not there.
    """
    own = {} if folder is None else definitions_in(folder)
    require_known(names, own)
    for name in names:
        if with_data and name in own:
            local_data(*own[name])


def _read(path: Path) -> dict[str, Any]:
    require_harness()
    from lm_eval.tasks._yaml_loader import load_yaml

    with explained_as(TaskError, f"{path}: cannot be read as a task file", _SEE):
        return dict(load_yaml(path, resolve_func=False))


def _beside(path: Path, files: Any, data_from: str | None) -> Any:
    match files:
        case dict():
            return {split: _beside(path, inner, data_from) for split, inner in files.items()}
        case list():
            return [_beside(path, inner, data_from) for inner in files]
        case str() if "://" not in files and not Path(files).is_absolute():
            place = path.parent / files
            if not place.is_file():
                source = "put it there" if data_from is None else f"{data_from.strip()} Put it there"
                raise TaskError(f"{path}: reads {place}, which does not exist. {source[0].upper()}{source[1:]}.")
            return str(place)
        case _:
            return files
