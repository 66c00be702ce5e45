"""log p(target) from hidden states without the tokens x vocabulary logits.

The output layer runs over two-dimensional tiles of tokens by vocabulary; a running maximum and a running
sum of exponentials (Milakov and Gimelshein, arXiv 1805.02867) turn the tiles into log-sum-exp, and the
target's logit is picked from the tile that holds it. One tile's memory is used again for all of them.
For 1,024 tokens and a vocabulary of 151,936 that is 8 MB in place of 622 MB, and on a CPU the tile is
still in the cache when it is read again.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class TileShape:
    """Size of a tile of logits."""

    tokens: int
    columns: int


# Of 256 to 1,024 tokens by 1,024 to 4,096 columns the fastest on one thread; 8 MB of float32 stay in the cache.
CPU_TILE: Final = TileShape(tokens=1024, columns=2048)
# Large enough to fill any accelerator with one product, and 128 MiB of float32.
ACCELERATOR_TILE: Final = TileShape(tokens=4096, columns=8192)


def tile_shape(device_type: str) -> TileShape:
    """Return the tile for a kind of torch device."""
    return CPU_TILE if device_type == "cpu" else ACCELERATOR_TILE


def blocked_logprobs(
    hidden: "torch.Tensor",
    weight: "torch.Tensor",
    bias: "torch.Tensor | None",
    targets: "torch.Tensor",
    *,
    tile: TileShape,
) -> "torch.Tensor":
    """Return log softmax(hidden @ weight.T + bias) at the targets.

    Args:
        hidden: of shape (num_tokens, hidden_size).
        weight: of shape (vocab_size, hidden_size), of the same dtype.
        bias: of shape (vocab_size,), or None.
        targets: int64 of shape (num_tokens,).
        tile: how much is computed at once.

    Returns:
        float32 of shape (num_tokens,), nats. NaN where a logit is NaN or +infinity.
    """
    import torch

    logprobs = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
    num_entries = min(tile.tokens, len(hidden)) * min(tile.columns, len(weight))
    buffer = torch.empty(num_entries, dtype=torch.float32, device=hidden.device)
    narrow = None if weight.dtype == torch.float32 else torch.empty_like(buffer, dtype=weight.dtype)
    for start in range(0, len(hidden), tile.tokens):
        rows = slice(start, start + tile.tokens)
        _fill_rows(logprobs[rows], hidden[rows], weight, bias, targets[rows], tile.columns, buffer, narrow)
    return logprobs


def _fill_rows(
    logprobs: "torch.Tensor",
    hidden: "torch.Tensor",
    weight: "torch.Tensor",
    bias: "torch.Tensor | None",
    targets: "torch.Tensor",
    num_columns: int,
    buffer: "torch.Tensor",
    narrow: "torch.Tensor | None",
) -> None:
    import torch

    # The lowest number, not -infinity: a tile of nothing but -infinity would give -infinity - -infinity.
    running_max = torch.full_like(logprobs, torch.finfo(torch.float32).min)
    running_sum, target_logits = torch.zeros_like(logprobs), torch.zeros_like(logprobs)
    for start in range(0, len(weight), num_columns):
        columns = weight[start : start + num_columns]
        num_entries = len(hidden) * len(columns)
        logits = buffer[:num_entries].view(len(hidden), len(columns))
        if narrow is None:
            torch.mm(hidden, columns.T, out=logits)
        else:
            logits.copy_(torch.mm(hidden, columns.T, out=narrow[:num_entries].view_as(logits)))
        if bias is not None:
            logits += bias[start : start + num_columns]
        place = targets - start
        picked = logits.gather(1, place.clamp(0, len(columns) - 1).unsqueeze(1)).squeeze(1)
        is_here = (place >= 0) & (place < len(columns))
        target_logits = torch.where(is_here, picked, target_logits)

        new_max = torch.maximum(running_max, logits.amax(dim=1))
        exponentials = logits.sub_(new_max.unsqueeze(1)).exp_()
        running_sum = running_sum * (running_max - new_max).exp_() + exponentials.sum(dim=1)
        running_max = new_max
    torch.sub(target_logits - running_max, running_sum.log_(), out=logprobs)
