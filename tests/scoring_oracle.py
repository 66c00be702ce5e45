"""Log-probabilities in the plainest way: float64, whole logits, one position at a time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

END_OF_DOCUMENT = 2


def tiny_model(kind: str, folder: Path, **changes: Any) -> Any:
    """Save a tiny random model of a family under `folder` and return it.

    Weights are drawn ten times as wide as for training, so that the logits are far from flat.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shapes = {
        # An odd vocabulary, so that tiles do not divide it.
        "qwen2": {"vocab_size": 1_003, "tie_word_embeddings": True},
        "llama": {"vocab_size": 512, "tie_word_embeddings": False},
        "gemma2": {"vocab_size": 300, "head_dim": 32, "final_logit_softcapping": 3.0, "sliding_window": 16},
        "cohere": {"vocab_size": 300, "logit_scale": 0.25},
        "gpt2": {"vocab_size": 400},
    }
    common = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,  # heads of 32: the smallest that vLLM's CPU kernel takes
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,
        "bos_token_id": 1,
        "eos_token_id": END_OF_DOCUMENT,
        "pad_token_id": 0,
    }
    if kind == "mamba":
        common = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "vocab_size": 211}
        common |= {"bos_token_id": 1, "eos_token_id": END_OF_DOCUMENT, "pad_token_id": 0}
    torch.manual_seed(7)
    config = AutoConfig.for_model(kind, **{**common, **shapes.get(kind, {}), **changes})
    model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(folder)
    return model


def brute_force(
    model: Any, sequences: Sequence[NDArray[np.int32]], *, score_after_end_of_document: bool
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Return logprob_nats and num_scored_tokens of every sequence.

    By each model's own attention, not by that which transformers takes for it: that is among what is tested.
    """
    import copy

    import torch

    model = copy.deepcopy(model).double()
    model.set_attn_implementation("eager")
    sums, counts = [], []
    for token_ids in sequences:
        with torch.no_grad():
            logits = model(torch.tensor(token_ids, dtype=torch.long)[None, :-1], use_cache=False).logits[0]
        logprobs = torch.log_softmax(logits.double(), dim=-1)
        total, count = 0.0, 0
        for i in range(1, len(token_ids)):
            if token_ids[i - 1] == END_OF_DOCUMENT and not score_after_end_of_document:
                continue
            total += float(logprobs[i - 1, token_ids[i]])
            count += 1
        sums.append(total)
        counts.append(count)
    return np.array(sums), np.array(counts, dtype=np.int32)


def gemma2_logits(model: Any, token_ids: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the logits of a Gemma 2 of shape (num_tokens, vocabulary), in NumPy and float64, from its weights alone.

    After the paper (arXiv 2408.00118) and its published code: every second layer looks back over a window, both the
    attention's logits and the last ones are capped by cap * tanh(logit / cap).
    """
    config = model.config
    weights = {name: tensor.detach().double().numpy() for name, tensor in model.state_dict().items()}
    num_tokens, head_size = len(token_ids), config.head_dim

    def norm(name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
        scale = np.sqrt(np.mean(values**2, axis=-1, keepdims=True) + config.rms_norm_eps)
        return values / scale * (1 + weights[f"model.{name}.weight"])

    def cap(logits: NDArray[np.float64], at: float) -> NDArray[np.float64]:
        return at * np.tanh(logits / at)

    angles = np.outer(np.arange(num_tokens), 10_000.0 ** (-np.arange(0, head_size, 2) / head_size))
    cos, sin = (np.tile(one(angles), 2) for one in (np.cos, np.sin))

    def turned(heads: NDArray[np.float64]) -> NDArray[np.float64]:
        first, second = np.split(heads, 2, axis=-1)
        return heads * cos + np.concatenate([-second, first], axis=-1) * sin

    places = np.arange(num_tokens)
    back = places[:, None] - places[None, :]
    hidden = weights["model.embed_tokens.weight"][token_ids] * np.sqrt(config.hidden_size)
    for layer in range(config.num_hidden_layers):
        here = f"layers.{layer}"

        def heads(which: str, values: NDArray[np.float64], here: str = here) -> NDArray[np.float64]:
            projected = values @ weights[f"model.{here}.self_attn.{which}_proj.weight"].T
            return projected.reshape(num_tokens, -1, head_size).swapaxes(0, 1)

        normed = norm(f"{here}.input_layernorm", hidden)
        queries, keys, values = turned(heads("q", normed)), turned(heads("k", normed)), heads("v", normed)
        logits = cap(queries @ keys.swapaxes(1, 2) * config.query_pre_attn_scalar**-0.5, config.attn_logit_softcapping)
        sees = (back >= 0) & ((back < config.sliding_window) | (config.layer_types[layer] == "full_attention"))
        shares = np.exp(np.where(sees, logits, -np.inf) - logits.max(axis=-1, keepdims=True))
        mixed = (shares / shares.sum(axis=-1, keepdims=True)) @ values
        output = mixed.swapaxes(0, 1).reshape(num_tokens, -1) @ weights[f"model.{here}.self_attn.o_proj.weight"].T
        hidden = hidden + norm(f"{here}.post_attention_layernorm", output)
        normed = norm(f"{here}.pre_feedforward_layernorm", hidden)
        gate, up = (normed @ weights[f"model.{here}.mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        gelu = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
        output = (gelu * up) @ weights[f"model.{here}.mlp.down_proj.weight"].T
        hidden = hidden + norm(f"{here}.post_feedforward_layernorm", output)
    logits = norm("norm", hidden) @ weights["model.embed_tokens.weight"].T
    return cap(logits, config.final_logit_softcapping)


def scrambled_sequences(vocab_size: int, *, longest: int, num: int, seed: int = 3) -> list[NDArray[np.int32]]:
    """Return random sequences of 2 to `longest` tokens, both among them, with ends of documents inside."""
    rng = np.random.default_rng(seed)
    lengths = rng.permutation([2, longest, *rng.integers(2, longest + 1, size=num - 2)])
    sequences = [rng.integers(0, vocab_size, size=length, dtype=np.int32) for length in lengths]
    for token_ids in sequences:
        token_ids[rng.random(len(token_ids)) < 0.15] = END_OF_DOCUMENT
    return sequences
