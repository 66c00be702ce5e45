"""Whether a model's logits are a plain linear map of its body's output, found by looking.

Most causal models end in `lm_head(body(x))`. Some scale or cap the logits afterwards (Gemma 2, Cohere,
Granite), some reshape before. One short pass, watched at the body's and at the head's door, tells which:
no list of names to keep up to date.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import torch
    from torch.nn import Module

# Only equality is asked of the values, so a handful of tokens tells as much as a thousand.
NUM_PROBE_TOKENS: Final = 8


@dataclass(frozen=True, kw_only=True)
class PlainHead:
    """logits = body(input_ids) @ weight.T + bias, and nothing else."""

    body: "Module"
    weight: "torch.Tensor"
    bias: "torch.Tensor | None"


def find_plain_head(model: Any) -> PlainHead | None:
    """Return the parts of a model whose logits are a plain linear map, or None.

    Args:
        model: a causal language model of transformers, in evaluation mode.
    """
    import torch

    body, head = getattr(model, "base_model", None), model.get_output_embeddings()
    if body is None or body is model or type(head) is not torch.nn.Linear:
        return None
    seen: dict[str, torch.Tensor] = {}

    def watch_body(_module: "Module", _inputs: Any, output: Any) -> None:
        seen["body_out"] = output[0]

    def watch_head(_module: "Module", inputs: Any, output: Any) -> None:
        seen["head_in"], seen["head_out"] = inputs[0], output

    vocab_size = model.get_input_embeddings().weight.shape[0]
    probe = torch.arange(NUM_PROBE_TOKENS, device=head.weight.device).unsqueeze(0) % vocab_size
    watches = [body.register_forward_hook(watch_body), head.register_forward_hook(watch_head)]
    try:
        with torch.no_grad():
            logits = model(input_ids=probe, use_cache=False).logits
    finally:
        for watch in watches:
            watch.remove()
    if seen.keys() != {"body_out", "head_in", "head_out"}:
        return None
    is_plain = _same(seen["head_in"], seen["body_out"]) and _same(logits, seen["head_out"])
    return PlainHead(body=body, weight=head.weight, bias=head.bias) if is_plain else None


def computed_whole(model: Any) -> str:
    """Say what `find_plain_head` did not find, and what follows from it."""
    name = type(model).__name__
    return f"{name} changes its logits after the output layer, so they are computed whole: right, but slower"


def _same(after: "torch.Tensor", before: "torch.Tensor") -> bool:
    import torch

    # A change of dtype alone is no change; NaN equals NaN, since broken weights are for the scores to report.
    return after.shape == before.shape and torch.allclose(after, before.to(after.dtype), rtol=0, atol=0, equal_nan=True)
