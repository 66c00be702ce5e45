"""The next token of a sequence in vLLM, chosen as elsewhere: what vLLM itself would draw is left aside.

vLLM takes the likeliest token of what this leaves: of the model's own logits without the ids that no tokenizer has,
or of a distribution that is nothing but the token that was drawn. Loaded by name in each of vLLM's workers.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch  # noqa: TID253 - nobody but vLLM's workers imports this module
from numpy.typing import NDArray
from vllm.v1.sample.logits_processor import LogitsProcessor  # noqa: TID253 - as above
from vllm.v1.sample.logits_processor.builtin import process_dict_updates  # noqa: TID253 - as above

from miniplm_assets.lm.next_token import Draw, TokenChoice

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig
    from vllm.v1.sample.logits_processor import BatchUpdate


@dataclass(frozen=True)
class _Sequence:
    """One that is being written.

    Attributes:
        sequence_id: of it.
        num_prompt_tokens: its own, without what is read in front.
        written: the tokens so far, which vLLM adds to.
        numbers: float64 in [0, 1), one for each place; none where nothing is drawn.
    """

    sequence_id: int
    num_prompt_tokens: int
    written: list[int]
    numbers: NDArray[np.float64]


class ChosenTokens(LogitsProcessor):  # type: ignore[misc]  # vLLM has no types
    """Leaves of each row of logits what the likeliest token of is the next one."""

    def __init__(self, vllm_config: "VllmConfig", device: "torch.device", is_pin_memory: bool) -> None:
        """Take what `vllm_engine` says in vLLM's additional_config."""
        del is_pin_memory
        task: dict[str, Any] = vllm_config.additional_config["miniplm"]
        self._choice = TokenChoice.from_json(task["choice"])
        self._num_first_tokens = int(task["num_first_tokens"])
        self._draw = Draw(self._choice.sampling) if self._choice.sampling.do_sample else None
        self._device = device
        self._sequences: dict[int, _Sequence] = {}

    def is_argmax_invariant(self) -> bool:
        """Return that the likeliest token is another one afterwards."""
        return False

    def update_state(self, batch_update: "BatchUpdate | None") -> None:
        """Follow which row is which sequence's."""
        process_dict_updates(self._sequences, batch_update, self._begun)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the logits, changed in place, of shape (num_sequences, embeddings).

        Raises:
            ValueError: if they are not finite, naming the sequence.
        """
        logits[:, self._choice.vocab_size :] = -torch.inf
        rows = sorted(row for row in self._sequences if row < logits.shape[0])
        if not rows:  # vLLM tries itself out before anything is asked
            return logits
        is_broken = ~logits[rows].amax(1).isfinite()
        if is_broken.any():
            broken = self._sequences[rows[int(is_broken.nonzero()[0])]]
            raise ValueError(
                f"sequence {broken.sequence_id}: what the teacher says of its next token is not finite; its weights "
                "hold NaN or infinity, or overflow in this dtype: try dtype float32"
            )
        if self._draw is not None:
            numbers = torch.tensor([self._next_number(self._sequences[row]) for row in rows], dtype=torch.float64)
            chosen = self._draw.tokens(logits[rows], numbers.to(self._device))
            logits[rows] = -torch.inf
            logits[rows, chosen] = 0.0
        return logits

    def _begun(self, parameters: "SamplingParams", prompt: list[int] | None, written: list[int]) -> _Sequence | None:
        if not parameters.extra_args or prompt is None:
            return None
        sequence_id = int(parameters.extra_args["sequence_id"])
        numbers = np.empty(0) if self._draw is None else self._choice.uniforms(np.array([sequence_id]))[0]
        return _Sequence(sequence_id, len(prompt) - self._num_first_tokens, written, numbers)

    def _next_number(self, sequence: _Sequence) -> float:
        return float(sequence.numbers[sequence.num_prompt_tokens + len(sequence.written)])
