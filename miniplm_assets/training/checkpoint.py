"""Checkpoints: complete or invisible, in safetensors and JSON, and nothing but the run that wrote them.

    <work>/checkpoint-<step>/model.safetensors       weights
                             optimizer.safetensors   moments of the optimiser
                             random.safetensors      states of torch's random generators
                             state.json              schedule, groups of the optimiser, training log
                             checkpoint.json         written last: the run's identity, checksum of each file
    <work>/weights-<step>/   model.safetensors, checkpoint.json: a state that stays, for what is measured of it

A checkpoint is written beside its place and renamed; older ones go once the new one is there. Resuming
copies every value into place, so that a resumed run computes what an uninterrupted one would.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miniplm_assets.core.errors import TrainingError
from miniplm_assets.core.recipe import canonical_json
from miniplm_assets.storage.files import flush_to_disk, read_note, sha256_of, write_json, write_note
from miniplm_assets.training.sharding import spread_optimizer_state

if TYPE_CHECKING:
    import torch

CONTENTS = "checkpoint.json"
WEIGHTS = "model.safetensors"
_FOLDER = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is there."""

    folder: Path
    step: int

    def load_state(self) -> dict[str, Any]:
        """Return what was given as `state`."""
        return json.loads((self.folder / "state.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def save_checkpoint(
    work: Path,
    *,
    step: int,
    identity: Mapping[str, Any],
    state: Mapping[str, Any],
    model: "torch.nn.Module",
    optimizer_state: Mapping[str, Any],
) -> Checkpoint:
    """Write a checkpoint and remove the ones before it.

    Args:
        work: the folder of the run; survives a crash.
        step: steps done.
        identity: what the run's result depends on; another run is refused these files.
        state: JSON values to come back as they are.
        model: its weights are saved; tied ones once.
        optimizer_state: groups and per-parameter tensors, as an optimiser's `state_dict` gives them.
    """
    from safetensors.torch import save_file, save_model

    groups, moments = _split_optimizer_state(optimizer_state)

    def write(folder: Path) -> None:
        save_model(model, str(folder / WEIGHTS))
        save_file(moments, folder / "optimizer.safetensors")
        save_file(_random_states(), folder / "random.safetensors")
        write_json(folder / "state.json", {**state, "optimizer_groups": groups})

    place = _write_whole(work / f"checkpoint-{step}", write, {"step": step, "identity": dict(identity)})
    remove_checkpoints(work, keep=place)
    return Checkpoint(place, step)


def save_weights(work: Path, *, step: int, model: "torch.nn.Module") -> None:
    """Keep the weights after a step, beside the checkpoints; a run that goes on from before it writes them again."""
    from safetensors.torch import save_model

    _write_whole(_weights_folder(work, step), lambda folder: save_model(model, str(folder / WEIGHTS)), {"step": step})


def find_weights(work: Path, *, step: int) -> Path:
    """Return the file of the weights that were kept after a step.

    Raises:
        TrainingError: if they are not there, or damaged.
    """
    folder = _weights_folder(work, step)
    if _read_contents(folder) is None:
        raise TrainingError(
            f"{folder}: the weights after step {step:,} are gone or damaged. Delete {work} to train anew"
        )
    return folder / WEIGHTS


def _weights_folder(work: Path, step: int) -> Path:
    return work / f"weights-{step}"


def _write_whole(place: Path, write: Callable[[Path], None], contents: Mapping[str, Any]) -> Path:
    """Write files into a folder that is complete or invisible, in place of what may be there."""
    beside = place.with_name(f".{place.name}.{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    write(beside)
    files = sorted(beside.iterdir())
    for path in files:
        flush_to_disk(path)
    write_note(beside / CONTENTS, {**contents, "sha256": {path.name: sha256_of(path) for path in files}})
    shutil.rmtree(place, ignore_errors=True)
    beside.rename(place)
    flush_to_disk(place.parent)
    return place


def find_checkpoint(
    work: Path, *, identity: Mapping[str, Any], name: str, report: Callable[[str], None]
) -> Checkpoint | None:
    """Return the latest complete and undamaged checkpoint, or None; a damaged one is reported.

    Raises:
        TrainingError: if it is that of another run: other data, or other settings.
    """
    steps = {int(match[1]): path for path in work.glob("*") if (match := _FOLDER.fullmatch(path.name))}
    for step, folder in sorted(steps.items(), reverse=True):
        contents = _read_contents(folder)
        if contents is None:
            report(f"{folder} is damaged, and is not gone on from")
            continue
        wanted = json.loads(canonical_json(dict(identity)))
        differing = [
            f"{key} is {_shown(wanted, key)}, the checkpoint was written with {_shown(contents['identity'], key)}"
            for key in sorted(wanted.keys() | contents["identity"].keys())
            if wanted.get(key) != contents["identity"].get(key)
        ]
        if differing:
            raise TrainingError(
                f"{name}: {folder} cannot be resumed from: {'; '.join(differing)}. Delete the folder {work} to train "
                "from the start."
            )
        return Checkpoint(folder, step)
    return None


def _shown(identity: Mapping[str, Any], key: str) -> str:
    """Return a setting as messages show it; those at their default are not in an identity."""
    return repr(identity[key]) if key in identity else "at its default"


def remove_checkpoints(work: Path, *, keep: Path | None = None) -> None:
    """Remove every checkpoint but one, and what killed runs left half written."""
    for path in [*work.glob("checkpoint-*"), *work.glob(".checkpoint-*")]:
        if path != keep:
            shutil.rmtree(path, ignore_errors=True)


def restore_model(checkpoint: Checkpoint, model: "torch.nn.Module") -> None:
    """Copy the weights into a model."""
    from safetensors.torch import load_model

    load_model(model, checkpoint.folder / WEIGHTS)


def restore_optimizer(checkpoint: Checkpoint, optimizer: "torch.optim.Optimizer") -> None:
    """Copy groups and moments into an optimiser."""
    from safetensors.torch import load_file

    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(checkpoint.folder / "optimizer.safetensors").items():
        parameter, _, name = key.partition(".")
        # A copy of its own: what safetensors maps from the file is aligned to nothing, and vector instructions may
        # round differently where memory begins elsewhere.
        state.setdefault(int(parameter), {})[name] = tensor.clone()
    state = spread_optimizer_state(optimizer, state)
    optimizer.load_state_dict({"state": state, "param_groups": checkpoint.load_state()["optimizer_groups"]})


def restore_random_states(checkpoint: Checkpoint) -> None:
    """Put torch's random generators back where they were."""
    import torch
    from safetensors.torch import load_file

    states = load_file(checkpoint.folder / "random.safetensors")
    torch.random.set_rng_state(states["cpu"])
    if torch.cuda.is_available() and "cuda" in states:
        torch.cuda.random.set_rng_state(states["cuda"])


def _random_states() -> dict[str, "torch.Tensor"]:
    import torch

    states = {"cpu": torch.random.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.random.get_rng_state()
    return states


def _split_optimizer_state(
    state: Mapping[str, Any],
) -> tuple[list[dict[str, Any]], dict[str, "torch.Tensor"]]:
    """Split an optimiser's state into its groups (JSON values) and its tensors, by parameter number and name."""
    moments = {
        f"{parameter}.{name}": tensor.contiguous()
        for parameter, values in state["state"].items()
        for name, tensor in values.items()
    }
    return state["param_groups"], moments


def _read_contents(folder: Path) -> dict[str, Any] | None:
    """Return what a checkpoint says of itself, or None where it is not complete or not undamaged."""
    contents: dict[str, Any] | None = read_note(folder / CONTENTS)
    if contents is None:
        return None
    try:
        is_whole = all(sha256_of(folder / name) == sha256 for name, sha256 in contents["sha256"].items())
    except OSError:
        return None
    return contents if is_whole else None
