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
    """Return logprob_nats and num_scored_tokens of every sequence."""
    import copy

    import torch

    model = copy.deepcopy(model).double()
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


def scrambled_sequences(vocab_size: int, *, longest: int, num: int, seed: int = 3) -> list[NDArray[np.int32]]:
    """Return random sequences of 2 to `longest` tokens, both among them, with ends of documents inside."""
    rng = np.random.default_rng(seed)
    lengths = rng.permutation([2, longest, *rng.integers(2, longest + 1, size=num - 2)])
    sequences = [rng.integers(0, vocab_size, size=length, dtype=np.int32) for length in lengths]
    for token_ids in sequences:
        token_ids[rng.random(len(token_ids)) < 0.15] = END_OF_DOCUMENT
    return sequences
