"""A model that computes nothing, and is ready as soon as its process is: for tests of who asks whom."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from miniplm_assets.experiment import Scoring
from miniplm_assets.lm.scores import Scores


@dataclass(frozen=True)
class LightModel:
    """Settings of a scorer for which every token is worth a nat."""

    model_folder: Path
    scoring: Scoring = field(default_factory=Scoring)
    does: ClassVar[str] = "scorer"
    hint: ClassVar[str] = "none is needed"

    @contextmanager
    def open(self, _report: Callable[[str], None]) -> Iterator[Callable[..., Scores]]:
        """Give what scores."""
        yield self._scores

    @staticmethod
    def _scores(sequences: Sequence[np.ndarray], _sequence_ids: np.ndarray) -> Scores:
        num_scored = np.array([len(ids) - 1 for ids in sequences], np.int32)
        return Scores(
            logprob_nats=-num_scored.astype(np.float64),
            num_scored_tokens=num_scored,
            logprobs=np.full(num_scored.sum(), -1.0, np.float32),
            owners=np.repeat(np.arange(len(sequences)), num_scored),
        )
