"""Models that others trained: copied from a hub at a commit, or from a folder."""

import shutil
from pathlib import Path

from miniplm_assets.core.errors import ModelError
from miniplm_assets.experiment import FolderModel, HubModel
from miniplm_assets.storage.hub import download
from miniplm_assets.storage.lfs import refuse_pointers
from miniplm_assets.storage.manifest import MANIFEST

# Weights in safetensors and what describes them; never pickled weights.
MODEL_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model", "*.jinja")


def name_model(source: HubModel | FolderModel) -> str:
    """Return what messages call a model that others trained."""
    return f"model {source.id} at {source.revision}" if isinstance(source, HubModel) else f"model {source.path}"


def fetch_model(source: HubModel | FolderModel, folder: Path) -> None:
    """Copy a model's files into a folder.

    Args:
        source: a hub id with its commit, or a folder.
        folder: where the files go; exists and is empty.

    Raises:
        ModelError: if the model is not there, has no config.json or no weights in safetensors, or a file is a pointer.
        UnreachableModelError: if the hub cannot be reached.
    """
    if isinstance(source, HubModel):
        download("model", repository=source.id, revision=source.revision, patterns=MODEL_FILES, folder=folder)
        (folder / MANIFEST).unlink(missing_ok=True)
    else:
        _copy(Path(source.path), folder)
    named = name_model(source)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{named}: no config.json; expected a folder as save_pretrained writes it")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"{named}: no *.safetensors; load it once with transformers and save it with save_pretrained")
    refuse_pointers(model_files(folder), named)


def model_files(folder: Path) -> list[Path]:
    """Return the files of a folder that make the model, by name.

    A result of a warehouse is a model folder too; its manifest describes that result, not the model.
    """
    found = {path for pattern in MODEL_FILES for path in folder.glob(pattern) if path.is_file()}
    return sorted(path for path in found if path.name != MANIFEST)


def _copy(source: Path, folder: Path) -> None:
    if not source.is_dir():
        raise ModelError(f"model folder {source} does not exist; correct the path in the experiment file")
    for path in model_files(source):
        shutil.copyfile(path, folder / path.name)
