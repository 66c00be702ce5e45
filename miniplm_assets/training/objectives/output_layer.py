"""A loss over the logits of a student, which never exist whole.

The output layer runs over some hundred tokens at a time. A loss turns their logits into their gradient in place, and
two products at once make of it the gradients of the hidden states and of the weight, so that nothing of the tokens x
vocabulary matrix is kept for the backward pass. That multiplies what is there by one number.

Adding the tokens of a step up in chunks gives the same gradients as the whole to 1e-8 of their size in float32. For a
product the weight is fetched once for all tokens of a chunk; what is done to each entry of the logits is done to a few
tokens after the other (`in_cache`), whose entries stay in a CPU's cache from one pass to the next.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from miniplm_assets.lm.modes import evaluation_mode
from miniplm_assets.lm.output_head import computed_whole, find_plain_head
from miniplm_assets.training.objectives.expert_balance import ASKED, balance_weight
from miniplm_assets.training.objectives.objective import Batch

if TYPE_CHECKING:
    import torch

# Of logits in float32 at once: 441 tokens of a vocabulary of 151,936.
CHUNK_BYTES: Final = 1 << 28
MAX_CHUNK_TOKENS: Final = 512
# Of logits in float32: with what a loss holds beside them, within the cache that a CPU's cores share.
CACHED_BYTES: Final = 1 << 22

# Takes logits in float32 of shape (tokens, vocab_size) and the place of these tokens among all predicted ones. Leaves
# d(sum of weight * nats) / d logits in their place, and returns nats, of shape (tokens,).
LossOfChunk = Callable[["torch.Tensor", slice], "torch.Tensor"]


class OutputLayer:
    """The output layer of a student.

    Args:
        model: the student.
        dtype: of the products: float32, bfloat16 or float16.
        report: told where its logits must be computed whole.
        num_buffers: how many matrices of the size of its logits a loss holds beside them.
    """

    def __init__(self, model: Any, *, dtype: str, report: Callable[[str], None], num_buffers: int = 0) -> None:
        import torch

        with evaluation_mode(model):
            plain = find_plain_head(model)
        self._head: Any = None if plain is None else model.get_output_embeddings()
        self._balance = balance_weight(model, report)
        self._asked = {"use_cache": False, **(ASKED if self._balance else {})}
        self._dtype = getattr(torch, dtype)
        self._chunk_bytes = CHUNK_BYTES // (1 + num_buffers)
        if plain is None:
            report(computed_whole(model))

    def loss(self, model: Any, batch: Batch, loss_of_chunk: LossOfChunk) -> "tuple[torch.Tensor, torch.Tensor]":
        """Return the sum of weight * nats over a batch, from which gradients flow, and nats without weight.

        Where the model is a mixture of experts, their balance is in the sum: that of the batch, its padding included.

        Args:
            model: the student; that which was given, or what its trainer has wrapped around it.
            batch: `input_ids` and `positions`.
            loss_of_chunk: of some of the positions.

        Returns:
            A scalar, and float32 of shape (num_predicted,).
        """
        with _passing_through(self._head) if self._head is not None else nullcontext():
            output = model(input_ids=batch["input_ids"], **self._asked)
        chosen = output.logits.flatten(0, 1).index_select(0, batch["positions"])
        if self._head is None:
            total, nats = _whole(chosen, loss_of_chunk, batch["weights"], self._num_tokens(chosen.shape[1]))
        else:
            weight, bias = self._head.weight, self._head.bias
            num_tokens = self._num_tokens(len(weight))
            total, nats = _chunked(chosen, weight, bias, loss_of_chunk, batch["weights"], self._dtype, num_tokens)
        if self._balance:  # of the mean loss, so that it weighs as much as the tokens do
            total = total + self._balance * output.aux_loss * batch["weights"].sum()
        return total, nats

    def _num_tokens(self, vocab_size: int) -> int:
        return max(1, min(MAX_CHUNK_TOKENS, self._chunk_bytes // (4 * vocab_size)))


def in_cache(loss: Callable[..., "torch.Tensor"], *of_tokens: "torch.Tensor") -> "torch.Tensor":
    """Return a loss of the tokens of a chunk, taken of as many at once as stay in a CPU's cache; else of all at once.

    Args:
        loss: takes the same tensors of some tokens, and returns nats of each.
        of_tokens: the logits of the chunk, and whatever else is known of each of its tokens.
    """
    import torch

    logits = of_tokens[0]
    if logits.device.type != "cpu":
        return loss(*of_tokens)
    at_once = max(1, CACHED_BYTES // (4 * logits.shape[1]))
    return torch.cat([loss(*some) for some in zip(*(torch.split(one, at_once) for one in of_tokens), strict=True)])


@contextmanager
def _passing_through(head: Any) -> Iterator[None]:
    """Let a layer give back what it is given, so that the whole model can be called by whatever stands around it."""
    head.forward = _as_it_is
    try:
        yield
    finally:
        del head.forward


def _as_it_is(hidden: "torch.Tensor") -> "torch.Tensor":
    return hidden


def _chunked(
    hidden: "torch.Tensor",
    weight: "torch.Tensor",
    bias: "torch.Tensor | None",
    loss_of_chunk: LossOfChunk,
    token_weights: "torch.Tensor",
    dtype: "torch.dtype",
    num_tokens: int,
) -> "tuple[torch.Tensor, torch.Tensor]":
    import torch

    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        narrow = weight.to(dtype)
        nats = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        of_hidden, of_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        of_bias = None if bias is None else torch.zeros_like(bias)
        for start in range(0, len(hidden), num_tokens):
            rows = slice(start, start + num_tokens)
            states = hidden[rows].to(dtype)
            logits = torch.mm(states, narrow.T).float()
            if bias is not None:
                logits += bias
            nats[rows] = loss_of_chunk(logits, rows)
            slope = logits.to(dtype)
            of_hidden[rows] = torch.mm(slope, narrow).to(hidden.dtype)
            if dtype == weight.dtype:
                of_weight.addmm_(slope.T, states)
            else:
                of_weight += torch.mm(slope.T, states)
            if of_bias is not None:
                of_bias += logits.sum(0)
        total = (token_weights * nats).sum()
    slopes = (of_hidden, of_weight, of_bias)
    return _known_slopes().apply(total, slopes, hidden, weight, bias), nats


def _whole(
    logits: "torch.Tensor", loss_of_chunk: LossOfChunk, token_weights: "torch.Tensor", num_tokens: int
) -> "tuple[torch.Tensor, torch.Tensor]":
    import torch

    with torch.no_grad():
        nats = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
        slope = torch.empty_like(logits)
        for start in range(0, len(logits), num_tokens):
            rows = slice(start, start + num_tokens)
            chunk = logits[rows].float().clone()
            nats[rows] = loss_of_chunk(chunk, rows)
            slope[rows] = chunk.to(logits.dtype)
        total = (token_weights * nats).sum()
    return _known_slopes().apply(total, (slope,), logits), nats


@cache  # torch is not there when this module is read
def _known_slopes() -> Any:
    """Return the function of a sum whose derivatives are known: `apply(total, slopes, *inputs)` gives the total."""
    import torch

    class KnownSlopes(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, total: torch.Tensor, slopes: Any, *_inputs: Any) -> torch.Tensor:
            context.slopes = slopes
            return total.clone()

        @staticmethod
        def backward(context: Any, by: torch.Tensor) -> Any:
            slopes = context.slopes
            del context.slopes
            return None, None, *(None if slope is None else slope.mul_(by) for slope in slopes)

    return KnownSlopes
