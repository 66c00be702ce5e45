"""How fast the output layer and its loss are computed and differentiated, and in how much memory: which way is taken.

    python benchmarks/output_layers.py --num-tokens 1_024 --rounds 3                       # float32, CPU
    python benchmarks/output_layers.py --device cuda --dtype bfloat16 --hidden 768         # on a GPU

Hidden states of so many tokens, and an output layer of 151,936 entries in float32, both random; products in `--dtype`;
the loss and the gradients by both. Cross-entropy (ce): `whole` logits and torch's cross_entropy; `here`, as training
computes it on a CPU, 2^28 bytes of logits at once; `here_large`, 2^31 bytes; `compiled` and `compiled_large`, the same
with what is done to the logits compiled, the latter as training computes it on a GPU; `liger`, Liger's fused linear
cross-entropy; `torch`, its own linear_cross_entropy. Half of it and half of the forward KL to a teacher of twice the
width (kd): the same, by Liger's fused linear JSD, and by trl's chunked divergence, of which the cross-entropy is left
out.

Ways run in turn, round after round, in this process; seconds are medians after a round of warm-up. Memory is the peak
of what torch holds, above inputs, weights and the gradients of both. Errors are those of the gradients, the norm of the
difference by the norm, against float64 for 64 of the tokens. What is not installed is left out, and said.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.score_sequences import VOCAB_SIZE, forget_peaks, matmul_flops, own_peak_bytes

NUM_CHECKED = 64
SMALL_CHUNK_BYTES, LARGE_CHUNK_BYTES = 1 << 28, 1 << 31
# Takes hidden states, weight, targets, and those of the teacher: returns the mean loss, from which gradients flow.
Way = Callable[[Any, Any, Any, Any, Any], Any]


def whole_ce(hidden: Any, weight: Any, targets: Any, *_: Any) -> Any:
    """Whole logits in float32."""
    from torch.nn.functional import cross_entropy

    return cross_entropy((hidden @ weight.to(hidden.dtype).T).float(), targets)


def whole_kd(hidden: Any, weight: Any, targets: Any, of_teacher: Any, weight_of_teacher: Any) -> Any:
    """Both logits whole, in float32."""
    import torch
    from torch.nn.functional import cross_entropy, log_softmax

    logits = (hidden @ weight.to(hidden.dtype).T).float()
    with torch.no_grad():
        log_p = log_softmax((of_teacher @ weight_of_teacher.T).float(), dim=-1)
    log_q = log_softmax(logits, dim=-1)
    return 0.5 * cross_entropy(logits, targets) + 0.5 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def here_ce(chunk_bytes: int, *, is_compiled: bool) -> Way:
    """Return cross-entropy as training computes it."""
    from miniplm_assets.training.objectives.cross_entropy import nats_of_text

    def known_of(inputs: tuple[Any, ...], weights: Any) -> Any:
        return lambda rows: (inputs[2][rows], weights[rows])

    return here(nats_of_text, known_of, chunk_bytes, is_compiled=is_compiled)


def here_kd(chunk_bytes: int, *, is_compiled: bool) -> Way:
    """Return half cross-entropy, half forward KL, as training computes them."""
    from miniplm_assets.training.objectives.divergences import forward_kl
    from miniplm_assets.training.objectives.vanilla_kd import _loss_of_tokens

    def known_of(inputs: tuple[Any, ...], weights: Any) -> Any:
        _, _, targets, of_teacher, weight_of_teacher = inputs
        return lambda rows: (of_teacher[rows] @ weight_of_teacher.T, targets[rows], weights[rows])

    return here(_loss_of_tokens(0.5, 1.0, forward_kl), known_of, chunk_bytes // 2, is_compiled=is_compiled)


def here(loss_of: Any, known_of: Any, chunk_bytes: int, *, is_compiled: bool) -> Way:
    """Return a loss through the output layer of this project, a chunk at a time."""
    import torch

    from miniplm_assets.training.objectives.output_layer import ChunkLosses, Part, _chunked, _cut

    losses = ChunkLosses(torch.device("cuda" if is_compiled else "cpu"), print)

    def loss(*inputs: Any) -> Any:
        hidden, weight, targets = inputs[:3]
        losses._is_cpu = hidden.device.type == "cpu" and not is_compiled
        weights = torch.full((len(targets),), 1 / len(targets), device=targets.device)
        part = Part(len(targets), loss_of, known_of(inputs, weights))
        chunks = list(_cut([part], chunk_bytes // (4 * len(weight))))
        return _chunked(hidden, weight, None, chunks, losses, weights, hidden.dtype)[0]

    return loss


def liger_ce() -> Way:
    """Return Liger's fused linear cross-entropy."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    fused = LigerFusedLinearCrossEntropyLoss()
    return lambda hidden, weight, targets, *_: fused(weight.to(hidden.dtype), hidden, targets)


def liger_kd() -> Way:
    """Return Liger's fused linear JSD, whose beta of 0 is the forward KL."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    fused = LigerFusedLinearJSDLoss(weight_hard_loss=0.5, weight_soft_loss=0.5, beta=0.0)

    def loss(hidden: Any, weight: Any, targets: Any, of_teacher: Any, weight_of_teacher: Any) -> Any:
        answer = fused(hidden, weight.to(hidden.dtype), of_teacher, weight_of_teacher, targets)
        return answer[0] if isinstance(answer, tuple) else answer

    return loss


def trl_kl() -> Way:
    """Return trl's chunked forward KL, without cross-entropy."""
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    def loss(hidden: Any, weight: Any, _targets: Any, of_teacher: Any, weight_of_teacher: Any) -> Any:
        narrow = weight.to(hidden.dtype)
        return ChunkedDivergenceFunction.apply(hidden, narrow, None, of_teacher, weight_of_teacher, None, 0.0)[0].mean()

    return loss


def torch_ce() -> Way:
    """Return torch's own linear cross-entropy."""
    from torch.nn.functional import linear_cross_entropy

    return lambda hidden, weight, targets, *_: linear_cross_entropy(hidden, weight.to(hidden.dtype), targets)


WAYS: dict[str, dict[str, Callable[[], Way]]] = {
    "ce": {
        "whole": lambda: whole_ce,
        "here": lambda: here_ce(SMALL_CHUNK_BYTES, is_compiled=False),
        "here_large": lambda: here_ce(LARGE_CHUNK_BYTES, is_compiled=False),
        "compiled": lambda: here_ce(SMALL_CHUNK_BYTES, is_compiled=True),
        "compiled_large": lambda: here_ce(LARGE_CHUNK_BYTES, is_compiled=True),
        "liger": liger_ce,
        "torch": torch_ce,
    },
    "kd": {
        "whole": lambda: whole_kd,
        "here": lambda: here_kd(SMALL_CHUNK_BYTES, is_compiled=False),
        "here_large": lambda: here_kd(LARGE_CHUNK_BYTES, is_compiled=False),
        "compiled": lambda: here_kd(SMALL_CHUNK_BYTES, is_compiled=True),
        "compiled_large": lambda: here_kd(LARGE_CHUNK_BYTES, is_compiled=True),
        "liger": liger_kd,
        "trl (no ce)": trl_kl,
    },
}


def make_inputs(num_tokens: int, arguments: argparse.Namespace) -> tuple[Any, ...]:
    """Return hidden states, weight, targets, and those of the teacher."""
    import torch

    generator = torch.Generator(arguments.device).manual_seed(0)
    dtype = getattr(torch, arguments.dtype)

    def drawn(*shape: int, scale: float) -> Any:
        return (scale * torch.randn(*shape, generator=generator, device=arguments.device)).to(dtype)

    wide = 2 * arguments.hidden
    return (
        drawn(num_tokens, arguments.hidden, scale=1.0).requires_grad_(),
        drawn(VOCAB_SIZE, arguments.hidden, scale=0.05).float().requires_grad_(),
        torch.randint(VOCAB_SIZE, (num_tokens,), generator=generator, device=arguments.device),
        drawn(num_tokens, wide, scale=1.0),
        drawn(VOCAB_SIZE, wide, scale=0.05),
    )


def differentiate(way: Way, inputs: tuple[Any, ...]) -> float:
    """Compute the loss and its gradients, and wait for them."""
    for tensor in inputs[:2]:
        tensor.grad = None
    loss = way(*inputs)
    loss.backward()
    return float(loss.detach())


def errors(way: Way, loss: str, arguments: argparse.Namespace) -> list[float]:
    """Return the relative errors of the gradients by hidden states and by weight, for a few tokens."""
    import torch

    inputs = make_inputs(NUM_CHECKED, arguments)
    differentiate(way, inputs)
    exact = [tensor.detach().double() if tensor.is_floating_point() else tensor for tensor in inputs]
    for tensor in exact[:2]:
        tensor.requires_grad_()
    differentiate({"ce": double_ce, "kd": double_kd}[loss], tuple(exact))
    return [
        float(torch.linalg.vector_norm(one.grad.double() - other.grad) / torch.linalg.vector_norm(other.grad))
        for one, other in zip(inputs[:2], exact[:2], strict=True)
    ]


def double_ce(hidden: Any, weight: Any, targets: Any, *_: Any) -> Any:
    """Cross-entropy in float64."""
    return -(hidden @ weight.T).log_softmax(-1).gather(1, targets.unsqueeze(1)).mean()


def double_kd(hidden: Any, weight: Any, targets: Any, of_teacher: Any, weight_of_teacher: Any) -> Any:
    """Half cross-entropy and half forward KL in float64."""
    log_p, log_q = (of_teacher @ weight_of_teacher.T).log_softmax(-1), (hidden @ weight.T).log_softmax(-1)
    nll = -log_q.gather(1, targets.unsqueeze(1)).mean()
    return 0.5 * nll + 0.5 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def measure(loss: str, arguments: argparse.Namespace) -> None:
    """Time every way of one loss, and print them side by side."""
    import torch

    ways: dict[str, Way] = {}
    for name, open_way in WAYS[loss].items():
        try:
            ways[name] = open_way()
        except ImportError as error:
            print(f"{loss} {name}: left out, {error}")
    inputs = make_inputs(arguments.num_tokens, arguments)
    held = sum(tensor.numel() * tensor.element_size() for tensor in inputs[:2])  # their gradients
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    peaks, values = dict.fromkeys(ways, 0), dict.fromkeys(ways, 0.0)
    for number in range(arguments.rounds + 1):
        for name in list(ways):
            for tensor in inputs[:2]:
                tensor.grad = None
            forget_peaks(arguments.device)
            before = own_peak_bytes() if arguments.device == "cpu" else torch.cuda.memory_allocated()
            started = time.perf_counter()
            try:
                values[name] = differentiate(ways[name], inputs)
                if arguments.device != "cpu":
                    torch.accelerator.synchronize()
            except (RuntimeError, TypeError, AttributeError, NotImplementedError) as error:
                print(f"{loss} {name}: does not run here: {type(error).__name__} {str(error)[:300]}")
                del ways[name]
                continue
            if number:
                seconds[name].append(time.perf_counter() - started)
            peak = own_peak_bytes() if arguments.device == "cpu" else torch.cuda.max_memory_allocated()
            peaks[name] = peak - before - held
    print(f"\n{loss}: {'way':<16}{'tokens/s':>12}{'against whole':>15}{'GB':>8}{'loss':>10}{'gradient errors':>28}")
    rates = {name: arguments.num_tokens / statistics.median(seconds[name]) for name in ways}
    for name, rate in rates.items():
        of_hidden, of_weight = errors(ways[name], loss, arguments)
        ratio = f"{rate / rates['whole']:.2f} x" if "whole" in rates else "-"
        print(f"{loss}: {name:<16}{rate:>12,.0f}{ratio:>15}{peaks[name] / 1e9:>8.2f}{values[name]:>10.5f}", end="")
        print(f"{of_hidden:>14.1e}{of_weight:>14.1e}", flush=True)


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--num-tokens", type=int, default=16_384)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--losses", nargs="+", choices=WAYS, default=list(WAYS))
    arguments = parser.parse_args()
    rate = matmul_flops(arguments.device, arguments.dtype)
    least = 6 * VOCAB_SIZE * arguments.hidden / rate
    print(
        f"{arguments.num_tokens:,} tokens, {arguments.hidden} to {VOCAB_SIZE:,}, {arguments.dtype}, {arguments.device}"
    )
    print(f"matrix product: {rate / 1e12:,.1f} TFLOP/s; three products a token alone: {1 / least:,.0f} tokens/s")
    for loss in arguments.losses:
        measure(loss, arguments)


if __name__ == "__main__":
    main()
