"""Scoring with vLLM: prompt log-probabilities of one engine, in a process of its own."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miniplm_assets.experiment import Scoring
from miniplm_assets.lm.scores import Scores, TokenRule, check_sequences, owners_of, sum_by_sequence
from miniplm_assets.lm.vllm_process import VllmEngine


class VllmScorer:
    """Scores sequences with a vLLM engine; a `Scorer`."""

    num_devices = 1

    def __init__(
        self,
        model_folder: Path,
        config: Any,
        *,
        scoring: Scoring,
        rule: TokenRule,
        max_sequence_tokens: int,
        max_positions: int | None,
        report: Callable[[str], None],
    ) -> None:
        """Start the engine.

        Raises:
            ModelError: if it does not start; with vLLM's own reason.
        """
        self._rule = rule
        self._vocab_size = int(config.vocab_size)
        self._max_sequence_tokens = max_sequence_tokens
        self._engine = VllmEngine(
            model_folder,
            config,
            scoring=scoring,
            task={"does": "score"},
            max_read_tokens=max_sequence_tokens + rule.num_first_tokens,
            max_positions=max_positions,
            report=report,
        )

    @property
    def session(self) -> int:
        """The process group that holds the engine."""
        return self._engine.session

    def score(self, sequences: Sequence[NDArray[np.int32]], sequence_ids: NDArray[np.int64]) -> Scores:
        """Return the scores of sequences, in the order given; see `Scorer.score`."""
        check_sequences(
            sequences, sequence_ids, vocab_size=self._vocab_size, max_sequence_tokens=self._max_sequence_tokens
        )
        sequences = self._rule.read(sequences)
        # A lone token is predicted by nothing, and would be an empty prompt.
        members = [place for place, token_ids in enumerate(sequences) if len(token_ids) > 1]
        if not members:
            return sum_by_sequence(np.empty(0, np.float32), np.empty(0, np.intp), sequence_ids)
        answer = self._engine.ask([sequences[place] for place in members], sequence_ids[members])
        logprobs = np.frombuffer(answer.values, dtype=np.float32)
        scored = np.concatenate([self._rule.scored(sequences[place]) for place in members])
        owners = np.array(members, dtype=np.intp)[owners_of(len(sequences[place]) - 1 for place in members)]
        return sum_by_sequence(logprobs[scored], owners[scored], sequence_ids)

    def close(self) -> None:
        """End the engine and every process that it started."""
        self._engine.close()
