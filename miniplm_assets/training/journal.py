"""The training log: what every loss was, exactly, however often the run was interrupted.

The losses of the steps since the last row wait on the device; asking for each at once would stall an
accelerator. They are summed in float64 when a row is due, and what waits travels in the checkpoint, so
that a resumed run writes the same rows.
"""

import math
import statistics
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from miniplm_assets.core.errors import TrainingError

if TYPE_CHECKING:
    import torch

SCHEMA = {
    "step": pl.Int64,
    "num_tokens": pl.Int64,
    "training_nll_nats_per_token": pl.Float64,
    "objective_nats_per_token": pl.Float64,
    "held_out_nll_nats_per_token": pl.Float64,
    "learning_rate": pl.Float64,
    "seconds": pl.Float64,
}


# How many steps a rise of the loss is measured against, and how many at least.
NUM_BEFORE: Final = 100
MIN_BEFORE: Final = 10


class Journal:
    """Rows of the training log, and the losses that are not in a row yet.

    Attributes:
        rows: one dictionary a row, keys as in `SCHEMA`.
        over_processes: sums a tensor over all processes that train together; one alone has it already.
        sequences_of: names the sequences of a step, for messages.
        max_rise: of a step's loss above the median of those before it, in nats a token; None where any is taken.
    """

    def __init__(self) -> None:
        self.over_processes: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor
        self.rows: list[dict[str, Any]] = []
        self.sequences_of: Callable[[int], str] = lambda step: f"of step {step}"
        self.max_rise: float | None = None
        self._waiting: list[tuple[int, torch.Tensor]] = []
        self._waiting_norms: list[tuple[int, torch.Tensor]] = []
        self._before: deque[float] = deque(maxlen=NUM_BEFORE)
        self._collected: list[tuple[float, float, float]] = []

    def record(
        self, step: int, *, nats: "torch.Tensor", nll_nats: "torch.Tensor", num_predicted: "torch.Tensor"
    ) -> None:
        """Note the loss of some sequences of a step, as scalars that may still be on their way on the device.

        Args:
            step: from 1.
            nats: of the objective, summed over the predicted tokens.
            nll_nats: cross-entropy, over the same.
            num_predicted: how many these are.
        """
        import torch

        # float32, since not every device has more: it holds a count up to 2^24, and a batch has fewer tokens.
        self._waiting.append((step, torch.stack([one.detach().float() for one in (nats, nll_nats, num_predicted)])))

    def record_gradient_norm(self, step: int, norm: "torch.Tensor") -> None:
        """Note the norm of a step's gradient, the same in all processes, which may still be on its way."""
        self._waiting_norms.append((step, norm.detach()))

    def collect(self) -> None:
        """Fetch the waiting losses, of whole steps.

        Raises:
            TrainingError: if one, or a gradient, is not finite, or has risen too far; names the step and its sequences.
        """
        if not self._waiting:
            return
        import torch

        steps = [step for step, _ in self._waiting]
        losses = self.over_processes(torch.stack([loss for _, loss in self._waiting])).tolist()
        self._waiting = []
        of_step: dict[int, list[tuple[float, float]]] = {}
        for step, (nats, nll_nats, num_predicted) in zip(steps, losses, strict=True):
            if not (math.isfinite(nats) and math.isfinite(nll_nats)):
                raise self._diverged(step, f"the loss is {nats}")
            self._collected.append((nats, nll_nats, num_predicted))
            of_step.setdefault(step, []).append((nats, num_predicted))
        for step, parts in of_step.items():
            self._require_no_rise(step, sum(nats for nats, _ in parts) / max(1, sum(number for _, number in parts)))
        for step, norm in self._waiting_norms:
            if not math.isfinite(norm):
                raise self._diverged(step, f"the norm of the gradient is {float(norm)}")
        self._waiting_norms = []

    def _require_no_rise(self, step: int, nats_per_token: float) -> None:
        if self.max_rise is not None and len(self._before) >= MIN_BEFORE:
            usual = statistics.median(self._before)
            if nats_per_token > usual + self.max_rise:
                raise self._diverged(
                    step,
                    f"the loss is {nats_per_token:.3f} nats a token, more than max_loss_rise_nats_per_token "
                    f"({self.max_rise:g}) above {usual:.3f}, the median of the {len(self._before)} steps before",
                )
        self._before.append(nats_per_token)

    def _diverged(self, step: int, how: str) -> TrainingError:
        return TrainingError(
            f"step {step:,}: {how}. The training has diverged: lower peak_learning_rate, raise warmup_share, or train "
            f"in float32. The last checkpoint is of before. The step learned from sequences {self.sequences_of(step)}."
        )

    def latest_nats_per_token(self) -> float:
        """Return the training loss over what was recorded since the last row (the last row's where nothing was).

        Raises:
            TrainingError: if a loss is not finite; names the step.
        """
        return self.latest()[1]

    def latest(self) -> tuple[float, float]:
        """Return the mean of the objective and the training loss since the last row; the last row's for nothing.

        Raises:
            TrainingError: if a loss is not finite; names the step.
        """
        self.collect()
        if not self._collected:
            last = self.rows[-1]
            return float(last["objective_nats_per_token"]), float(last["training_nll_nats_per_token"])
        nats, nll_nats, num_predicted = (math.fsum(values) for values in zip(*self._collected, strict=True))
        return nats / max(1, num_predicted), nll_nats / max(1, num_predicted)

    def write_row(
        self, *, step: int, num_tokens: int, held_out_nll: float | None, learning_rate: float, seconds: float
    ) -> None:
        """Close a row over everything that was recorded since the last one.

        Args:
            step: steps done.
            num_tokens: tokens of the sequences trained on so far.
            held_out_nll: held-out loss in nats per token, or None where it was not measured.
            learning_rate: of this step.
            seconds: spent training so far, interruptions not counted.

        Raises:
            TrainingError: if a loss is not finite; names the step.
        """
        objective_nats, training_nll = self.latest()
        self.rows.append(
            {
                "step": step,
                "num_tokens": num_tokens,
                "training_nll_nats_per_token": training_nll,
                "objective_nats_per_token": objective_nats,
                "held_out_nll_nats_per_token": held_out_nll,
                "learning_rate": learning_rate,
                "seconds": round(seconds, 3),
            }
        )
        self._collected = []

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values, for a checkpoint.

        Raises:
            TrainingError: if a loss is not finite; names the step.
        """
        self.collect()
        return {"rows": self.rows, "collected": self._collected}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Journal":
        """Return the journal that `to_json` described."""
        journal = cls()
        journal.rows = content["rows"]
        journal._collected = [(nats, nll_nats, num_predicted) for nats, nll_nats, num_predicted in content["collected"]]
        return journal

    def write_parquet(self, path: Path) -> None:
        """Write the rows, in order."""
        pl.DataFrame(self.rows, schema=SCHEMA).write_parquet(path)
