"""How many parameters the files of a model hold, by their headers alone."""

import json
import math
from pathlib import Path
from typing import Final

from safetensors import SafetensorError, safe_open

from miniplm_assets.core.errors import ModelError

INDEX: Final = "model.safetensors.index.json"


def count_stored_parameters(folder: Path) -> int | None:
    """Return the number of values in a model's safetensors; None where there are none.

    Raises:
        ModelError: if a file is not what its name says.
    """
    index = folder / INDEX
    try:
        if index.is_file():  # beside its parts a folder may hold the same weights in another layout
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            paths = [folder / name for name in sorted(names)]
        else:
            paths = sorted(folder.glob("*.safetensors"))
        return sum(map(_count, paths)) if paths else None
    except (OSError, ValueError, KeyError, AttributeError, SafetensorError) as error:
        raise ModelError(
            f"model folder {folder}: its weights cannot be read ({error}); fetch it again, or save it with "
            "save_pretrained"
        ) from error


def _count(path: Path) -> int:
    with safe_open(path, framework="numpy") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 (no mapping)
