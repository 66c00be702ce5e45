"""Models and tokenizers from elsewhere: which files come along, and what is said where none do."""

import json
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from miniplm_assets.core.errors import ModelError, TransientError
from miniplm_assets.experiment import FolderModel, HubModel
from miniplm_assets.lm.model_sources import fetch_model

HUB = HubModel(source="hub", id="some/model", revision="0123456789" * 4)


class ServerError(Exception):
    """As a client of HTTP raises it."""

    def __init__(self, status):
        super().__init__(f"status {status}")
        self.response = SimpleNamespace(status_code=status)


def fill(folder, *names):
    folder.mkdir()
    for name in names:
        (folder / name).write_text(json.dumps({"file": name}))
    return folder


def test_a_folder_is_copied_without_pickles_and_without_the_manifest_of_a_warehouse(tmp_path):
    model = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]
    origin = fill(tmp_path / "origin", *model, "manifest.json", "pytorch_model.bin", "training.log")
    copy = fill(tmp_path / "copy")
    fetch_model(FolderModel(source="folder", path=str(origin)), copy)
    assert sorted(path.name for path in copy.iterdir()) == model


@pytest.mark.parametrize(
    ("names", "message"),
    [(["model.safetensors"], "no config.json"), (["config.json", "pytorch_model.bin"], r"no \*\.safetensors")],
)
def test_what_is_no_model_is_refused(tmp_path, names, message):
    origin = fill(tmp_path / "origin", *names)
    with pytest.raises(ModelError, match=message):
        fetch_model(FolderModel(source="folder", path=str(origin)), fill(tmp_path / "copy"))


@pytest.mark.parametrize(
    ("error", "may_pass"),
    [
        (LocalEntryNotFoundError("no connection"), True),
        (ConnectionResetError("peer"), True),
        (ServerError(503), True),
        (ServerError(429), True),
        (ServerError(404), False),
        (ServerError(401), False),
        (ValueError("not an id"), False),
    ],
    ids=repr,
)
def test_only_what_may_pass_is_worth_another_try(tmp_path, monkeypatch, error, may_pass):
    def fail(*_args, **_keywords):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ModelError, match=r"model some/model at revision 0123.* source: folder") as failure:
        fetch_model(HUB, tmp_path)
    assert isinstance(failure.value, TransientError) == may_pass


def test_a_full_disk_is_not_blamed_on_the_hub(tmp_path, monkeypatch):
    def fail(*_args, **_keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(OSError, match="No space left"):
        fetch_model(HUB, tmp_path)
