"""Reading an experiment file: all of its errors at once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from miniplm_assets.core.errors import ExperimentError
from miniplm_assets.experiment.schema import Experiment


def load_experiment(path: Path, *, warehouse: str | None = None) -> Experiment:
    """Read and check an experiment file.

    Args:
        path: the YAML file.
        warehouse: a folder that takes the place of the file's own, relative to the working directory.

    Raises:
        ExperimentError: with every problem of the file, each at its key.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExperimentError(
            f"experiment file {path} does not exist; set MINIPLM_EXPERIMENT to one that does, "
            "for example experiments/demo.yaml"
        ) from None
    except yaml.YAMLError as error:
        raise ExperimentError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise ExperimentError(f"{path}: expected a mapping at the top level, found {type(content).__name__}")
    content = {key: value for key, value in content.items() if not str(key).startswith("x-")}
    if warehouse is not None:
        content["warehouse"] = warehouse if "://" in warehouse else str(Path(warehouse).expanduser().absolute())
    try:
        return Experiment.model_validate(content).resolve(path.absolute().parent)
    except ValidationError as error:
        problems = "\n".join(f"  - {problem}" for problem in _readable(error))
        raise ExperimentError(f"{path}:\n{problems}") from None


def _readable(error: ValidationError) -> Iterator[str]:
    for details in error.errors(include_url=False):
        where = ".".join(str(part) for part in details["loc"])
        message = details["msg"].removeprefix("Value error, ")
        if not where:  # found by the whole file's own check, which names the keys itself
            yield from message.splitlines()
            continue
        shown = f" (found {details['input']!r})" if _is_telling(details) else ""
        yield f"{where}: {message}{shown}"


def _is_telling(details: Any) -> bool:
    is_short = isinstance(details["input"], str | int | float | bool) and len(str(details["input"])) <= 80
    return is_short and details["type"] not in ("unknown_key", "missing")
