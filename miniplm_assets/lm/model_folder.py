"""A model's folder, as `save_pretrained` writes it: its configuration, whether its weights are whole, and loading it.

Whatever stands in it, no code of it runs, no kernel is fetched for it, and nobody is asked anything: its own wishes for
an attention or for remote code are left aside.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from miniplm_assets.core.doors import explained_as
from miniplm_assets.core.errors import ModelError
from miniplm_assets.experiment.scoring import Backend, Scoring
from miniplm_assets.lm.attention import settle_attention
from miniplm_assets.lm.quiet import without_progress_bars

if TYPE_CHECKING:
    import torch

WEIGHTS: Final = "*.safetensors"
CONFIG: Final = "config.json"
# Of a LoRA and its kind: not a model but a change of one, which transformers would fetch.
ADAPTER_CONFIG: Final = "adapter_config.json"
_EXPECTED: Final = (
    "expected a causal language model that this version of transformers knows, as save_pretrained writes it"
)
_LOCALLY: Final = {"local_files_only": True, "trust_remote_code": False}


def read_config(folder: Path, named: str | None = None) -> Any:
    """Return a model's whole configuration, with no wish for an attention or experts of its own.

    Args:
        folder: of the model.
        named: what messages call it, where the folder is only a copy.

    Raises:
        ModelError: if transformers cannot read it.
    """
    from transformers import AutoConfig

    with explained_as(
        ModelError, f"{named or folder}: holds no model configuration that transformers can read", _EXPECTED
    ):
        config = AutoConfig.from_pretrained(folder, **_LOCALLY)
        config._attn_implementation = None
        config._experts_implementation = None
    return config


def check_model(folder: Path, *, named: str, backend: Backend) -> None:
    """Make sure that a folder holds a whole model that can be scored with; reads headers, not weights.

    Args:
        folder: the model's.
        named: what messages call it.
        backend: that will score with it.

    Raises:
        ModelError: if a file of weights is cut or no safetensors, tensors are missing or left over, or the model is an
            adapter or quantised in a way that the backend does not take.
    """
    if (folder / ADAPTER_CONFIG).is_file():
        raise ModelError(
            f"{named}: holds an adapter ({ADAPTER_CONFIG}), which is a change of another model; merge it into that one "
            "(peft's merge_and_unload), save the whole with save_pretrained, and name that folder"
        )
    for path in sorted(folder.glob(WEIGHTS)):
        _check_header(path, named)
    config = read_config(folder, named)
    if getattr(config, "quantization_config", None) is None:
        with explained_as(ModelError, f"{named}: cannot be loaded as a causal language model", _EXPECTED):
            _load(folder, config, device_map="meta", named=named)
    elif backend == "torch":
        raise _quantised(config, named)


def load_model(folder: Path, scoring: Scoring, report: Callable[[str], None]) -> Any:
    """Load a causal language model for scoring, in evaluation mode, on its device.

    Raises:
        ModelError: if the folder holds no such model, its tensors are not those that the model has, or the device is
            not there.
    """
    import torch

    device = choose_device(scoring.device)
    config = read_config(folder)
    if getattr(config, "quantization_config", None) is not None:
        raise _quantised(config, str(folder))
    with explained_as(ModelError, f"{folder}: cannot be loaded as a causal language model", _EXPECTED):
        model = _load(folder, config, dtype=getattr(torch, scoring.dtype), named=str(folder)).to(device).eval()
        settle_attention(model, report)
    return model


def choose_device(name: str) -> "torch.device":
    """Return a torch device by its name; ``auto`` takes the first accelerator, else the CPU.

    Raises:
        ModelError: if this machine has no such device.
    """
    import torch

    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    with explained_as(
        ModelError, f"scoring.device '{name}' cannot be used on this machine", "name one that it has, or auto"
    ):
        device = torch.device(name)
        torch.empty(1, device=device)
    return device


def _load(folder: Path, config: Any, *, named: str, **more: Any) -> Any:
    from transformers import AutoModelForCausalLM

    with without_progress_bars():
        model, loading = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told of below, in words
            **_LOCALLY,
            **more,
        )
    _require_all_tensors(loading, named)
    return model


def _check_header(path: Path, named: str) -> None:
    from safetensors import safe_open

    with (
        explained_as(
            ModelError,
            f"{named}: {path.name} ({path.stat().st_size:,} bytes) is damaged or cut, or no safetensors",
            "fetch or copy it again",
        ),
        safe_open(path, framework="numpy"),
    ):
        pass


def _require_all_tensors(loading: Mapping[str, Any], named: str) -> None:
    found = {
        "are not in the files and would be random": loading["missing_keys"],
        "are in the files and the model has no place for them": loading["unexpected_keys"],
        "have another shape than config.json says": [name for name, *_ in loading["mismatched_keys"]],
        "cannot be read": loading["error_msgs"],
    }
    problems = [f"{_some(names)} {what}" for what, names in found.items() if names]
    if problems:
        raise ModelError(
            f"{named}: the weights are not those of the model that {CONFIG} describes: {'; '.join(problems)}. Fetch "
            "both anew from one place; if it is right as it is, load it with transformers and save it with "
            "save_pretrained, which writes what it uses"
        )


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return f"{len(ordered)} tensors ({', '.join(ordered[:3])}{', ...' if len(ordered) > 3 else ''})"


def _quantised(config: Any, named: str) -> ModelError:
    stated = config.quantization_config
    method = stated.get("quant_method") if isinstance(stated, dict) else getattr(stated, "quant_method", None)
    return ModelError(
        f"{named}: is quantised ({CONFIG} has a quantization_config, quant_method {method}), which scoring.backend "
        "torch does not support; name the model that it was made from, or set scoring.backend to vllm"
    )
