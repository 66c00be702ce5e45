"""Continuations of texts, drawn a token at a time from a mixture of two models that read side by side.

Texts of one batch end at different places, and are padded at neither side: all are read up to where the shortest ends,
and then a token of each at a time, its own as long as it has some. So any causal model can be read, with attention or
without, at the price of a step for each token by which the longest text is longer than the shortest.
"""

import inspect
import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    import torch

# What models of transformers call what they have read.
CACHES: Final = ("past_key_values", "cache_params")


class Continuations(NamedTuple):
    """Texts, and what was drawn behind them.

    Attributes:
        token_ids: int64 of shape (sequences, width): a text, its continuation, and padding.
        is_sampled: bool of the same shape: which of them were drawn.
        log_p: float32 of the same shape: nats of the teacher for those; 0 elsewhere.
        log_q: of the student.
    """

    token_ids: "torch.Tensor"
    is_sampled: "torch.Tensor"
    log_p: "torch.Tensor"
    log_q: "torch.Tensor"


class Reader:
    """A model that reads the texts of a batch on from where it stopped.

    Args:
        model: in evaluation mode.
        vocab_size: of the tokenizer; logits beyond are padding.
        begin_of_sequence_id: the token that the model reads in front of every text, if any.
        keeps_dtype: whether it computes in the dtype of its weights, whatever dtype is trained in.
    """

    def __init__(
        self, model: Any, *, vocab_size: int, begin_of_sequence_id: int | None = None, keeps_dtype: bool = False
    ) -> None:
        self._model, self._vocab_size, self._first = model, vocab_size, begin_of_sequence_id
        self._keeps_dtype = keeps_dtype
        takes = inspect.signature(model.forward).parameters
        self._cache_name = next((name for name in CACHES if name in takes), None)
        # Else the logits of a whole text are computed, and all but its last are thrown away.
        self._last_alone: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        self._cache: Any = None
        self._read: torch.Tensor | None = None

    def read(self, token_ids: "torch.Tensor") -> "torch.Tensor":
        """Return log-probabilities of the token that comes next, float32 of shape (sequences, vocab_size).

        Args:
            token_ids: int64 of shape (sequences, num_new): what comes behind that which was read before.
        """
        import torch

        if self._read is None and self._first is not None:
            token_ids = torch.cat([torch.full_like(token_ids[:, :1], self._first), token_ids], dim=1)
        if self._cache_name is None and self._read is not None:
            token_ids = torch.cat([self._read, token_ids], dim=1)
        self._read = token_ids
        device_type = token_ids.device.type
        is_mixed = torch.is_autocast_enabled(device_type) and not self._keeps_dtype
        with torch.no_grad(), torch.autocast(device_type, enabled=is_mixed):
            if self._cache_name is None:
                output = self._model(input_ids=token_ids, use_cache=False, **self._last_alone)
            else:
                carried = {} if self._cache is None else {self._cache_name: self._cache}
                output = self._model(input_ids=token_ids, use_cache=True, **carried, **self._last_alone)
                self._cache = output[self._cache_name]
            return torch.log_softmax(output.logits[:, -1, : self._vocab_size].float(), dim=1)


def mixed_log_probabilities(log_p: "torch.Tensor", log_q: "torch.Tensor", teacher_mix: float) -> "torch.Tensor":
    """Return log(teacher_mix * p + (1 - teacher_mix) * q)."""
    import torch

    if teacher_mix == 0:
        return log_q
    return torch.logaddexp(log_p + math.log(teacher_mix), log_q + math.log1p(-teacher_mix))


def draw_continuations(
    student: Reader,
    teacher: Reader,
    *,
    texts: "torch.Tensor",
    text_lengths: "torch.Tensor",
    max_lengths: "torch.Tensor",
    uniforms: "torch.Tensor",
    teacher_mix: float,
    end_of_document_id: int,
) -> Continuations:
    """Continue each text by tokens of the mixture, up to and with an end-of-document token.

    Args:
        student: q; has read nothing.
        teacher: p; likewise.
        texts: int64 of shape (sequences, longest), padded at the right.
        text_lengths: int64 of shape (sequences,), at least 1.
        max_lengths: int64 of shape (sequences,): of the continuations, at least 1.
        uniforms: float64 of shape (sequences, longest continuation), from [0, 1): each token is drawn by its own.
        teacher_mix: alpha, as in `mixed_log_probabilities`.
        end_of_document_id: nothing is drawn behind it; also the padding.
    """
    import torch

    num_sequences = len(texts)
    ends = text_lengths + max_lengths
    first, width = int(text_lengths.min()), int(ends.max())
    token_ids = texts.new_full((num_sequences, width), end_of_document_id)
    token_ids[:, : texts.shape[1]] = texts[:, :width]
    is_sampled = torch.zeros_like(token_ids, dtype=torch.bool)
    sampled_log_p = torch.zeros_like(token_ids, dtype=torch.float32)
    sampled_log_q = torch.zeros_like(sampled_log_p)
    is_open = torch.ones_like(text_lengths, dtype=torch.bool)
    seen = 0
    for place in range(first, width):
        log_p, log_q = (model.read(token_ids[:, seen:place]) for model in (teacher, student))
        seen = place
        number = (place - text_lengths).clamp(0, uniforms.shape[1] - 1).unsqueeze(1)
        drawn = _draw(mixed_log_probabilities(log_p, log_q, teacher_mix), uniforms.gather(1, number))
        is_here = is_open & (place >= text_lengths)
        token_ids[:, place] = torch.where(is_here, drawn.squeeze(1), token_ids[:, place])
        is_sampled[:, place] = is_here
        sampled_log_p[:, place] = torch.where(is_here, log_p.gather(1, drawn).squeeze(1), 0.0)
        sampled_log_q[:, place] = torch.where(is_here, log_q.gather(1, drawn).squeeze(1), 0.0)
        is_open &= ~is_here | ((token_ids[:, place] != end_of_document_id) & (place + 1 < ends))
        if not is_open.any():
            break
    kept = slice(0, place + 1)
    return Continuations(token_ids[:, kept], is_sampled[:, kept], sampled_log_p[:, kept], sampled_log_q[:, kept])


def _draw(log_probabilities: "torch.Tensor", uniforms: "torch.Tensor") -> "torch.Tensor":
    """Return where the cumulated probabilities pass the uniforms, int64 of shape (sequences, 1)."""
    import torch

    cumulated = torch.cumsum(log_probabilities.double().exp_(), dim=1)
    drawn = torch.searchsorted(cumulated, uniforms * cumulated[:, -1:], right=True)
    return drawn.clamp_(max=log_probabilities.shape[1] - 1)
