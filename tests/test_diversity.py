"""The diversity of a set of texts, against going through all pairs; and the embeddings of models of any family."""

from itertools import combinations

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy.spatial.distance import cosine

from miniplm_assets.core.diversity import directions, diversity, token_weights
from miniplm_assets.core.errors import ModelError
from miniplm_assets.lm.architectures import build_model
from miniplm_assets.lm.input_embeddings import input_embeddings


def some_texts(num_texts, seed):
    generator = np.random.default_rng(seed)
    texts = [generator.integers(0, 9, generator.integers(1, 12)) for _ in range(num_texts)]
    return texts, generator.normal(size=(9, 5)).astype(np.float32)


def test_the_mean_over_all_pairs():
    texts, embeddings = some_texts(12, seed=1)
    counts = [sum(int((text == token).sum()) for text in texts) for token in range(9)]
    weights = [1e-3 / (1e-3 + count / sum(counts)) for count in counts]
    means = [sum(weights[token] * embeddings[token].astype(float) for token in text) / len(text) for text in texts]
    expected = np.mean([cosine(one, other) for one, other in combinations(means, 2)])
    found = diversity(directions(texts, embeddings, token_weights(texts, 9)), seed=0)
    assert found.mean == pytest.approx(expected)
    assert found.low < found.mean < found.high


def test_the_interval_is_that_of_drawing_texts_again():
    """By the definition: draw as many texts, take all pairs of two different ones."""
    texts, embeddings = some_texts(30, seed=2)
    vectors = directions(texts, embeddings, token_weights(texts, 9))
    generator = np.random.default_rng(1)
    means, pairs = [], np.triu_indices(len(texts), 1)
    for _ in range(4_000):
        drawn = generator.integers(0, len(texts), len(texts))
        one, other = (drawn[places] for places in pairs)
        is_pair = one != other
        means.append(np.mean(1 - (vectors[one] * vectors[other]).sum(1)[is_pair]))
    found = diversity(vectors, seed=0)
    assert [found.low, found.high] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.02)


def test_fewer_than_two_texts_have_no_distance_and_equal_ones_none():
    texts, embeddings = some_texts(1, seed=1)
    weights = token_weights(texts, 9)
    assert diversity(directions(texts, embeddings, weights), seed=0) is None
    same = diversity(directions(texts * 3, embeddings, weights), seed=0)
    assert (same.mean, same.low, same.high) == pytest.approx((0, 0, 0))


SHAPES = {
    "qwen2": {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2},
    "gpt2": {"n_embd": 8, "n_layer": 1, "n_head": 2},
    "mamba": {"hidden_size": 8, "num_hidden_layers": 1, "state_size": 2},
    "gpt_neox": {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2},
}


@pytest.mark.parametrize("model_type", SHAPES)
def test_the_embeddings_are_those_of_the_loaded_model(tmp_path, model_type):
    model = build_model(
        {"model_type": model_type, **SHAPES[model_type]},
        vocab_size=40,
        end_of_document_id=0,
        max_sequence_tokens=16,
        seed=4,
    ).bfloat16()
    model.save_pretrained(tmp_path, max_shard_size="2KB")  # in several files
    wanted = np.array([7, 0, 39, 7])
    expected = model.get_input_embeddings().weight.detach()[wanted].float().numpy()
    assert np.array_equal(input_embeddings(tmp_path, wanted), expected)
    with pytest.raises(ModelError, match="token 40 is asked for, but its vocabulary ends at 39"):
        input_embeddings(tmp_path, np.array([40]))


def test_a_folder_without_them_is_named(tmp_path):
    model = build_model(
        {"model_type": "qwen2", **SHAPES["qwen2"], "tie_word_embeddings": True},
        vocab_size=40,
        end_of_document_id=0,
        max_sequence_tokens=16,
        seed=4,
    )
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    del weights["model.embed_tokens.weight"]
    save_file(weights, path)
    with pytest.raises(ModelError, match=r"expected one tensor model\.embed_tokens\.weight, found none"):
        input_embeddings(tmp_path, np.array([1]))
