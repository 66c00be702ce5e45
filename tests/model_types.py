"""Which model types of transformers train, are saved, load again and score alike here, each as a tiny model.

    python -m tests.model_types              # all, some minutes: writes tests/model_types.json
    python -m tests.model_types llama mamba  # prints what comes of these

Of each: trained for some steps by `train_language_model`; its first loss against the plain forward pass of the same
weights; its last held-out loss against transformers' own class, loaded from what was saved, one sequence at a time.
Both within 1e-3 nats a token. What does not come through is listed with the first sentence of the reason.
"""

import json
import logging
import signal
import sys
import tempfile
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from miniplm_assets.core.errors import MiniplmError
from miniplm_assets.experiment import Training
from miniplm_assets.training import TrainingJob, train_language_model

TABLE = Path(__file__).with_suffix(".json")
WORKS = "works"
TOLERANCE_NATS = 1e-3
MAX_SECONDS = 90
MAX_PARAMETERS = 20_000_000
VOCAB_SIZE, END, MAX_TOKENS = 40, 0, 17
# Where a configuration has the key. What it has not is left to transformers' default.
SMALL: dict[str, Any] = {
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "dim", "embedding_size", "embed_dim", "word_embed_proj_dim"), 32
    ),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "decoder_layers", "encoder_layers", "n_layers"), 2),
    **dict.fromkeys(("vision_config", "audio_config"), None),
    **dict.fromkeys(
        ("num_attention_heads", "n_head", "num_heads", "decoder_attention_heads", "encoder_attention_heads"), 2
    ),
    "num_key_value_heads": 2,
    "head_dim": 16,
    **dict.fromkeys(
        ("intermediate_size", "n_inner", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "d_inner", "dff", "d_ff"), 48
    ),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 32),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk"), 2),
    **dict.fromkeys(("state_size", "mamba_d_state", "ssm_state_size"), 8),
    "layer_types": None,
}
# What fits together in one of them alone.
OWN: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "attn_layer_indices": [1]},
    "codegen": {"rotary_dim": 4, "n_head": 4},
    "dots1": {"first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "n_shared_experts": 1},
    "gemma4_text": {"hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 40},
    "gpt_neo": {"attention_types": [[["global"], 2]]},
    "gptj": {"rotary_dim": 8},
    "granitemoehybrid": {
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_n_groups": 1,
        "layer_types": ["mamba", "attention"],
        "shared_intermediate_size": 32,
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 8},
}


class SlowError(Exception):
    """A model type took too long."""


def architecture_of(model_type: str) -> dict[str, Any]:
    """Return a tiny shape of a model type, without dropout."""
    from transformers import CONFIG_MAPPING, PretrainedConfig

    config_class = CONFIG_MAPPING[model_type]
    general = {field.name for field in fields(PretrainedConfig)}
    own = {field.name: field for field in fields(config_class) if field.name not in general}
    aliases = config_class.attribute_map
    shape: dict[str, Any] = {}
    for key, value in SMALL.items():
        if value is not None and (key in own or aliases.get(key) in own):
            shape.setdefault(key if key in own else aliases[key], value)
    for key in own:
        if ("dropout" in key or "pdrop" in key or key == "layerdrop") and isinstance(own[key].default, float):
            shape[key] = 0.0
    return {"model_type": model_type, **shape, **OWN.get(model_type, {})}


def job_of(architecture: dict[str, Any], folder: Path) -> TrainingJob:
    """Return some steps on random sequences of different lengths."""
    random = np.random.default_rng(0)
    rows = [random.integers(1, VOCAB_SIZE, size=int(random.integers(6, MAX_TOKENS + 1))).tolist() for _ in range(24)]
    pl.DataFrame(
        {
            "sequence_id": range(24),
            "domain": "text",
            "split": ["candidate"] * 16 + ["validation"] * 8,
            "num_tokens": [len(row) for row in rows],
            "token_ids": pl.Series(rows, dtype=pl.List(pl.Int32)),
        }
    ).write_parquet(folder / "sequences.parquet")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    training = Training(
        token_budget=150, sequences_per_step=4, peak_learning_rate=1e-3, num_evaluations=1, num_held_out_sequences=8
    )
    return TrainingJob(
        name=str(architecture["model_type"]),
        architecture=architecture,
        training=training,
        tokenizer_folder=folder / "tokenizer",
        vocab_size=VOCAB_SIZE,
        end_of_document_id=END,
        sequence_files=(folder / "sequences.parquet",),
        split="candidate",
        held_out_files=(folder / "sequences.parquet",),
        max_sequence_tokens=MAX_TOKENS,
        seed=3,
        data_fingerprint="f" * 32,
    )


def plain_nats(model: Any, rows: list[list[int]]) -> float:
    """Return the mean cross-entropy of a model's own forward passes, one sequence at a time."""
    import torch

    nats: list[float] = []
    for ids in rows:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids[:-1]]), use_cache=False).logits[0].double()
        nats += (-logits.log_softmax(-1)[range(len(ids) - 1), ids[1:]]).tolist()
    return float(np.mean(nats))


def outcome_of(model_type: str) -> str:
    """Return `works`, or the first sentence of why not."""
    from transformers import AutoModelForCausalLM

    from miniplm_assets.lm.architectures import build_model, count_parameters
    from miniplm_assets.lm.attention import settle_attention
    from miniplm_assets.training.plan import plan_training

    architecture = architecture_of(model_type)
    try:
        num_parameters = count_parameters(architecture, vocab_size=VOCAB_SIZE).total
    except MiniplmError as error:
        return str(error).split("\n")[0].split(". ")[0][:300]
    if num_parameters > MAX_PARAMETERS:
        return f"not tried: the smallest shape that is known here has {num_parameters:,} parameters"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        job = job_of(architecture, folder)
        for name in ("work", "target"):
            (folder / name).mkdir()
        try:
            facts = train_language_model(job, work=folder / "work", target=folder / "target", report=lambda _: None)
        except MiniplmError as error:
            return str(error).split("\n")[0].split(". ")[0][:300]
        table = pl.read_parquet(folder / "sequences.parquet")
        candidates, held_out = (
            table.filter(split=split)["token_ids"].to_list() for split in ("candidate", "validation")
        )
        plan = plan_training(
            np.array([len(ids) for ids in candidates]),
            token_budget=150,
            sequences_per_step=4,
            num_evaluations=1,
            seed=3,
        )
        new = build_model(
            architecture, vocab_size=VOCAB_SIZE, end_of_document_id=END, max_sequence_tokens=MAX_TOKENS, seed=3
        )
        settle_attention(new, lambda _: None)
        log = pl.read_parquet(folder / "target" / "training_log.parquet")
        first = plain_nats(new.train(), [candidates[place] for place in plan.order[:4]])
        if abs(log["training_nll_nats_per_token"][0] - first) > TOLERANCE_NATS:
            return (
                f"its first loss is {log['training_nll_nats_per_token'][0]:.4f}, that of its forward pass {first:.4f}"
            )
        loaded = AutoModelForCausalLM.from_pretrained(folder / "target").eval()
        if loaded.config._attn_implementation != "eager" and new.config._attn_implementation == "eager":
            loaded.set_attn_implementation("eager")
        last = plain_nats(loaded, held_out)
        if abs(facts["held_out_nll_nats_per_token"] - last) > TOLERANCE_NATS:
            return f"its last loss is {facts['held_out_nll_nats_per_token']:.4f}, that of what was saved {last:.4f}"
    return WORKS


def outcome_in_time(model_type: str) -> str:
    """Return the same; what is no error of ours is told as it is."""

    def too_slow(*_: Any) -> None:
        raise SlowError

    signal.signal(signal.SIGALRM, too_slow)
    signal.alarm(MAX_SECONDS)
    try:
        return outcome_of(model_type)
    except SlowError:
        return f"took more than {MAX_SECONDS} s"
    except Exception as error:  # noqa: BLE001 - whatever a library raises is what is asked for
        return f"UNEXPLAINED {type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.alarm(0)


def main() -> None:
    """Try those that are named, or all."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    named = sys.argv[1:]
    outcomes = {}
    for model_type in named or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        outcomes[model_type] = outcome_in_time(model_type)
        print(f"{model_type}: {outcomes[model_type]}", flush=True)
    if not named:
        TABLE.write_text(json.dumps(outcomes, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
