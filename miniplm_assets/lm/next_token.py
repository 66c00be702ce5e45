"""Which token comes next, of several sequences side by side: the prompt's own, the likeliest one, or one that is drawn.

A token is drawn by one uniform number u in [0, 1): the first token up to which the probabilities add up to more than u
of their sum. The numbers of a sequence are those of a counter-based generator (Philox, Salmon et al. 2011), keyed by
the seed and the id of the sequence, one for each place; so none depends on what is drawn beside it or was before.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from miniplm_assets.experiment import Sampling

if TYPE_CHECKING:
    import torch

# Of 64 random bits, those that a float64 in [0, 1) has room for.
BITS: Final = 53


@dataclass(frozen=True, kw_only=True)
class TokenChoice:
    """How tokens are chosen, and when a sequence is finished.

    Attributes:
        sampling: with its seed, where tokens are drawn.
        vocab_size: ids from it on, which a model's embeddings may have, are never chosen.
        end_of_document_id: the token that ends what is written.
        max_sequence_tokens: the full length, prompt and continuation together.
    """

    sampling: Sampling
    vocab_size: int
    end_of_document_id: int
    max_sequence_tokens: int

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "sampling": self.sampling.model_dump()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "TokenChoice":
        """Return what `as_json` gave."""
        return cls(**{**values, "sampling": Sampling(**values["sampling"])})

    def is_finished(self, prompt: NDArray[np.int32]) -> bool:
        """Whether nothing follows a prompt: it ends a document, or is as long as anything gets."""
        return int(prompt[-1]) == self.end_of_document_id or len(prompt) >= self.max_sequence_tokens

    def cut(self, token_ids: NDArray[np.int32], num_prompt_tokens: int) -> NDArray[np.int32]:
        """Return a sequence without what was written behind the end of its document, while others went on."""
        (ends,) = np.nonzero(token_ids[num_prompt_tokens:] == self.end_of_document_id)
        return token_ids[: num_prompt_tokens + int(ends[0]) + 1] if len(ends) else token_ids

    def uniforms(self, sequence_ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the numbers in [0, 1) at which the tokens of some sequences are drawn, a column for each place."""
        assert self.sampling.seed is not None, "who draws has a seed"
        drawn = np.empty((len(sequence_ids), self.max_sequence_tokens))
        for row, sequence_id in zip(drawn, sequence_ids, strict=True):
            key = np.array([self.sampling.seed, sequence_id], dtype=np.uint64)
            bits: NDArray[np.uint64] = np.random.Philox(key=key).random_raw(len(row))
            row[:] = (bits >> np.uint64(64 - BITS)) * 2.0**-BITS
        return drawn


class Draw:
    """Draws tokens from the distributions that a model gives, narrowed as the settings say."""

    def __init__(self, sampling: Sampling) -> None:
        from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

        self._narrowed = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
        if sampling.top_k is not None:
            self._narrowed.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p is not None:
            self._narrowed.append(TopPLogitsWarper(sampling.top_p))

    def tokens(self, logits: "torch.Tensor", numbers: "torch.Tensor") -> "torch.Tensor":
        """Return the tokens at which the cumulated probabilities are cut.

        Args:
            logits: of shape (num_sequences, embeddings).
            numbers: float64 in [0, 1) of shape (num_sequences,).
        """
        import torch

        cumulated = torch.softmax(self._narrowed(None, logits), 1, dtype=torch.float64).cumsum(1)
        whole = cumulated[:, -1:].contiguous()
        # Below the sum, whatever rounding says: what has no probability is never drawn.
        at = torch.minimum(numbers.unsqueeze(1) * whole, torch.nextafter(whole, torch.zeros_like(whole)))
        return torch.searchsorted(cumulated, at, right=True).squeeze(1).clamp(max=logits.shape[1] - 1)


class BatchChoice:
    """Chooses the tokens of one batch, as transformers' `generate` asks for them.

    Attributes:
        is_broken: bool of shape (num_sequences,): where a token was chosen by what is not finite; on the device.
    """

    def __init__(
        self,
        choice: TokenChoice,
        *,
        prompts: NDArray[np.int64],
        lengths: NDArray[np.int64],
        sequence_ids: NDArray[np.int64],
        num_first_tokens: int,
        device: "torch.device",
        check: Callable[[], None],
    ) -> None:
        """Begin with nothing chosen.

        Args:
            choice: how.
            prompts: token ids of shape (num_sequences, longest).
            lengths: of each prompt, of shape (num_sequences,).
            sequence_ids: of the same shape.
            num_first_tokens: that the model reads in front of each.
            device: of the model.
            check: asked before each token; what it raises ends the generation.
        """
        import torch

        self._choice, self._num_first_tokens, self._check = choice, num_first_tokens, check
        self._prompts = torch.from_numpy(prompts).to(device)
        self._lengths = torch.from_numpy(lengths).to(device)
        self._is_done = torch.zeros(len(prompts), dtype=torch.bool, device=device)
        self.is_broken = self._is_done.clone()
        self._draw = Draw(choice.sampling) if choice.sampling.do_sample else None
        numbers = choice.uniforms(sequence_ids) if choice.sampling.do_sample else np.empty((len(prompts), 0))
        self._uniforms = torch.from_numpy(numbers).to(device)

    def next_tokens(self, read: "torch.Tensor", logits: "torch.Tensor") -> "torch.Tensor":
        """Return logits of which the token that comes next is the likeliest.

        Args:
            read: token ids of shape (num_sequences, num_first_tokens + place).
            logits: float32 of shape (num_sequences, embeddings), changed in place.
        """
        import torch

        self._check()
        place = read.shape[1] - self._num_first_tokens
        logits[:, self._choice.vocab_size :] = -torch.inf
        chosen = logits.argmax(1) if self._draw is None else self._draw.tokens(logits, self._uniforms[:, place])
        is_given = self._lengths > place
        self.is_broken |= ~logits.amax(1).isfinite() & ~is_given & ~self._is_done
        if place < self._prompts.shape[1]:
            chosen = torch.where(is_given, self._prompts[:, place], chosen)
        return torch.full_like(logits, -torch.inf).scatter_(1, chosen.unsqueeze(1), 0.0)

    def are_done(self, read: "torch.Tensor", _scores: object) -> "torch.Tensor":
        """Return which sequences have ended their document behind their prompt, as of the token just chosen."""
        place = read.shape[1] - self._num_first_tokens
        self._is_done |= (read[:, -1] == self._choice.end_of_document_id) & (self._lengths < place)
        return self._is_done
