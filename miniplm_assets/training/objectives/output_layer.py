"""A loss over the logits of a student, which never exist whole.

The output layer runs over some hundred tokens at a time. A loss turns their logits into their gradient in place, and
two products at once make of it the gradients of the hidden states and of the weight, so that nothing of the tokens x
vocabulary matrix is kept for the backward pass. That multiplies what is there by one number.

Adding the tokens of a step up in chunks gives the same gradients as the whole to 1e-8 of their size in float32. For a
product the weight is fetched once for all tokens of a chunk. On a CPU, what is done to each entry of the logits is done
to a few tokens after the other, whose entries stay in its cache from one pass to the next. A GPU has room for some
thousand tokens, and torch compiles what is done to an entry into as few passes as there are sums over the vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from miniplm_assets.lm.modes import evaluation_mode
from miniplm_assets.lm.output_head import computed_whole, find_plain_head
from miniplm_assets.training.layers import why_not_compiled
from miniplm_assets.training.objectives.expert_balance import ASKED, balance_weight
from miniplm_assets.training.objectives.objective import Batch, Setting

if TYPE_CHECKING:
    import torch

# Of logits in float32 at once: 441 tokens of a vocabulary of 151,936.
CHUNK_BYTES: Final = 1 << 28
MAX_CPU_CHUNK_TOKENS: Final = 512
# 3,533 of those tokens, where a GPU has 32 times the memory (docs/benchmarks.md).
CUDA_CHUNK_BYTES: Final = 1 << 31
SMALLEST_SHARE_OF_MEMORY: Final = 32
# Of logits in float32: with what a loss holds beside them, within the cache that a CPU's cores share.
CACHED_BYTES: Final = 1 << 22


class TokenNats(NamedTuple):
    """What each token costs, float32 of shape (tokens,).

    Attributes:
        loss: what is minimised.
        nll: its cross-entropy.
    """

    loss: "torch.Tensor"
    nll: "torch.Tensor"


# Takes logits in float32 of shape (tokens, vocab_size), and whatever else is known of each of these tokens, in tensors
# of its own that it may overwrite. Leaves d(sum of weight * nats) / d logits in the place of the logits.
LossOfTokens = Callable[..., TokenNats]


@dataclass(frozen=True)
class Part:
    """Predicted tokens, one after the other, that have the same loss.

    Attributes:
        num_tokens: how many.
        loss_of: the loss; the same object from step to step, so that it is compiled once.
        known_of: what it takes beside the logits, of some of these tokens.
    """

    num_tokens: int
    loss_of: LossOfTokens
    known_of: "Callable[[slice], tuple[torch.Tensor, ...]]"


class OutputLayer:
    """The output layer of a student.

    Args:
        setting: of its objective; told where logits must be computed whole, and where nothing can be compiled.
        num_buffers: how many matrices of the size of its logits a loss holds beside them.
    """

    def __init__(self, setting: Setting, *, num_buffers: int = 0) -> None:
        import torch

        model, report = setting.model, setting.report
        with evaluation_mode(model):
            plain = find_plain_head(model)
        self._head: Any = None if plain is None else model.get_output_embeddings()
        self._balance = balance_weight(model, report)
        self._asked = {"use_cache": False, **(ASKED if self._balance else {})}
        self._dtype = getattr(torch, setting.dtype)
        self._chunk_bytes = _chunk_bytes(setting.device) // (1 + num_buffers)
        self._losses = ChunkLosses(setting.device, report)
        if plain is None:
            report(computed_whole(model))

    def loss(self, model: Any, batch: Batch, parts: Sequence[Part]) -> "tuple[torch.Tensor, TokenNats]":
        """Return the sum of weight * nats over a batch, from which gradients flow, and nats without weight.

        Where the model is a mixture of experts, their balance is in the sum: that of the batch, its padding included.

        Args:
            model: the student; that which was given, or what its trainer has wrapped around it.
            batch: `input_ids`, `positions` and `weights`.
            parts: of the positions, all of them.

        Returns:
            A scalar, and what each position costs.
        """
        with _passing_through(self._head) if self._head is not None else nullcontext():
            output = model(input_ids=batch["input_ids"], **self._asked)
        chosen = output.logits.flatten(0, 1).index_select(0, batch["positions"])
        if self._head is None:
            chunks = self._chunks(parts, chosen.shape[1], chosen.device.type)
            total, nats = _whole(chosen, chunks, self._losses, batch["weights"])
        else:
            weight, bias = self._head.weight, self._head.bias
            chunks = self._chunks(parts, len(weight), chosen.device.type)
            total, nats = _chunked(chosen, weight, bias, chunks, self._losses, batch["weights"], self._dtype)
        if self._balance:  # of the mean loss, so that it weighs as much as the tokens do
            total = total + self._balance * output.aux_loss * batch["weights"].sum()
        return total, nats

    def _chunks(self, parts: Sequence[Part], vocab_size: int, device_type: str) -> "list[Chunk]":
        num_tokens = max(1, self._chunk_bytes // (4 * vocab_size))
        if device_type == "cpu":
            num_tokens = min(num_tokens, MAX_CPU_CHUNK_TOKENS)
        return list(_cut(parts, num_tokens))


class Chunk(NamedTuple):
    """Tokens that go through the output layer at once: their part, and their place in it and among all."""

    part: Part
    in_part: slice
    rows: slice


def _cut(parts: Sequence[Part], num_tokens: int) -> Iterator[Chunk]:
    """Go through the tokens of all parts, at most so many at once."""
    first = 0
    for part in parts:
        for start in range(0, part.num_tokens, num_tokens):
            end = min(start + num_tokens, part.num_tokens)
            yield Chunk(part, slice(start, end), slice(first + start, first + end))
        first += part.num_tokens


def _chunk_bytes(device: "torch.device") -> int:
    import torch

    if device.type != "cuda":
        return CHUNK_BYTES
    memory = torch.cuda.get_device_properties(device).total_memory
    return min(CUDA_CHUNK_BYTES, memory // SMALLEST_SHARE_OF_MEMORY)


class ChunkLosses:
    """Computes the losses of chunks as the device does it best: on a CPU a few tokens at a time, on a GPU compiled.

    Args:
        device: that is trained on.
        report: told where nothing can be compiled.
    """

    def __init__(self, device: "torch.device", report: Callable[[str], None]) -> None:
        self._is_cpu = device.type == "cpu"
        self._is_compiled = device.type == "cuda"
        self._report = report
        self._compiled: dict[LossOfTokens, Callable[..., Any]] = {}

    def of(self, chunk: Chunk, logits: "torch.Tensor", bias: "torch.Tensor | None") -> "tuple[torch.Tensor, TokenNats]":
        """Return the derivative by the logits, in their dtype, and what each token costs.

        Args:
            chunk: the tokens.
            logits: without bias, of shape (tokens, vocab_size); they may be overwritten.
            bias: float32 of shape (vocab_size,), if any.
        """
        known = chunk.part.known_of(chunk.in_part)
        if self._is_compiled:
            try:
                slope, nats = self._compile(chunk.part.loss_of)(logits, bias, *known)
            except _compiler_errors() as error:
                self._is_compiled = False
                reason = why_not_compiled(error)
                self._report(f"torch cannot compile the loss here ({reason}), so it is computed step by step: slower")
            else:
                return slope, nats
        loss_of = partial(_in_cache, chunk.part.loss_of) if self._is_cpu else chunk.part.loss_of
        return _slope_of(loss_of, logits, bias, *known)

    def _compile(self, loss_of: LossOfTokens) -> Callable[..., Any]:
        import torch

        if loss_of not in self._compiled:
            # Tensors of its own: what is overwritten is no input, and need not be written back.
            def compiled(
                logits: torch.Tensor, bias: torch.Tensor | None, *known: torch.Tensor
            ) -> tuple[torch.Tensor, TokenNats]:
                return _slope_of(loss_of, logits.clone(), bias, *(one.clone() for one in known))

            self._compiled[loss_of] = torch.compile(compiled)
        return self._compiled[loss_of]


def _compiler_errors() -> tuple[type[Exception], ...]:
    from torch._dynamo.exc import TorchDynamoException

    return (TorchDynamoException,)


def _slope_of(
    loss_of: LossOfTokens, logits: "torch.Tensor", bias: "torch.Tensor | None", *known: "torch.Tensor"
) -> "tuple[torch.Tensor, TokenNats]":
    slope = logits.float()
    if bias is not None:
        slope += bias
    nats = loss_of(slope, *known)
    return slope.to(logits.dtype), nats


def _in_cache(loss_of: LossOfTokens, *of_tokens: "torch.Tensor") -> TokenNats:
    """Return a loss, taken of as many tokens at once as stay in a CPU's cache; the first tensor are the logits."""
    import torch

    at_once = max(1, CACHED_BYTES // (4 * of_tokens[0].shape[1]))
    few = zip(*(torch.split(one, at_once) for one in of_tokens), strict=True)
    return TokenNats(*(torch.cat(each) for each in zip(*(loss_of(*some) for some in few), strict=True)))


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
    chunks: Sequence[Chunk],
    losses: ChunkLosses,
    token_weights: "torch.Tensor",
    dtype: "torch.dtype",
) -> "tuple[torch.Tensor, TokenNats]":
    import torch

    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        narrow = weight.to(dtype)
        nats = _no_nats(hidden)
        of_hidden, of_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        of_bias = None if bias is None else torch.zeros_like(bias)
        for chunk in chunks:
            states = hidden[chunk.rows].to(dtype)
            slope, of_tokens = losses.of(chunk, torch.mm(states, narrow.T), bias)
            for into, one in zip(nats, of_tokens, strict=True):
                into[chunk.rows] = one
            of_hidden[chunk.rows] = torch.mm(slope, narrow).to(hidden.dtype)
            if dtype == weight.dtype:
                of_weight.addmm_(slope.T, states)
            else:
                of_weight += torch.mm(slope.T, states)
            if of_bias is not None:
                of_bias += slope.sum(0, dtype=of_bias.dtype)
        total = (token_weights * nats.loss).sum()
    slopes = (of_hidden, of_weight, of_bias)
    return _known_slopes().apply(total, slopes, hidden, weight, bias), nats


def _whole(
    logits: "torch.Tensor", chunks: Sequence[Chunk], losses: ChunkLosses, token_weights: "torch.Tensor"
) -> "tuple[torch.Tensor, TokenNats]":
    import torch

    with torch.no_grad():
        nats = _no_nats(logits)
        slope = torch.empty_like(logits)
        for chunk in chunks:
            slope[chunk.rows], of_tokens = losses.of(chunk, logits[chunk.rows].clone(), None)
            for into, one in zip(nats, of_tokens, strict=True):
                into[chunk.rows] = one
        total = (token_weights * nats.loss).sum()
    return _known_slopes().apply(total, (slope,), logits), nats


def _no_nats(of_tokens: "torch.Tensor") -> TokenNats:
    import torch

    loss, nll = torch.empty(2, len(of_tokens), dtype=torch.float32, device=of_tokens.device)
    return TokenNats(loss, nll)


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
