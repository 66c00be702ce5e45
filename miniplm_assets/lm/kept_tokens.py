"""Ids of a model's own distribution for each scored token, from which a student learns that distribution later.

`sampled` draws them with replacement: for a uniform number u in [0, 1) the first id whose cumulative probability is
more than u, in float64, so that the share of an id among the draws is its probability in the mean (arXiv 2503.16870).
`top_k` takes the most likely ones, and leaves the tail out.

The uniform numbers are those of a counter: Philox with the key (seed, sequence_id), and the place in the sequence as
the counter. So a draw depends on nothing but these and the logits: on no batch, part, thread, worker or restart.

Only ids of the tokenizer are kept, and their probabilities are those among the ids of the tokenizer: a vocabulary that
is padded, to a multiple of 64 say, has logits that no piece of text stands for. The whole logits are there for some
hundred tokens at a time, and so the log-probability of the text's own token is taken from them too.
"""

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from miniplm_assets.core.errors import ScoringError
from miniplm_assets.experiment.scoring import KeepTokens
from miniplm_assets.lm.output_head import PlainHead
from miniplm_assets.lm.scores import KeptTokens

if TYPE_CHECKING:
    import torch

# Of logits in float32 at once; their cumulative sum takes twice as much beside it. More leaves a core's cache.
CPU_LOGITS_BYTES: Final = 1 << 22
ACCELERATOR_LOGITS_BYTES: Final = 1 << 28
# The 53 bits of a float64 in [0, 1), of the 64 that a counter gives.
UNUSED_BITS: Final = 11
UNIT: Final = 2.0**-53


class ScoredTokens(NamedTuple):
    """What some scored tokens give, on the device.

    Attributes:
        logprobs: of the text's own tokens, float32 of shape (num_tokens,), nats.
        token_ids: that are kept, int32 of shape (num_tokens, number).
        kept_logprobs: of these, float16 of the same shape, nats.
    """

    logprobs: "torch.Tensor"
    token_ids: "torch.Tensor"
    kept_logprobs: "torch.Tensor"


class TokenKeeper:
    """Keeps ids as the settings say.

    Args:
        keep: how many, and by which method.
        vocab_size: of the tokenizer.

    Raises:
        ScoringError: if more are to be kept than there are.
    """

    def __init__(self, keep: KeepTokens, *, vocab_size: int) -> None:
        if keep.method == "top_k" and keep.number > vocab_size:
            raise ScoringError(too_many(keep.number, vocab_size))
        self._keep, self._vocab_size = keep, vocab_size

    def uniforms(self, sequence_ids: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """Return the uniform numbers of some tokens, rising within each; None where nothing is drawn.

        Args:
            sequence_ids: of the sequence of each, of shape (num_tokens,); those of a sequence are neighbours.
            places: of the token before each in its sequence, of the same shape.

        Returns:
            float64 of shape (num_tokens, number).
        """
        if self._keep.method == "top_k":
            return None
        number = self._keep.number
        drawn = np.empty((len(places), number))
        borders = np.flatnonzero(np.diff(sequence_ids)) + 1
        for start, stop in pairwise([0, *borders.tolist(), len(places)]):
            if start == stop:
                continue
            key = np.array([self._keep.seed, int(sequence_ids[start]) % 2**64], dtype=np.uint64)
            here = places[start:stop]
            bits = np.random.Philox(key=key).random_raw((int(here.max()) + 1) * number)
            drawn[start:stop] = (bits >> np.uint64(UNUSED_BITS)).reshape(-1, number)[here] * UNIT
        return np.sort(drawn, axis=1)

    def score(
        self,
        states: "torch.Tensor",
        head: PlainHead | None,
        targets: "torch.Tensor",
        uniforms: NDArray[np.float64] | None,
    ) -> ScoredTokens:
        """Return the log-probabilities of tokens, and what is kept for each.

        Args:
            states: what the output layer is given, of shape (num_tokens, hidden_size); whole logits without a head.
            head: the output layer.
            targets: the text's own tokens, int64 of shape (num_tokens,).
            uniforms: of the tokens.
        """
        import torch

        width = states.shape[1] if head is None else len(head.weight)
        num_bytes = CPU_LOGITS_BYTES if states.device.type == "cpu" else ACCELERATOR_LOGITS_BYTES
        num_rows = max(1, num_bytes // (4 * width))
        found = []
        for start in range(0, len(states), num_rows):
            rows = slice(start, start + num_rows)
            logits = _logits(states[rows], head)
            drawn = None if uniforms is None else torch.from_numpy(uniforms[rows]).to(logits.device)
            found.append(self._of_rows(logits, targets[rows], drawn))
        if not found:
            shape = (0, self._keep.number)
            return ScoredTokens(
                torch.empty(0, device=states.device),
                torch.empty(shape, dtype=torch.int32, device=states.device),
                torch.empty(shape, dtype=torch.float16, device=states.device),
            )
        return ScoredTokens(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def _of_rows(
        self, logits: "torch.Tensor", targets: "torch.Tensor", uniforms: "torch.Tensor | None"
    ) -> ScoredTokens:
        """Return the same of some tokens' logits, float32, which are overwritten."""
        import torch

        known = logits[:, : self._vocab_size]
        logits -= known.amax(dim=1, keepdim=True)
        target_logits = logits.gather(1, targets.unsqueeze(1)).squeeze(1)
        weights = logits.exp()
        padding = weights[:, self._vocab_size :].sum(dim=1, dtype=torch.float64)
        if uniforms is None:
            total = weights[:, : self._vocab_size].sum(dim=1, keepdim=True, dtype=torch.float64)
            best, ids = known.topk(self._keep.number, dim=1)
        else:
            cumulative = weights[:, : self._vocab_size].cumsum(dim=1, dtype=torch.float64)
            total = cumulative[:, -1:]
            # The last id is for u * total that is rounded up to the total, and for NaN, which the sums will report.
            ids = torch.searchsorted(cumulative, uniforms * total, right=True).clamp_(max=known.shape[1] - 1)
            best = known.gather(1, ids)
        return ScoredTokens(
            (target_logits - (total.squeeze(1) + padding).log()).float(),
            ids.to(torch.int32),
            (best - total.log()).to(torch.float16),
        )

    def fetch(self, scored: list[ScoredTokens]) -> KeptTokens:
        """Return what is kept for tokens, off the device."""
        import torch

        number = self._keep.number
        if not scored:
            return KeptTokens(
                token_ids=np.empty((0, number), np.uint32), logprobs_nats=np.empty((0, number), np.float16)
            )
        token_ids = torch.cat([one.token_ids for one in scored]).cpu().numpy()
        logprobs = torch.cat([one.kept_logprobs for one in scored]).cpu().numpy()
        return KeptTokens(token_ids=token_ids.view(np.uint32), logprobs_nats=logprobs)


def too_many(number: int, vocab_size: int) -> str:
    """Say that more of the most likely ids are asked for than there are."""
    return (
        f"scoring.keep_tokens.number: top_k is to keep the {number:,} most likely ids, but the tokenizer has "
        f"{vocab_size:,}; set it to {vocab_size} or less"
    )


def _logits(states: "torch.Tensor", head: PlainHead | None) -> "torch.Tensor":
    import torch

    if head is None:
        return states.to(torch.float32, copy=True)
    logits: Any = torch.mm(states, head.weight.T).float()
    if head.bias is not None:
        logits += head.bias
    return logits  # type: ignore[no-any-return]
