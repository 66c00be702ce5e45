"""The balance of a mixture of experts in the loss: as transformers itself takes it; left out, or refused, by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from miniplm_assets.core.errors import ModelError
from miniplm_assets.experiment import CrossEntropy
from miniplm_assets.lm.architectures import build_model
from miniplm_assets.training.token_file import Row
from tests.test_objectives import batch_of, opened, setting_of

VOCAB_SIZE = 61  # END of test_objectives is among the ids, and is not in the rows here
SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
EXPERTS: dict[str, dict[str, Any]] = {
    "mixtral": {**SHAPE, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {
        **SHAPE,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 8,
        "shared_expert_intermediate_size": 8,
    },
    "olmoe": {**SHAPE, "num_experts": 4, "num_experts_per_tok": 2},
    # Scales its logits, so that they are computed whole.
    "granitemoe": {**SHAPE, "num_local_experts": 4, "num_experts_per_tok": 2, "logits_scaling": 2.0},
}
DEEPSEEK = {
    **SHAPE,
    "model_type": "deepseek_v3",
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 8,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
}


def built(architecture: dict[str, Any]) -> Any:
    return build_model(architecture, vocab_size=VOCAB_SIZE, end_of_document_id=0, max_sequence_tokens=33, seed=3)


def gradients_of(loss: Any, model: Any) -> dict[str, Any]:
    model.zero_grad()
    loss.backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("weight", [0.0, 10.0])
@pytest.mark.parametrize("model_type", EXPERTS)
def test_loss_and_gradients_are_those_that_transformers_takes(model_type: str, weight: float, tmp_path: Path) -> None:
    import torch

    model = built({"model_type": model_type, **EXPERTS[model_type], "router_aux_loss_coef": weight})
    random = np.random.default_rng(1)
    # Of one length, since transformers leaves the padding out where it is told of it.
    rows = [Row(number, random.integers(1, VOCAB_SIZE, 20)) for number in range(3)]
    objective = opened(CrossEntropy(), model, tmp_path)
    batch = batch_of(rows, objective)
    loss = objective.loss(model, batch)
    mine = gradients_of(loss.total / len(batch["targets"]), model)
    ids = torch.tensor(np.stack([row.token_ids for row in rows]))
    read, predicted = (some.contiguous() for some in (ids[:, :-1], ids[:, 1:]))
    theirs = model(input_ids=read, labels=predicted, shift_labels=predicted, output_router_logits=True, use_cache=False)
    assert loss.total.item() / len(batch["targets"]) == pytest.approx(theirs.loss.item(), rel=1e-6)
    expected = gradients_of(theirs.loss, model)
    assert mine.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(mine[name], gradient, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: name + text)
    # The log tells of the text alone.
    assert loss.nats.item() == pytest.approx(len(batch["targets"]) * (theirs.loss - weight * theirs.aux_loss).item())


def test_a_balance_that_transformers_does_not_take_is_refused(tmp_path: Path) -> None:
    model = built({"model_type": "qwen2", **SHAPE})
    model.config.router_aux_loss_coef = 0.001
    with pytest.raises(ModelError, match=r"qwen2: router_aux_loss_coef is 0\.001, .* set router_aux_loss_coef: 0"):
        opened(CrossEntropy(), model, tmp_path)


def test_a_balance_that_transformers_fails_to_take_is_refused(tmp_path: Path) -> None:
    model = built({"model_type": "mixtral", **SHAPE})

    def fail(*_: Any, **__: Any) -> Any:
        raise IndexError("tuple index out of range")  # as deepseek_v4 of transformers 5.19

    model.forward = fail
    from miniplm_assets.training.objectives.expert_balance import balance_weight

    with pytest.raises(ModelError, match=r"mixtral: router_aux_loss_coef is .*IndexError: tuple .*; set router_aux_"):
        balance_weight(model, pytest.fail)


def test_what_balances_nothing_is_said(tmp_path: Path) -> None:
    from miniplm_assets.training.objectives.output_layer import OutputLayer

    lines: list[str] = []
    OutputLayer(setting_of(built(DEEPSEEK), tmp_path, report=lines.append))
    assert [line for line in lines if "nothing keeps some of them from being left unused" in line]
    lines.clear()
    OutputLayer(setting_of(built({"model_type": "qwen2", **SHAPE}), tmp_path, report=lines.append))
    assert lines == []
