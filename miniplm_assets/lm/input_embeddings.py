"""The input embeddings of a model, read from its safetensors alone: no layer of it is built, and nothing runs."""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from miniplm_assets.core.doors import explained_as
from miniplm_assets.core.errors import ModelError
from miniplm_assets.lm.model_folder import WEIGHTS, read_config
from miniplm_assets.lm.stored_parameters import INDEX

_EXPECTED: Final = "expected a whole model as save_pretrained writes it; fetch or train it again"


def input_embeddings(folder: Path, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the input embeddings of some tokens, of shape (num_tokens, size).

    Args:
        folder: of a causal language model of any family.
        token_ids: in any order.

    Raises:
        ModelError: if the folder holds no such weights, or has no such token.
    """
    import torch
    from safetensors import safe_open

    name = _name_of_weights(folder)
    with explained_as(ModelError, f"{folder}: its input embeddings cannot be read", _EXPECTED):
        places = _stored_names(folder)
        # A model may be saved without the name that its body has in the whole, or with it alone.
        found = [one for one in places if one == name or one.endswith(f".{name}") or name.endswith(f".{one}")]
        if len(found) != 1:
            raise ModelError(f"{folder}: expected one tensor {name}, found {found or 'none'}; {_EXPECTED}")
        with safe_open(places[found[0]], framework="pt") as file:
            weights = file.get_tensor(found[0])
            if token_ids.size and int(token_ids.max()) >= len(weights):
                raise ModelError(
                    f"{folder}: token {token_ids.max()} is asked for, but its vocabulary ends at {len(weights) - 1}; "
                    "take the tokenizer of the model"
                )
            rows: NDArray[np.float32] = weights[torch.from_numpy(token_ids)].float().numpy()
    return rows


def _name_of_weights(folder: Path) -> str:
    """Return what the model calls the weights of its input embeddings, from its configuration alone."""
    import torch
    from transformers import AutoModelForCausalLM

    config = read_config(folder)
    with torch.device("meta"), explained_as(ModelError, f"{folder}: transformers cannot build it", _EXPECTED):
        model: Any = AutoModelForCausalLM.from_config(config)
        embeddings = model.get_input_embeddings()
        return next(f"{name}.weight" for name, module in model.named_modules() if module is embeddings)


def _stored_names(folder: Path) -> dict[str, Path]:
    from safetensors import safe_open

    index = folder / INDEX
    if index.is_file():
        placed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {name: folder / file for name, file in placed.items()}
    names: dict[str, Path] = {}
    for path in sorted(folder.glob(WEIGHTS)):
        with safe_open(path, framework="numpy") as file:
            names |= dict.fromkeys(file.keys(), path)
    return names
