"""Folders that hold no whole model: each refused when it is copied, with the file, what is wrong and what to do."""

import json
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from miniplm_assets.core.errors import ModelError
from miniplm_assets.experiment import FolderModel, Scoring
from miniplm_assets.lm.model_folder import check_model, load_model
from miniplm_assets.lm.model_sources import fetch_model, name_model
from tests.scoring_oracle import tiny_model

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + 64 * "0" + "\nsize 123456\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    tiny_model("llama", folder)
    return folder


@pytest.fixture
def model(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "model")


def copied(folder, tmp_path, *, backend="torch"):
    copy = tmp_path / "copy"
    copy.mkdir()
    source = FolderModel(source="folder", path=str(folder))
    fetch_model(source, copy)
    check_model(copy, named=name_model(source), backend=backend)
    return copy


def refused(folder, tmp_path, message, **how):
    with pytest.raises(ModelError, match=message) as found:
        copied(folder, tmp_path, **how)
    assert str(folder) in str(found.value)  # not that of the copy


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_whole_model_is_taken(model, tmp_path):
    copied(model, tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_pointer_of_git_lfs_is_named_with_the_command(model, tmp_path, name):
    (model / name).write_text(POINTER)
    refused(model, tmp_path, rf"{name} is a pointer of git-lfs .*`git lfs pull`")


@pytest.mark.parametrize(
    "damaged",
    [
        lambda whole: whole[:-1],
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:5],
        lambda whole: b"",
        lambda whole: whole + b"more",
        lambda whole: struct.pack("<Q", 2**62) + whole[8:],
        lambda whole: struct.pack("<Q", 2) + b"[]",
        lambda whole: b"<html>404</html>",
    ],
    ids=["a byte less", "half", "five bytes", "none", "longer", "a header of exabytes", "no object", "a web page"],
)
def test_weights_that_are_cut_or_something_else_are_named(model, tmp_path, damaged):
    path = model / "model.safetensors"
    path.write_bytes(damaged(path.read_bytes()))
    refused(model, tmp_path, r"model\.safetensors \([\d,]+ bytes\) is damaged or cut, or no safetensors")


def test_one_layer_fewer_than_there_are_weights_is_refused(model, tmp_path):
    change_config(model, num_hidden_layers=1)
    refused(
        model, tmp_path, r"9 tensors \(model.layers.1.input_layernorm.weight, .*\) are in the files and the model has"
    )
    with pytest.raises(ModelError, match="the model has no place for them"):
        load_model(model, Scoring(device="cpu"), lambda _: None)


def test_one_layer_more_is_refused(model, tmp_path):
    change_config(model, num_hidden_layers=3)
    refused(model, tmp_path, r"9 tensors \(model.layers.2.input_layernorm.weight, .*\) are not in the files")


def test_a_tensor_of_another_shape_is_refused(model, tmp_path):
    change_weights(model, lambda weights: weights.update({"model.norm.weight": torch.ones(63)}))
    refused(model, tmp_path, r"1 tensors \(model.norm.weight\) have another shape than config.json says")


def test_a_quantised_model_is_left_to_vllm(model, tmp_path):
    change_config(model, quantization_config={"quant_method": "gptq", "bits": 4})
    refused(model, tmp_path, r"is quantised .*quant_method gptq.* torch does not support; .*backend to vllm")
    with pytest.raises(ModelError, match="is quantised"):
        load_model(model, Scoring(device="cpu"), lambda _: None)
    shutil.rmtree(tmp_path / "copy")
    copied(model, tmp_path, backend="vllm")


def test_an_adapter_is_no_model(model, tmp_path):
    (model / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "a/b"}))
    refused(model, tmp_path, "holds an adapter")


@pytest.mark.parametrize(
    "config",
    ["{", "[]", "7", "", '{"model_type": "qwen9000"}', '{"model_type": 3}', '{"model_type": "t5"}', "[" * 100_000]
    + [json.dumps({"model_type": "llama", key: value}) for key, value in (("hidden_size", "many"), ("torch_dtype", 5))],
    ids=lambda config: config[:40],
)
def test_a_configuration_that_is_none_is_named(model, tmp_path, config):
    (model / "config.json").write_text(config)
    refused(
        model, tmp_path, "holds no model configuration|cannot be loaded as a causal language model|not those of the"
    )


CODE = "import pathlib; pathlib.Path(__file__).with_name('has_run').touch()\n"


@pytest.mark.parametrize("model_type", ["llama", "evil"])
def test_no_code_of_a_model_runs_and_nobody_is_asked(model, monkeypatch, model_type):
    (model / "evil.py").write_text(CODE + "from transformers import LlamaConfig as Config, LlamaForCausalLM as Model\n")
    auto_map = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    change_config(model, model_type=model_type, auto_map=auto_map)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a prompt"))
    if model_type == "evil":
        with pytest.raises(ModelError, match="holds no model configuration"):
            check_model(model, named="evil", backend="torch")
    else:
        check_model(model, named="evil", backend="torch")
        load_model(model, Scoring(device="cpu"), lambda _: None)
    assert not list(model.rglob("has_run"))


def test_a_wish_for_a_kernel_of_the_hub_is_left_aside(model, monkeypatch):
    def fetch(*_args, **_keywords):
        pytest.fail("a kernel was asked for")

    monkeypatch.setattr("transformers.integrations.hub_kernels.get_kernel", fetch)
    monkeypatch.setattr("transformers.modeling_utils.lazy_import_flash_attention", fetch)
    change_config(model, _attn_implementation="kernels-community/flash-attn2", use_kernels=True)
    check_model(model, named="kernel", backend="torch")
    loaded = load_model(model, Scoring(device="cpu"), lambda _: None)
    assert loaded.config._attn_implementation == "sdpa"
    assert not loaded.use_kernels
