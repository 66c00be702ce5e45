"""The training log: what every loss was, exactly, however often the run was interrupted.

The losses of the steps since the last row wait on the device; asking for each at once would stall an
accelerator. They are summed in float64 when a row is due, and what waits travels in the checkpoint, so
that a resumed run writes the same rows.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from miniplm_assets.core.errors import TrainingError

if TYPE_CHECKING:
    import torch

SCHEMA = {
    "step": pl.Int64,
    "num_tokens": pl.Int64,
    "training_nll_nats_per_token": pl.Float64,
    "held_out_nll_nats_per_token": pl.Float64,
    "learning_rate": pl.Float64,
    "seconds": pl.Float64,
}


class Journal:
    """Rows of the training log, and the losses that are not in a row yet.

    Attributes:
        rows: one dictionary a row, keys as in `SCHEMA`.
        over_processes: sums a tensor over all processes that train together; one alone has it already.
    """

    def __init__(self) -> None:
        self.over_processes: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor
        self.rows: list[dict[str, Any]] = []
        self._waiting: list[tuple[int, torch.Tensor, torch.Tensor]] = []
        self._collected: list[tuple[float, int]] = []

    def record(self, step: int, *, nll_nats: "torch.Tensor", num_predicted: "torch.Tensor") -> None:
        """Note the loss of some sequences of a step, as scalars that may still be on their way on the device."""
        self._waiting.append((step, nll_nats.detach(), num_predicted))

    def collect(self) -> None:
        """Fetch the waiting losses.

        Raises:
            TrainingError: if one is not finite; names the step.
        """
        if not self._waiting:
            return
        import torch

        steps = [step for step, _, _ in self._waiting]
        nats, counts = (
            self.over_processes(torch.stack([one[place] for one in self._waiting])).tolist()  # type: ignore[misc]
            for place in (1, 2)
        )
        self._waiting = []
        for step, nll_nats in zip(steps, nats, strict=True):
            if not math.isfinite(nll_nats):
                raise TrainingError(
                    f"step {step:,}: the loss is {nll_nats}. The training has diverged: lower peak_learning_rate, "
                    "raise warmup_share, or train in float32."
                )
        self._collected.extend(zip(nats, counts, strict=True))

    def latest_nats_per_token(self) -> float:
        """Return the training loss over what was recorded since the last row (the last row's where nothing was).

        Raises:
            TrainingError: if a loss is not finite; names the step.
        """
        self.collect()
        if not self._collected:
            return float(self.rows[-1]["training_nll_nats_per_token"])
        num_predicted = sum(count for _, count in self._collected)
        return math.fsum(nats for nats, _ in self._collected) / max(1, num_predicted)

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
        training_nll = self.latest_nats_per_token()
        self.rows.append(
            {
                "step": step,
                "num_tokens": num_tokens,
                "training_nll_nats_per_token": training_nll,
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
        journal._collected = [(nats, count) for nats, count in content["collected"]]
        return journal

    def write_parquet(self, path: Path) -> None:
        """Write the rows, in order."""
        pl.DataFrame(self.rows, schema=SCHEMA).write_parquet(path)
