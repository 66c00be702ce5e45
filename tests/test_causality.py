"""Models whose scores depend on their batch or on later tokens: refused before anything is scored or trained."""

from dataclasses import dataclass

import numpy as np
import pytest
from transformers import AutoConfig

from miniplm_assets.core.errors import ExperimentError, ModelError
from miniplm_assets.experiment import Scoring
from miniplm_assets.kinds.registry import open_pipeline
from miniplm_assets.lineage.plan import plan_on, require_possible
from miniplm_assets.lm.causality import require_causal, require_causal_config, require_causal_model
from miniplm_assets.lm.scorer import open_scorer
from miniplm_assets.lm.scores import Scores, sum_by_sequence
from tests.corpora import tiny_experiment, write_experiment
from tests.scoring_oracle import END_OF_DOCUMENT, tiny_model

ORIGINAL = 64
SHAPE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
STRETCHED = {
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "short_factor": [1.0] * 16,
        "long_factor": [1.0 + number / 4 for number in range(16)],
        "original_max_position_embeddings": ORIGINAL,
    },
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0},
}


def config_of(kind, **changes):
    return AutoConfig.for_model(kind, **SHAPE, max_position_embeddings=160, vocab_size=300, pad_token_id=0, **changes)


@pytest.mark.parametrize("kind", ["qwen2", "llama", "gemma2", "gpt2", "mamba", "cohere"])
def test_a_causal_model_passes(kind, tmp_path):
    model = tiny_model(kind, tmp_path)
    require_causal_model(model, named=kind, end_of_document_id=END_OF_DOCUMENT, max_sequence_tokens=129)
    require_causal_config(model.config, named=kind, max_sequence_tokens=129)


@pytest.mark.parametrize("kind", ["bert", "electra", "megatron-bert"])
def test_a_model_that_looks_at_both_sides_is_refused_as_drawn_for_training_too(kind):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(config_of(kind))
    for require in (
        lambda: require_causal_model(model, named="it", end_of_document_id=2, max_sequence_tokens=65),
        lambda: require_causal_config(model.config, named="it", max_sequence_tokens=65),
    ):
        with pytest.raises(ModelError, match=r"^it: the log-probabilities of 17 tokens differ by .* in a batch with"):
            require()


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_positions_that_stretch_are_refused_beyond_their_original_length(kind):
    original = 160 if kind == "longrope" else ORIGINAL
    config = AutoConfig.for_model(
        "phi3" if kind == "longrope" else "llama",
        **SHAPE,
        num_key_value_heads=2,
        max_position_embeddings=original,
        vocab_size=300,
        pad_token_id=0,
        rope_parameters=STRETCHED[kind],
        **({"original_max_position_embeddings": ORIGINAL} if kind == "longrope" else {}),
    )
    require_causal_config(config, named="it", max_sequence_tokens=ORIGINAL + 1)
    with pytest.raises(ModelError, match=r"with 112 more behind them.*longrope or dynamic.*original_max_position"):
        require_causal_config(config, named="it", max_sequence_tokens=129)


def test_a_model_that_does_not_run_is_named(tmp_path):
    # Its rotary positions are wider than its heads: built and saved without a word.
    tiny_model("gptj", tmp_path, n_embd=64, n_layer=1, n_head=2, rotary_dim=64, vocab_size=300)
    with (
        pytest.raises(ModelError, match=r"cannot score \(RuntimeError: .*\); take a causal language model of text"),
        open_scorer(
            tmp_path,
            scoring=Scoring(device="cpu"),
            end_of_document_id=END_OF_DOCUMENT,
            max_sequence_tokens=65,
            report=lambda _: None,
        ),
    ):
        pass


@dataclass
class Rounding:
    """A scorer that answers each time a little otherwise: by some nats for each token."""

    nats: float
    num_devices = 1
    num_calls = 0

    def score(self, sequences, sequence_ids) -> Scores:
        self.num_calls += 1
        counts = [len(token_ids) - 1 for token_ids in sequences]
        logprobs = np.full(sum(counts), -5.0 - self.nats * (self.num_calls % 2), np.float32)
        return sum_by_sequence(logprobs, np.repeat(np.arange(len(counts)), counts), sequence_ids)

    def close(self) -> None:
        """Nothing to give back."""


@pytest.mark.parametrize(("dtype", "within", "beyond"), [("float32", 1e-5, 1e-4), ("bfloat16", 0.1, 0.3)])
def test_rounding_is_no_dependence(dtype, within, beyond):
    what = {"named": "it", "vocab_size": 300, "end_of_document_id": 0, "max_sequence_tokens": 9, "dtype": dtype}
    require_causal(Rounding(within), **what)
    with pytest.raises(ModelError, match="differ by"):
        require_causal(Rounding(beyond), **what)


def test_a_student_that_looks_ahead_is_refused_before_anything_is_scored(tmp_path):
    content = tiny_experiment(tmp_path, tmp_path / "warehouse")
    content["architectures"]["ahead"] = {"model_type": "bert", **SHAPE}
    content["students"]["no_kd"] = {**content["students"]["no_kd"], "architecture": "ahead"}
    pipeline = open_pipeline(write_experiment(tmp_path / "ahead.yaml", content))
    with pytest.raises(ExperimentError, match=r"no_kd/student_checkpoint: architecture of model_type bert: the log"):
        require_possible(plan_on(pipeline, None))
