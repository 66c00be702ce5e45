"""The attention that computes what a model's configuration says, in scoring and in training."""

import numpy as np
import pytest
import torch

from miniplm_assets.experiment import Scoring
from miniplm_assets.lm.attention import settle_attention
from miniplm_assets.lm.model_folder import load_model
from miniplm_assets.lm.scorer import open_scorer
from tests.scoring_oracle import END_OF_DOCUMENT, gemma2_logits, scrambled_sequences, tiny_model

NATS_PER_TOKEN = 1e-4


def settled(folder, *, dtype="float32"):
    lines = []
    model = load_model(folder, Scoring(device="cpu", dtype=dtype), lines.append)
    return model.config._attn_implementation, lines


@pytest.mark.parametrize("cap", [5.0, 50.0])
def test_a_cap_on_the_attention_is_computed(cap, tmp_path):
    model = tiny_model("gemma2", tmp_path, attn_logit_softcapping=cap, initializer_range=0.5)
    sequences = scrambled_sequences(300, longest=60, num=4)
    expected = []
    for token_ids in sequences:
        logits = gemma2_logits(model, token_ids[:-1])
        logprobs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        expected.append(logprobs[range(len(token_ids) - 1), token_ids[1:]])
    with open_scorer(
        tmp_path,
        scoring=Scoring(device="cpu", score_after_end_of_document=True),
        end_of_document_id=END_OF_DOCUMENT,
        max_sequence_tokens=60,
        report=lambda _: None,
    ) as scorer:
        found = scorer.score(sequences, np.arange(4)).token_logprobs_nats()
    assert np.abs(found - np.concatenate(expected)).max() <= NATS_PER_TOKEN


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_seen_however_small_the_weights_are(dtype, tmp_path):
    # As they are drawn for training, where the cap moves no logit by more than rounding does.
    tiny_model("gemma2", tmp_path, initializer_range=0.02)
    how, [line] = settled(tmp_path, dtype=dtype)
    assert how == "eager"
    assert line.startswith("Gemma2ForCausalLM asks more of its attention")


@pytest.mark.parametrize("kind", ["qwen2", "llama", "gpt2", "cohere", "mamba", "falcon"])
def test_what_the_fused_one_computes_right_is_left_to_it(kind, tmp_path):
    model = tiny_model(kind, tmp_path, **({"attention_dropout": 0.5} if kind == "llama" else {}))
    assert settled(tmp_path) == (model.config._attn_implementation, [])


def test_a_cap_that_is_switched_off_needs_no_other_way(tmp_path):
    tiny_model("gemma2", tmp_path, attn_logit_softcapping=None)
    assert settled(tmp_path) == ("sdpa", [])


def test_looking_leaves_a_model_in_training_as_it_was(tmp_path):
    model = tiny_model("gemma2", tmp_path).train()
    model.model.layers[1].eval()
    modes = {name: module.training for name, module in model.named_modules()}
    state = torch.random.get_rng_state()
    settle_attention(model, lambda _: None)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())
