"""The attention that computes what a model's configuration says, chosen by looking.

transformers hands a model's queries, keys and values to torch's fused attention unless told otherwise, and with them
what else the model asks for: a cap on the logits, a learned sink. The fused one takes what it knows and drops the rest
in silence (Gemma 2's `attn_logit_softcapping`). So each attention of a model computes a few tokens in both ways, once;
where they differ, the model's own way is taken, which is slower.
"""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from miniplm_assets.lm.modes import evaluation_mode

if TYPE_CHECKING:
    import torch

NUM_TOKENS: Final = 16
# What both ways are tried with: a cap at 50, Gemma 2's, changes a logit of 30 by a tenth; a softmax over logits much
# larger would be one token alone in both.
LARGEST_LOGIT: Final = 30.0
# Of the largest output. Both ways compute in float32: rounding is some 1e-6.
TOLERANCE: Final = 1e-3
FUSED: Final = "sdpa"
OWN: Final = "eager"
_BOTH: Final = "miniplm_both_ways"

Attention = Callable[..., tuple["torch.Tensor", Any]]


def settle_attention(model: Any, report: Callable[[str], None]) -> None:
    """Let a model compute its attention by torch's fused one where that is what the model says, else in its own way.

    Args:
        model: a causal language model of transformers, with its weights.
        report: takes a line where the fused one is not what the model says.
    """
    import torch
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if model.config._attn_implementation != FUSED:
        return
    is_same: list[bool] = []
    fused: Attention = ALL_ATTENTION_FUNCTIONS[FUSED]

    def both(
        module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **more: Any
    ) -> tuple["torch.Tensor", Any]:
        own: Attention | None = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        inputs = _comparable(query, key, value, attention_mask, more.get("scaling"))
        is_same.append(own is not None and _agree(own(module, *inputs, **more)[0], fused(module, *inputs, **more)[0]))
        return (own or fused)(module, query, key, value, attention_mask, **more)

    AttentionInterface.register(_BOTH, both)
    AttentionMaskInterface.register(_BOTH, eager_mask)
    model.set_attn_implementation(_BOTH)
    if model.config._attn_implementation != _BOTH:  # transformers leaves a model alone that has but one way
        return
    tokens = torch.arange(NUM_TOKENS, device=model.device) % model.get_input_embeddings().weight.shape[0]
    with evaluation_mode(model), torch.no_grad():
        model(input_ids=tokens.unsqueeze(0), use_cache=False)
    model.set_attn_implementation(FUSED if all(is_same) else OWN)
    if not all(is_same):
        report(
            f"{type(model).__name__} asks more of its attention than torch's fused one computes, such as a cap on the "
            "logits, so it is computed as the model itself does: right, but slower"
        )


def _comparable(query: Any, key: Any, value: Any, mask: Any, scaling: float | None) -> tuple[Any, Any, Any, Any]:
    """Return the inputs of an attention in float32, the queries so long that a cap on the logits shows."""
    query, key, value = query.float(), key.float(), value.float()
    longest = query.norm(dim=-1).max() * key.norm(dim=-1).max() * (scaling or query.shape[-1] ** -0.5)
    return query * (LARGEST_LOGIT / longest.clamp(min=1e-9)), key, value, None if mask is None else mask.float()


def _agree(own: "torch.Tensor", fused: "torch.Tensor") -> bool:
    return bool((own - fused).abs().max() <= TOLERANCE * own.abs().max())
