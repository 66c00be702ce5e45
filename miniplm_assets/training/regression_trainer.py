"""Teaching a language model a number of each sequence, to the same weights however often it is interrupted.

A plain loop: AdamW on the mean squared error of standardised values, linear warm-up, cosine decay. Checkpoints are
those of `training.checkpoint`; on the CPU a resumed run has the bytes of an uninterrupted one. Imported when one is
trained.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import torch  # noqa: TID253 - nobody imports this module before a model is trained
from numpy.typing import NDArray

from miniplm_assets.core.errors import TrainingError
from miniplm_assets.core.flops import training_flops
from miniplm_assets.core.progressed import Progressed
from miniplm_assets.core.stop import Stop, Stopped
from miniplm_assets.experiment.proxy import ProxyTraining
from miniplm_assets.experiment.scoring import Scoring
from miniplm_assets.lm.memory import kept_memory
from miniplm_assets.lm.model_folder import load_model
from miniplm_assets.lm.scores import TokenRule
from miniplm_assets.storage.curves import Curves, NoCurves
from miniplm_assets.training.checkpoint import (
    Checkpoint,
    find_checkpoint,
    restore_model,
    restore_optimizer,
    restore_random_states,
    save_checkpoint,
)
from miniplm_assets.training.plan import TrainingPlan, plan_training
from miniplm_assets.training.progress import SECONDS_BETWEEN_REPORTS, readable_duration
from miniplm_assets.training.regression import Form, Predictor, Regression, autocast, save_regression, values_of
from miniplm_assets.training.token_file import TokenFile
from miniplm_assets.training.train import TRAINING_LOG
from miniplm_assets.training.training_curves import Pace

HELD_OUT: Final = "held_out.parquet"
LOG_SCHEMA: Final = {
    "step": pl.Int64,
    "num_tokens": pl.Int64,
    "training_error": pl.Float64,
    "learning_rate": pl.Float64,
    "seconds": pl.Float64,
}
# As the other models of this project are trained.
BETAS: Final = (0.9, 0.98)
EPSILON: Final = 1e-6
# Of the held-out ones, put into batches together.
SEQUENCES_AT_ONCE: Final = 4_096


@dataclass(frozen=True, kw_only=True)
class RegressionJob:
    """What is asked.

    Attributes:
        name: what messages call it.
        model_folder: the causal language model whose weights it begins with.
        training: budget, schedule and optimiser.
        rule: which tokens are read and scored.
        tokens: the sequences.
        values: float64, the number of each of them.
        is_held_out: bool of the same shape: those that are not learnt from.
        seed: of the order, and of the dropout where the model has one.
        fingerprint: identity of all of it; a checkpoint fits only the same.
        device: a torch device, or auto.
        tokens_per_batch: padded tokens at once where it predicts.
    """

    name: str
    model_folder: Path
    training: ProxyTraining
    rule: TokenRule
    tokens: TokenFile
    values: NDArray[np.float64]
    is_held_out: NDArray[np.bool_]
    seed: int
    fingerprint: str
    device: str
    tokens_per_batch: int


@kept_memory()
def train_regression(
    job: RegressionJob,
    *,
    work: Path,
    target: Path,
    report: Callable[[str], None],
    stop: Stop,
    curves: Curves | None = None,
) -> dict[str, Any]:
    """Train a model, and predict the held-out sequences with it.

    Args:
        job: what is asked.
        work: a folder that survives a crash; it belongs to this job.
        target: an existing folder for what `save_regression` writes, `training_log.parquet` (columns as in
            `LOG_SCHEMA`; training_error is the mean squared error of the standardised values since the row before) and
            `held_out.parquet` (sequence_id, num_scored_tokens, value, predicted_value).
        report: takes a line of progress.
        stop: says whether the run has been told to stop.
        curves: take what is worth looking at while it trains; absent where nobody looks.

    Returns:
        Facts: num_parameters, num_steps, num_tokens, num_epochs, num_learnt_sequences, num_held_out_sequences,
        num_held_out_tokens (those that are predicted by), training_error (the last row's), training_flops (6 N D),
        training_seconds, resumed_from_step, device.

    Raises:
        ModelError: if the model cannot be loaded, or has no body.
        TrainingError: if the values to learn are all the same, the error is not finite, or `work` holds the checkpoint
            of another job.
        Stopped: if the run has been told to stop; `work` then holds a checkpoint of the last step that was done.
    """
    learnt = np.flatnonzero(~job.is_held_out)
    values = job.values[learnt]
    form = Form(
        mean=float(values.mean()),
        deviation=float(values.std()),
        end_of_document_id=job.rule.end_of_document_id,
        score_after_end_of_document=job.rule.score_after_end_of_document,
        begin_of_sequence_id=job.rule.begin_of_sequence_id,
    )
    if form.deviation == 0:
        raise TrainingError(
            f"{job.name}: all {len(learnt):,} sequences to learn from have the same value, {form.mean:g}, so that "
            "there is nothing to learn; are teacher and reference the same model?"
        )
    run = _Run(job, form, learnt, work, report, stop, curves or NoCurves())
    with stop.held():  # a step is done or not; the run looks after each
        run.learn()
        held_out = run.held_out()
        save_regression(run.model, form, run.config, target)
        held_out.write_parquet(target / HELD_OUT)
        pl.DataFrame(run.rows, schema=LOG_SCHEMA).write_parquet(target / TRAINING_LOG)
    plan, num_parameters = run.plan, run.model.num_parameters
    return {
        "num_parameters": num_parameters,
        "num_steps": plan.num_steps,
        "num_tokens": plan.num_tokens,
        "num_epochs": round(plan.num_epochs, 4),
        "num_learnt_sequences": len(learnt),
        "num_held_out_sequences": len(held_out),
        "num_held_out_tokens": int(held_out["num_scored_tokens"].sum()),
        "training_error": run.rows[-1]["training_error"],
        "training_flops": training_flops(num_parameters, plan.num_tokens),
        "training_seconds": run.rows[-1]["seconds"],
        "resumed_from_step": run.checkpoint.step if run.checkpoint else None,
        "device": str(run.model.device),
    }


def learning_rate(training: ProxyTraining, step: int, num_steps: int) -> float:
    """Return the learning rate of a step: linear up to the peak, then half a cosine down to its share of it.

    Args:
        training: peak, final share and warm-up.
        step: from 1.
        num_steps: of the whole run.
    """
    warmup_steps = round(training.warmup_share * num_steps)
    if step <= warmup_steps:
        return training.peak_learning_rate * step / warmup_steps
    done = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    low = training.final_learning_rate_share
    return training.peak_learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * done)))


@dataclass
class _Run:
    """A training run and how far it is."""

    job: RegressionJob
    form: Form
    learnt: NDArray[np.intp]
    work: Path
    report: Callable[[str], None]
    stop: Stop
    curves: Curves
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        job, training = self.job, self.job.training
        self.plan: TrainingPlan = plan_training(
            job.tokens.num_tokens()[self.learnt],
            token_budget=training.token_budget,
            sequences_per_step=training.sequences_per_step,
            num_evaluations=1,
            seed=job.seed,
        )
        identity = {"fingerprint": job.fingerprint}
        self.checkpoint: Checkpoint | None = find_checkpoint(
            self.work, identity=identity, name=job.name, report=self.report
        )
        causal = load_model(job.model_folder, Scoring(device=job.device), self.report)
        self.config = causal.config
        self.model = Regression(causal)
        self._optimizer = torch.optim.AdamW(_groups(self.model, training.weight_decay), betas=BETAS, eps=EPSILON)
        torch.manual_seed(job.seed)
        # Squared errors since the last row of the log, and of how many sequences.
        self._error, self._num_sequences, self._seconds_before = 0.0, 0, 0.0
        if self.checkpoint is not None:
            state = self.checkpoint.load_state()
            self.rows = state["rows"]
            self._error, self._num_sequences = state["error"], state["num_sequences"]
            self._seconds_before = state["seconds"]
            restore_model(self.checkpoint, self.model)
            restore_optimizer(self.checkpoint, self._optimizer)
            restore_random_states(self.checkpoint)
        self._started = self._last_checkpoint = self._last_report = time.monotonic()

    def learn(self) -> None:
        """Do the steps that are left."""
        first = self.checkpoint.step if self.checkpoint else 0
        self.report(
            f"{self.job.name}: {self.model.num_parameters:,} parameters, {self.plan.num_steps:,} steps of "
            f"{self.plan.sequences_per_step:,} sequences, {self.plan.num_tokens:,} tokens ({self.plan.num_epochs:.2f} "
            f"epochs) on {self.model.device}" + (f"; going on after step {first:,}" if first else "")
        )
        self.model.train()
        self.curves.begin(first + 1)
        self._pace = Pace(int(self.plan.tokens_after_step[first - 1]) if first else 0)
        for step in range(first + 1, self.plan.num_steps + 1):
            self._do(step)
            self._after(step, first)

    def held_out(self) -> pl.DataFrame:
        """Return what the held-out sequences have, and what is predicted of them."""
        job, parts = self.job, []
        predictor = Predictor(
            model=self.model,
            form=self.form,
            dtype=job.training.dtype,
            tokens_per_batch=job.tokens_per_batch,
            look=self.stop.look,
        )
        places = np.flatnonzero(job.is_held_out)
        for start in range(0, len(places), SEQUENCES_AT_ONCE):
            here = places[start : start + SEQUENCES_AT_ONCE]
            ids = job.tokens.sequence_ids[here]
            predicted, num_scored = predictor.predict(self._sequences(here), ids)
            columns = {
                "sequence_id": ids,
                "num_scored_tokens": num_scored,
                "value": job.values[here],
                "predicted_value": predicted,
            }
            parts.append(pl.DataFrame(columns))
        return pl.concat(parts)

    def _do(self, step: int) -> None:
        """Take one step of the optimiser, and note its error."""
        job, size = self.job, self.plan.sequences_per_step
        rows = self.learnt[self.plan.order[(step - 1) * size : step * size]]
        at_once = min(job.training.sequences_per_device or size, size)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(job.training, step, self.plan.num_steps)
        self._optimizer.zero_grad()
        error = torch.zeros((), device=self.model.device)
        for start in range(0, len(rows), at_once):
            here = rows[start : start + at_once]
            wanted = torch.from_numpy(((job.values[here] - self.form.mean) / self.form.deviation).astype(np.float32))
            with autocast(self.model.device, job.training.dtype):
                sequences = job.rule.read(self._sequences(here))
                given = values_of(self.model, sequences, np.arange(len(here)), job.rule)
            squared = (given - wanted.to(self.model.device)).square().sum()
            (squared / len(rows)).backward()  # type: ignore[no-untyped-call]
            error += squared.detach()
        self._gradient_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), job.training.gradient_clip)
        self._optimizer.step()
        self._error += float(error)
        self._num_sequences += len(rows)
        if not math.isfinite(self._error):
            raise TrainingError(
                f"{job.name}: the error of step {step:,} is {float(error)}; lower proxy.training.peak_learning_rate"
                + ("" if job.training.dtype == "float32" else ", or set proxy.training.dtype to float32")
            )

    def _after(self, step: int, first: int) -> None:
        """Write the log, say how far it is, and write a checkpoint, where one is due or the run is told to stop."""
        is_last, now = step == self.plan.num_steps, time.monotonic()
        mean_error = self._error / self._num_sequences
        if is_last or now - self._last_report >= SECONDS_BETWEEN_REPORTS:
            left = (now - self._started) / (step - first) * (self.plan.num_steps - step)
            line = (
                f"step {step:,} of {self.plan.num_steps:,}, mean squared error {mean_error:.4f} of the variance, "
                f"{readable_duration(left)} left"
            )
            self.report(Progressed(line, done=step, total=self.plan.num_steps))
            self._last_report = now
        if step in self.plan.log_steps:
            self.rows.append(self._row(step, mean_error))
            self._error, self._num_sequences = 0.0, 0
        is_due = now - self._last_checkpoint >= 60 * self.job.training.checkpoint_minutes
        # After the last step too: what follows may be stopped.
        if is_due or is_last or self.stop.is_asked:
            self._save(step)
            self._last_checkpoint = time.monotonic()
        try:
            self.stop.look()
        except Stopped:
            self.report(f"told to stop: a checkpoint holds all up to step {step:,} of {self.plan.num_steps:,}")
            raise

    def _row(self, step: int, mean_error: float) -> dict[str, Any]:
        """Show a step to who watches, and return its row of the log."""
        num_tokens, rate = int(self.plan.tokens_after_step[step - 1]), self._optimizer.param_groups[0]["lr"]
        pace, norm = self._pace.tokens_per_second(num_tokens), float(self._gradient_norm)
        shown = {"error": mean_error, "learning_rate": rate, "tokens_per_second": pace, "gradient_norm": norm}
        self.curves.add(step, {f"training/{name}": value for name, value in shown.items()})
        return dict(zip(LOG_SCHEMA, (step, num_tokens, mean_error, rate, self._seconds()), strict=True))

    def _save(self, step: int) -> None:
        save_checkpoint(
            self.work,
            step=step,
            identity={"fingerprint": self.job.fingerprint},
            state={
                "rows": self.rows,
                "error": self._error,
                "num_sequences": self._num_sequences,
                "seconds": self._seconds(),
            },
            model=self.model,
            optimizer_state=self._optimizer.state_dict(),
        )

    def _sequences(self, places: NDArray[np.intp]) -> list[NDArray[np.int32]]:
        return [self.job.tokens.row(int(place)).token_ids.astype(np.int32) for place in places]

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started


def _groups(model: Regression, weight_decay: float) -> list[dict[str, Any]]:
    """Return the parameters of a model, those that weight decay is applied to first: matrices."""
    parameters = list(model.parameters())
    return [
        {"params": [one for one in parameters if one.ndim > 1], "weight_decay": weight_decay},
        {"params": [one for one in parameters if one.ndim <= 1], "weight_decay": 0.0},
    ]
