"""Reading an experiment file: all of its errors at once, each with its line."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from miniplm_assets.core.errors import ExperimentError
from miniplm_assets.experiment.cross_check import LEFT_OUT
from miniplm_assets.experiment.decontamination import VALIDATION
from miniplm_assets.experiment.places import place_of, secret_in
from miniplm_assets.experiment.schema import Experiment
from miniplm_assets.experiment.yaml_file import YamlFile

# The type of a `defs.yaml` that holds an experiment; see `miniplm_assets.component`.
COMPONENT: Final = "miniplm_assets.MiniPLM"
# The key that a problem of the whole file begins with.
_KEY: Final = re.compile(r"[\w.]+")
# What stands for a part that is wrong while the rest is checked; of other named things, nothing does.
_STAND_INS: Final[dict[str, Any]] = {
    "warehouse": "warehouse",
    "corpus": {"source": {"type": "demo"}, "splits": {"teacher": 0.1}},
    "tokenizers": {"source": "trained", "vocab_size": 257},
    "architectures": {"model_type": "llama"},
}
_NAMED: Final = ("tokenizers", "architectures", "teachers", "references", "selections", "generations", "students")

Problem = tuple[Sequence[Any], str]


def load_experiment(path: Path, *, warehouse: str | None = None) -> Experiment:
    """Read and check an experiment file, or that of a component.

    Args:
        path: the YAML file; or the ``defs.yaml`` of a component that names one, or holds one.
        warehouse: a folder that takes the place of the file's own, relative to the working directory.

    Raises:
        ExperimentError: with every problem of the file, each at its key and line.
    """
    file = _mapping(path)
    if file.content.get("type") != COMPONENT:
        return experiment_of(file.content, where=path, warehouse=warehouse, line_of=file.line_of)
    attributes = file.content.get("attributes")
    inner = attributes.get("experiment") if isinstance(attributes, dict) else None
    if isinstance(inner, str):
        named = _mapping(path.parent / inner)
        return experiment_of(named.content, where=named.path, warehouse=warehouse, line_of=named.line_of)
    if not isinstance(inner, dict):
        raise ExperimentError(f"{path}: attributes.experiment: expected a path, or an experiment itself")
    return experiment_of(
        inner, where=path, warehouse=warehouse, line_of=lambda keys: file.line_of(["attributes", "experiment", *keys])
    )


def _mapping(path: Path) -> YamlFile:
    file = YamlFile(path)
    if not isinstance(file.content, dict):
        raise ExperimentError(f"{path}: expected a mapping at the top level, found {type(file.content).__name__}")
    return file


def experiment_of(
    content: dict[Any, Any],
    *,
    where: Path,
    warehouse: str | None = None,
    line_of: Callable[[Sequence[object]], int | None] = lambda _: None,
) -> Experiment:
    """Check an experiment that has been read, such as one that stands inside another file.

    Args:
        content: of the experiment file: mappings, lists, texts, numbers and booleans.
        where: the file that it stands in; relative places are relative to its folder.
        warehouse: see `load_experiment`.
        line_of: says in which line the deepest of these keys is, where that is known.

    Raises:
        ExperimentError: with every problem, each at its key and, where it is known, its line.
    """
    content = {key: value for key, value in content.items() if not str(key).startswith("x-")}
    found: list[Problem] = []
    content = _with_places(content, where.absolute().parent, (), found)
    if warehouse is not None:
        content["warehouse"] = _place(warehouse, Path.cwd(), ("warehouse",), found)
    experiment = _checked(content, found)
    if experiment is None:
        # Two checks may find the same; the order is that of the file.
        lines = {_at_key(keys, problem): line_of(_keys(keys, problem)) for keys, problem in found}
        ordered = sorted(lines.items(), key=lambda item: item[1] or 0)
        raise ExperimentError(
            f"{where}:\n" + "\n".join(f"  - {'' if line is None else f'line {line}: '}{text}" for text, line in ordered)
        )
    return experiment


def _checked(content: dict[str, Any], found: list[Problem]) -> Experiment | None:
    """Return the experiment, or None where there are problems, which are added.

    How the named things hang together is checked in what is left without those that are wrong in themselves, so that
    nobody mends the one kind of problem and then meets the other.
    """
    left_out: set[str] = set()
    while True:
        try:
            experiment = Experiment.model_validate(content, context={LEFT_OUT: left_out})
        except ValidationError as error:
            details = error.errors(include_url=False)
        else:
            return None if found else experiment
        found += _problems(details)
        wrong = {detail["loc"][:2] for detail in details if detail["loc"]}
        before = content
        for keys in wrong:
            content = _without(content, keys, left_out)
        if content == before:
            return None


def _problems(details: Any) -> Iterator[Problem]:
    for detail in details:
        message = detail["msg"].removeprefix("Value error, ")
        if not detail["loc"]:  # found by the whole file's own check, which names the keys itself
            yield from (((), line) for line in message.splitlines())
        else:
            yield detail["loc"], message + (f" (found {detail['input']!r})" if _is_telling(detail) else "")


def _at_key(keys: Sequence[Any], problem: str) -> str:
    return f"{'.'.join(map(str, keys))}: {problem}" if keys else problem


def _keys(keys: Sequence[Any], problem: str) -> Sequence[Any]:
    named = _KEY.match(problem)
    return keys or (named.group().split(".") if named else ())


def _is_telling(details: Any) -> bool:
    value = details["input"]
    is_short = isinstance(value, str | int | float | bool) and len(str(value)) <= 80
    return is_short and details["type"] not in ("unknown_key", "missing") and not secret_in(str(value))


def _without(content: dict[str, Any], keys: tuple[Any, ...], left_out: set[str]) -> dict[str, Any]:
    """Return the content without what is wrong at these keys: an entry of a section of names, or a whole section."""
    section, *names = keys
    if names and section in _NAMED and isinstance(content.get(section), dict) and names[0] in content[section]:
        entries = {name: entry for name, entry in content[section].items() if name != names[0]}
        if section in _STAND_INS:
            entries["stand_in"] = _STAND_INS[section]
        left_out.add(str(names[0]))
        return content | {section: entries}
    without = {name: value for name, value in content.items() if name != section}
    if section == "tokenizers":
        return without | {section: {"stand_in": _STAND_INS[section]}}
    return without | ({section: _STAND_INS[section]} if section in ("warehouse", "corpus") else {})


def _with_places(value: Any, folder: Path, keys: tuple[Any, ...], found: list[Problem]) -> Any:
    """Return the content with local paths made absolute, relative ones against a folder."""
    if isinstance(value, dict) and keys != ("architectures",):
        return {name: _with_places(inner, folder, (*keys, name), found) for name, inner in value.items()}
    if keys and keys[-1] in ("path", "warehouse") and isinstance(value, str):
        return _place(value, folder, keys, found)
    if keys == ("corpus", "decontamination", "against") and isinstance(value, list):
        return [
            _place(one, folder, (*keys, place), found) if isinstance(one, str) and one != VALIDATION else one
            for place, one in enumerate(value)
        ]
    return value


def _place(text: str, folder: Path, keys: tuple[Any, ...], found: list[Problem]) -> str:
    try:
        return place_of(text, folder, is_warehouse=keys == ("warehouse",))
    except ValueError as error:
        found.append((keys, str(error)))
        return str(folder / "stand_in")
