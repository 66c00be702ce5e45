"""Models that others trained: copied from a hub at a commit, or from a folder."""

import shutil
from pathlib import Path

from miniplm_assets.core.errors import ModelError
from miniplm_assets.experiment import FolderModel, HubModel

# Weights in safetensors and what describes them; never pickled weights.
MODEL_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model", "*.jinja")


def fetch_model(source: HubModel | FolderModel, folder: Path) -> None:
    """Copy a model's files into a folder.

    Args:
        source: a hub id with its commit, or a folder.
        folder: where the files go; exists and is empty.

    Raises:
        ModelError: if the model is not there, or has no config.json or no weights in safetensors.
    """
    if isinstance(source, HubModel):
        _download(source, folder)
        origin = f"{source.id} at {source.revision}"
    else:
        origin = source.path
        _copy(Path(source.path), folder)
    if not (folder / "config.json").is_file():
        raise ModelError(f"model {origin}: no config.json; expected a folder as save_pretrained writes it")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"model {origin}: no *.safetensors; load it once with transformers and save it with save_pretrained"
        )


def _download(source: HubModel, folder: Path) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        snapshot_download(source.id, revision=source.revision, local_dir=folder, allow_patterns=list(MODEL_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"model {source.id} at {source.revision} cannot be downloaded ({type(error).__name__}: {error}). Check the "
            "id, the commit and the network; without one, give a local copy: source: folder, path: ..."
        ) from error
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the hub's own notes on the download


def _copy(source: Path, folder: Path) -> None:
    if not source.is_dir():
        raise ModelError(f"model folder {source} does not exist; correct the path in the experiment file")
    for pattern in MODEL_FILES:
        for path in sorted(source.glob(pattern)):
            if not (folder / path.name).exists():
                shutil.copyfile(path, folder / path.name)
