"""A training run, and how far it is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from miniplm_assets.core.stop import Stop
from miniplm_assets.lm.architectures import build_model
from miniplm_assets.storage.curves import Curves, NoCurves
from miniplm_assets.training.checkpoint import Checkpoint
from miniplm_assets.training.held_out import HeldOut
from miniplm_assets.training.job import TrainingJob
from miniplm_assets.training.journal import Journal
from miniplm_assets.training.plan import TrainingPlan
from miniplm_assets.training.processes import Processes
from miniplm_assets.training.sharding import Sharding, gathered_optimizer_state, gathered_weights

# Of the sequences of a step, in a message.
MAX_NAMED: Final = 10


@dataclass
class Course:
    """A training run and how far it is: what the trainer and its callback share.

    Attributes:
        job: what is asked.
        work: for checkpoints; survives a crash.
        plan: which sequences, in which order, and when losses are looked at.
        sequence_ids: int64, of the rows that the plan draws.
        measured: the settings that the held-out losses are measured by.
        held_out: measures them.
        report: takes a line of progress.
        stop: says whether the run has been told to stop.
        curves: take what is worth looking at while it trains.
        checkpoint: where the run goes on from.
        gradient_norm: of the latest step, before clipping; it may be on its way on the device. None before one.
        journal: the training log.
        seconds_before: spent training before an interruption.
        loss_scaler: of float16, torch's; None for other dtypes.
        processes: who trains with this one.
        sharding: spreads the model over them; None where each holds all of it.
    """

    job: TrainingJob
    work: Path
    plan: TrainingPlan
    sequence_ids: NDArray[np.int64]
    measured: Mapping[str, int]
    held_out: HeldOut
    report: Callable[[str], None]
    stop: Stop
    curves: Curves = field(default_factory=NoCurves)
    checkpoint: Checkpoint | None = None
    gradient_norm: Any = None
    journal: Journal = field(default_factory=Journal)
    seconds_before: float = 0.0
    loss_scaler: Any = None
    processes: Processes = field(default_factory=Processes)
    sharding: Sharding | None = None

    def __post_init__(self) -> None:
        if self.checkpoint is not None:
            carried = self.checkpoint.load_state()
            self.journal = Journal.from_json(carried["journal"])
            self.held_out.rows = carried["held_out"]
            self.seconds_before = float(carried["seconds"])
        self.journal.sequences_of = self._sequences_of
        self.journal.max_rise = self.job.training.max_loss_rise_nats_per_token

    @property
    def first_step(self) -> int:
        """Steps that are done when this leg begins."""
        return self.checkpoint.step if self.checkpoint else 0

    def whole(self, model: Any) -> Any:
        """Return a model with all weights, for the first process alone where it is spread; all of them must ask."""
        if self.sharding is None:
            return model
        return gathered_weights(model, self._plain_model, is_kept=self.processes.is_first)

    def whole_optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """Return the state of the optimiser, likewise."""
        if self.sharding is None:
            return dict(optimizer.state_dict())
        return gathered_optimizer_state(optimizer, is_kept=self.processes.is_first)

    def _plain_model(self) -> Any:
        job = self.job
        return build_model(
            job.architecture,
            vocab_size=job.vocab_size,
            end_of_document_id=job.end_of_document_id,
            max_sequence_tokens=job.max_sequence_tokens,
            seed=job.seed,
        )

    def _sequences_of(self, step: int) -> str:
        """Name the sequences of a step."""
        size = self.plan.sequences_per_step
        rows = self.plan.order[(step - 1) * size : step * size]
        named = ", ".join(str(self.sequence_ids[row]) for row in rows[:MAX_NAMED])
        return named if len(rows) <= MAX_NAMED else f"{named} and {len(rows) - MAX_NAMED:,} more"
