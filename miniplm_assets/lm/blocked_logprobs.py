"""log p(target) from hidden states without the tokens x vocabulary logits.

The output layer runs over two-dimensional tiles of tokens by vocabulary, and the target's logit is picked
from the tile that holds it. One tile's memory is used again for all of them: for 2,048 tokens and a
vocabulary of 151,936 that is 16 MB in place of 1.2 GB, and on a CPU the tile is still in the cache when it
is read again.

A running maximum and a running sum of exponentials (Milakov and Gimelshein, arXiv 1805.02867) turn the tiles
into log-sum-exp. On a CPU each pass over a tile costs 3 % of its matrix product, so there the exponentials
are first summed as they stand, without a maximum: float32 holds e^x for |x| < 87, and the logits of language
models lie far inside. Where a row's sum shows that they did not, that row is done again with the maximum.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class TileShape:
    """Size of a tile of logits."""

    tokens: int
    columns: int


# The fastest of 512 to 2,048 tokens by 1,024 to 4,096 columns on two cores, 0.95 of the rate of the products alone.
# Tiles of 8 to 16 MB differ by 1 in 100; those of 32 MB are a tenth slower, having left the cache when they are read.
CPU_TILE: Final = TileShape(tokens=2048, columns=2048)
# Large enough to fill any accelerator with one product, and 128 MiB of float32.
ACCELERATOR_TILE: Final = TileShape(tokens=4096, columns=8192)
# A sum of exponentials inside these limits lost nothing that counts: no term overflowed, and what underflowed was
# 10^-18 of the sum at most (float32 ends at 10^-38; 10^-20 leaves room for the terms beside the largest).
SUM_LIMITS: Final = (1e-20, 1e38)


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

    head = _TiledHead(weight, bias, num_columns=tile.columns, max_rows=min(tile.tokens, len(hidden)))
    logprobs = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
    for start in range(0, len(hidden), tile.tokens):
        rows = slice(start, start + tile.tokens)
        logprobs[rows] = head.logprobs(hidden[rows], targets[rows])
    return logprobs


class _TiledHead:
    """An output layer, and the memory of one tile of its logits."""

    def __init__(self, weight: "torch.Tensor", bias: "torch.Tensor | None", *, num_columns: int, max_rows: int) -> None:
        import torch

        self._weight, self._bias, self._num_columns = weight, bias, num_columns
        num_entries = max_rows * min(num_columns, len(weight))
        self._buffer = torch.empty(num_entries, dtype=torch.float32, device=weight.device)
        self._narrow = None if weight.dtype == torch.float32 else torch.empty_like(self._buffer, dtype=weight.dtype)

    def logprobs(self, hidden: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
        """Return the log-probabilities of the targets, in float32."""
        if hidden.device.type != "cpu":  # to look at a sum there is to wait for the device
            return self._with_running_max(hidden, targets)
        logprobs, is_right = self._as_they_stand(hidden, targets)
        (again,) = (~is_right).nonzero(as_tuple=True)
        if len(again):
            logprobs[again] = self._with_running_max(hidden[again], targets[again])
        return logprobs

    def _as_they_stand(self, hidden: "torch.Tensor", targets: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor]":
        """Return the log-probabilities, and which of them are right."""
        import torch

        total, target_logits = torch.zeros(2, len(hidden), dtype=torch.float32)
        # Sorted, the targets of a tile are neighbours: a handful of entries to pick, in place of one a row.
        ordered, rows = targets.sort()
        firsts = torch.arange(0, len(self._weight) + self._num_columns, self._num_columns)
        bounds = torch.searchsorted(ordered, firsts).tolist()
        for (start, logits), (first, end) in zip(self._tiles(hidden), pairwise(bounds), strict=True):
            here = rows[first:end]
            target_logits[here] = logits[here, ordered[first:end] - start]
            total += logits.exp_().sum(dim=1)
        smallest, largest = SUM_LIMITS
        return target_logits - total.log(), (total > smallest) & (total < largest)

    def _with_running_max(self, hidden: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
        import torch

        # The lowest number, not -infinity: a tile of nothing but -infinity would give -infinity - -infinity.
        lowest = torch.finfo(torch.float32).min
        running_max = torch.full((len(hidden),), lowest, dtype=torch.float32, device=hidden.device)
        running_sum, target_logits = torch.zeros_like(running_max), torch.zeros_like(running_max)
        for start, logits in self._tiles(hidden):
            _pick(logits, targets - start, target_logits)
            new_max = torch.maximum(running_max, logits.amax(dim=1))
            exponentials = logits.sub_(new_max.unsqueeze(1)).exp_()
            running_sum = running_sum * (running_max - new_max).exp_() + exponentials.sum(dim=1)
            running_max = new_max
        return target_logits - running_max - running_sum.log_()

    def _tiles(self, hidden: "torch.Tensor") -> "Iterator[tuple[int, torch.Tensor]]":
        """Go through the tiles of logits, each with its first column; the next one overwrites it."""
        import torch

        for start in range(0, len(self._weight), self._num_columns):
            columns = self._weight[start : start + self._num_columns]
            num_entries = len(hidden) * len(columns)
            logits = self._buffer[:num_entries].view(len(hidden), len(columns))
            if self._narrow is None:
                torch.mm(hidden, columns.T, out=logits)
            else:
                logits.copy_(torch.mm(hidden, columns.T, out=self._narrow[:num_entries].view_as(logits)))
            if self._bias is not None:
                logits += self._bias[start : start + self._num_columns]
            yield start, logits


def _pick(logits: "torch.Tensor", place: "torch.Tensor", target_logits: "torch.Tensor") -> None:
    """Take over the target's logit where the target is in this tile."""
    import torch

    picked = logits.gather(1, place.clamp(0, logits.shape[1] - 1).unsqueeze(1)).squeeze(1)
    torch.where((place >= 0) & (place < logits.shape[1]), picked, target_logits, out=target_logits)
