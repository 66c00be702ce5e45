"""Models from scratch: sizes against numbers worked out by hand, and every way to get an architecture wrong."""

import pytest

from miniplm_assets.core.errors import ModelError
from miniplm_assets.lm.architectures import ParameterCount, build_config, build_model, count_parameters

TINY = {
    "model_type": "qwen2",
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
# 4 projections of 8 x 8 with 3 biases, 3 of 8 x 12, two norms of 8; twice; one norm at the end.
TINY_BODY = 2 * (4 * 64 + 3 * 8 + 3 * 96 + 2 * 8) + 8


def build(architecture: dict, *, seed: int = 0, vocab_size: int = 11, max_sequence_tokens: int = 17):
    return build_model(
        architecture, vocab_size=vocab_size, end_of_document_id=3, max_sequence_tokens=max_sequence_tokens, seed=seed
    )


def test_parameters_are_those_counted_by_hand() -> None:
    tied = count_parameters({**TINY, "tie_word_embeddings": True}, vocab_size=11)
    apart = count_parameters({**TINY, "tie_word_embeddings": False}, vocab_size=11)
    assert tied == ParameterCount(total=TINY_BODY + 11 * 8, non_embedding=TINY_BODY)
    assert apart == ParameterCount(total=TINY_BODY + 2 * 11 * 8, non_embedding=TINY_BODY)


@pytest.mark.parametrize(
    "architecture",
    [
        TINY,
        {**TINY, "model_type": "llama"},
        {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2},
        {"model_type": "mamba", "hidden_size": 8, "num_hidden_layers": 1},
        {
            "model_type": "gpt_neox",
            "hidden_size": 8,
            "intermediate_size": 12,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
        },
    ],
    ids=lambda architecture: architecture["model_type"],
)
def test_any_family_is_built_from_the_data_it_will_see(architecture: dict) -> None:
    import torch

    model = build(architecture, max_sequence_tokens=3000)
    assert model.config.vocab_size == 11
    assert model.config.eos_token_id == model.config.bos_token_id == 3
    assert model.dtype == torch.float32
    assert getattr(model.config, "max_position_embeddings", 3001) == 3001


def test_the_same_seed_gives_the_same_weights_and_leaves_the_callers_random_state_alone() -> None:
    import torch

    state = torch.random.get_rng_state()
    first, again, other = (build(TINY, seed=seed).get_input_embeddings().weight for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_vocabulary_may_be_padded_but_not_cut() -> None:
    assert build({**TINY, "vocab_size": 16}).config.vocab_size == 16
    with pytest.raises(ModelError, match=r"vocab_size 10 is below the tokenizer's 11"):
        build({**TINY, "vocab_size": 10})


def test_wrong_architectures_are_named() -> None:
    with pytest.raises(ModelError, match=r"model_type 'qwen_2' is not .*did you mean 'qwen2'"):
        build({**TINY, "model_type": "qwen_2"})
    with pytest.raises(ModelError, match=r"qwen2 has no key 'hiden_size'; did you mean 'hidden_size'"):
        build({**TINY, "hiden_size": 8})
    with pytest.raises(ModelError, match=r"num_hidden_layers"):
        build({**TINY, "num_hidden_layers": "two"})
    with pytest.raises(ModelError, match=r"num_attention_heads: 3"):
        build({"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "num_attention_heads": 3})


@pytest.mark.parametrize("key", ["max_position_embeddings", "n_positions"])
def test_a_model_too_short_for_its_sequences_is_refused(key: str) -> None:
    gpt2 = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2}
    with pytest.raises(ModelError, match=rf"{key} 15 is below the sequence_length of 16"):
        build({**gpt2, key: 15})
    config = build_config({**gpt2, key: 16}, vocab_size=11, end_of_document_id=0, max_sequence_tokens=17)
    assert config.n_positions == 16
