"""The balance loss of a mixture of experts (Switch Transformers, arXiv 2101.03961, equation 4).

transformers adds it to the loss that it takes itself, and gives it to whoever asks for the router's logits; a loss that
is taken elsewhere, as here, has to ask. Without it the experts may come to be used by a few tokens alone.
"""

from collections.abc import Callable
from typing import Any, Final

from miniplm_assets.core.doors import explained_as
from miniplm_assets.core.errors import ModelError
from miniplm_assets.lm.modes import evaluation_mode

# How configurations of transformers call its weight in the loss, dbrx's inside of another.
COEFFICIENTS: Final = ("router_aux_loss_coef", "aux_loss_coef")
# A bias for each expert that moves against its load, outside of the gradient: of DeepSeek-V3, arXiv 2412.19437.
LOAD_BIAS: Final = "e_score_correction_bias"
ASKED: Final = {"output_router_logits": True}


def balance_weight(model: Any, report: Callable[[str], None]) -> float:
    """Return the weight of the balance loss in a model's loss; 0 for a model without experts, or told to do without.

    Args:
        model: a causal language model of transformers.
        report: told where experts are balanced by nothing.

    Raises:
        ModelError: if its configuration gives a weight to a balance loss that transformers does not take, or fails to.
    """
    import torch

    has_load_bias = any(name.endswith(LOAD_BIAS) for name, _ in (*model.named_buffers(), *model.named_parameters()))
    name, weight = _coefficient(model)
    balance = None
    if weight:
        probe = torch.zeros((1, 2), dtype=torch.int64, device=model.get_input_embeddings().weight.device)
        fails = f"{model.config.model_type}: {name} is {weight:g}, but transformers fails to take its balance loss"
        without = f"set {name}: 0 in the architecture to train it without, or take another model_type"
        with evaluation_mode(model), torch.no_grad(), explained_as(ModelError, fails, without):
            try:
                output = model(input_ids=probe, use_cache=False, **ASKED)
            except TypeError:  # its forward pass knows of no router
                output = None
        balance = getattr(output, "aux_loss", None)
        if balance is None:
            raise ModelError(
                f"{model.config.model_type}: {name} is {weight:g}, but transformers takes no balance loss for this "
                f"model_type; {without}"
            )
    if has_load_bias and not isinstance(balance, torch.Tensor):
        report(
            f"{model.config.model_type} balances its experts by a bias that transformers never moves: nothing keeps "
            "some of them from being left unused"
        )
    # Where a model of such a type has no experts, transformers gives the number 0.
    return float(weight) if isinstance(balance, torch.Tensor) else 0.0


def _coefficient(model: Any) -> tuple[str, float]:
    for settings in (model.config.get_text_config(), model):
        for name in COEFFICIENTS:
            if (weight := getattr(settings, name, None)) is not None:
                return name, weight
    return "", 0.0
