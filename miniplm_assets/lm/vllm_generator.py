"""Generating with vLLM: one engine, in a process of its own, that continues as many prompts at once as it has room for.

Which token comes next is chosen as everywhere (`vllm_choice`). What is not the same from run to run is how vLLM puts
sequences side by side, and with it the last bit of a sum: of two tokens that are as likely as each other another one
may be taken.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miniplm_assets.core.errors import ScoringError
from miniplm_assets.experiment import Scoring
from miniplm_assets.lm.next_token import TokenChoice
from miniplm_assets.lm.scores import check_sequences
from miniplm_assets.lm.vllm_process import VllmEngine


class VllmGenerator:
    """Continues prompts with a vLLM engine; a `Generator`."""

    num_devices = 1

    def __init__(
        self,
        model_folder: Path,
        config: Any,
        *,
        scoring: Scoring,
        choice: TokenChoice,
        begin_of_sequence_id: int | None,
        max_positions: int | None,
        report: Callable[[str], None],
    ) -> None:
        """Start the engine.

        Args:
            model_folder: as `save_pretrained` writes it.
            config: the model's, of text.
            scoring: dtype and device.
            choice: how tokens are chosen, and when a sequence is finished.
            begin_of_sequence_id: the token that the model reads in front of every sequence, if any.
            max_positions: of the model; None where it has no limit.
            report: takes a line of progress.

        Raises:
            ModelError: if it does not start; with vLLM's own reason.
        """
        self._choice, self._vocab_size = choice, int(config.vocab_size)
        self._first = [] if begin_of_sequence_id is None else [begin_of_sequence_id]
        self._engine = VllmEngine(
            model_folder,
            config,
            scoring=scoring,
            task={"does": "generate", "num_first_tokens": len(self._first), "choice": choice.as_json()},
            max_read_tokens=choice.max_sequence_tokens + len(self._first),
            max_positions=max_positions,
            report=report,
        )

    @property
    def session(self) -> int:
        """The process group that holds the engine."""
        return self._engine.session

    def continued(
        self, prompts: Sequence[NDArray[np.int32]], sequence_ids: NDArray[np.int64]
    ) -> list[NDArray[np.int32]]:
        """Return each prompt with what follows it; see `Generator.continued`."""
        check_sequences(
            prompts,
            sequence_ids,
            vocab_size=self._vocab_size,
            max_sequence_tokens=self._choice.max_sequence_tokens,
        )
        whole = list(prompts)
        members = [place for place, prompt in enumerate(prompts) if not self._choice.is_finished(prompt)]
        if not members:
            return whole
        read = [np.array([*self._first, *prompts[place]], dtype=np.int32) for place in members]
        answer = self._engine.ask(read, sequence_ids[members])
        written = np.split(np.frombuffer(answer.values, dtype=np.int32), np.cumsum(answer.lengths)[:-1])
        for place, token_ids in zip(members, written, strict=True):
            whole[place] = np.concatenate([prompts[place], token_ids])
            if not self._choice.is_finished(whole[place]):
                raise ScoringError(
                    f"sequence {sequence_ids[place]}: vLLM wrote {len(token_ids):,} tokens, neither to the end of the "
                    f"document nor to the full length of {self._choice.max_sequence_tokens:,}; take backend torch"
                )
        return whole

    def close(self) -> None:
        """End the engine and every process that it started."""
        self._engine.close()
