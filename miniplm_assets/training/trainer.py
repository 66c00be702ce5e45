"""transformers' Trainer, with the four things that this project does otherwise.

1. The loss is the mean over the predicted tokens of a whole step; padding and the token after an
   end-of-document token are not predicted.
2. Checkpoints hold safetensors and JSON, no pickle, and are complete or invisible.
3. The log, the held-out loss and the progress come from one place, at planned steps.
4. Nothing is printed, and nothing is sent anywhere.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from miniplm_assets.core.errors import TrainingError
from miniplm_assets.training.checkpoint import (
    Checkpoint,
    restore_model,
    restore_optimizer,
    restore_random_states,
    save_checkpoint,
)
from miniplm_assets.training.job import TrainingJob
from miniplm_assets.training.journal import Journal
from miniplm_assets.training.plan import TrainingPlan
from miniplm_assets.training.progress import Progress
from miniplm_assets.training.token_file import TokenFile

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, Trainer, TrainingArguments

# What torch's cross-entropy leaves out.
NO_LOSS = -100
# transformers seeds NumPy's old generator too, which takes no more.
_MAX_SEED = 2**32


@dataclasses.dataclass(frozen=True)
class DrawnSequences:
    """The sequences of a run in the order in which they are learned from: a map-style torch data set."""

    tokens: TokenFile
    order: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> NDArray[np.int64]:
        return self.tokens.sequence(int(self.order[place]))


def make_batch(sequences: Sequence[NDArray[np.int64]], *, end_of_document_id: int) -> dict[str, "torch.Tensor"]:
    """Put sequences t_0 .. t_n into one batch: inputs t_0 .. t_(n-1), labels t_1 .. t_n, padded on the right.

    No attention mask: a causal model sees nothing to the right, so that padding changes no prediction.

    Returns:
        `input_ids` and `labels`, int64 of shape (sequences, longest - 1); labels are `NO_LOSS` at padding
        and after an end-of-document token, as published.
    """
    import torch

    width = max(len(token_ids) for token_ids in sequences) - 1
    input_ids = np.full((len(sequences), width), end_of_document_id, dtype=np.int64)
    labels = np.full((len(sequences), width), NO_LOSS, dtype=np.int64)
    for row, token_ids in enumerate(sequences):
        input_ids[row, : len(token_ids) - 1] = token_ids[:-1]
        labels[row, : len(token_ids) - 1] = token_ids[1:]
    labels[input_ids == end_of_document_id] = NO_LOSS
    return {"input_ids": torch.from_numpy(input_ids), "labels": torch.from_numpy(labels)}


def make_trainer(
    job: TrainingJob,
    *,
    work: Path,
    model: "PreTrainedModel",
    tokens: TokenFile,
    plan: TrainingPlan,
    measure_held_out: "Callable[[PreTrainedModel], float]",
    report: Callable[[str], None],
    checkpoint: Checkpoint | None,
) -> "tuple[Trainer, Journal]":
    """Set up the training of a model.

    Args:
        job: what is asked.
        work: for checkpoints; survives a crash.
        model: the model, its weights still random.
        tokens: the sequences.
        plan: their order.
        measure_held_out: returns the held-out loss in nats per token.
        report: takes a line of progress.
        checkpoint: where to go on from.

    Returns:
        The trainer, to be started with ``train(resume_from_checkpoint=...)``, and the journal that it fills.

    Raises:
        TrainingError: if bfloat16 is asked for and the device does not have it.
    """
    import torch
    from transformers import PrinterCallback, Trainer, TrainerCallback

    identity = job.identity()
    carried = checkpoint.load_state() if checkpoint else None
    journal = Journal.from_json(carried["journal"]) if carried else Journal()
    seconds_before = float(carried["seconds"]) if carried else 0.0

    class SafeTrainer(Trainer):  # type: ignore[misc, unused-ignore]
        """Trainer whose checkpoints are safetensors."""

        def _save_checkpoint(self, model: Any, trial: Any) -> None:  # noqa: ARG002 (the signature of the library)
            save_checkpoint(
                work,
                step=self.state.global_step,
                identity=identity,
                state={
                    "journal": journal.to_json(),
                    "seconds": clock.seconds(),
                    "schedule": self.lr_scheduler.state_dict(),
                },
                trainer_state=_trainer_state_json(self.state),
                model=self.model,
                optimizer=self.optimizer,
            )

        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:  # noqa: ARG002
            if checkpoint:
                restore_model(checkpoint, self.model)

        def _load_optimizer_and_scheduler(self, checkpoint_folder: str | None) -> None:
            if checkpoint and checkpoint_folder:
                restore_optimizer(checkpoint, self.optimizer)
                self.lr_scheduler.load_state_dict(checkpoint.load_state()["schedule"])

        def _load_rng_state(self, checkpoint_folder: str | None) -> None:
            if checkpoint and checkpoint_folder:
                restore_random_states(checkpoint)

        def floating_point_ops(self, inputs: Any) -> int:  # noqa: ARG002
            return 0  # the library's counts all parameters anew at every step, a third of a small model's time

    def step_loss(outputs: Any, labels: "torch.Tensor", num_items_in_batch: "torch.Tensor") -> "torch.Tensor":
        nll_nats = torch.nn.functional.cross_entropy(
            outputs.logits.flatten(0, 1).float(), labels.flatten(), ignore_index=NO_LOSS, reduction="sum"
        )
        journal.record(trainer.state.global_step + 1, nll_nats=nll_nats, num_predicted=(labels != NO_LOSS).sum())
        return nll_nats / num_items_in_batch.clamp(min=1)

    class Clock(TrainerCallback):  # type: ignore[misc, unused-ignore]
        """What happens after a step: the log, the held-out loss, progress, and the request for a checkpoint."""

        def __init__(self) -> None:
            self.started = self.last_checkpoint = time.monotonic()

        def seconds(self) -> float:
            return seconds_before + time.monotonic() - self.started

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            done = state.global_step
            tokens_before = int(plan.tokens_after_step[done - 1]) if done else 0
            self.started = self.last_checkpoint = time.monotonic()
            self.progress = Progress(
                report, num_steps=plan.num_steps, num_tokens=plan.num_tokens, num_tokens_before=tokens_before
            )

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            step = state.global_step
            num_tokens = int(plan.tokens_after_step[step - 1])
            if self.progress.is_due(step):
                self.progress.say(step, num_tokens=num_tokens, nats_per_token=journal.latest_nats_per_token())
            if step in plan.log_steps:
                journal.collect()
                held_out_nll = measure_held_out(trainer.model) if step in plan.evaluation_steps else None
                journal.write_row(
                    step=step,
                    num_tokens=num_tokens,
                    held_out_nll=held_out_nll,
                    learning_rate=self.learning_rate,
                    seconds=self.seconds(),
                )
            is_last = step == plan.num_steps
            if not is_last and time.monotonic() - self.last_checkpoint >= 60 * job.training.checkpoint_minutes:
                control.should_save = True
                self.last_checkpoint = time.monotonic()

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            self.learning_rate = trainer.optimizer.param_groups[0]["lr"]  # after the step, the schedule has moved on

    clock = Clock()
    trainer = SafeTrainer(
        model=model,
        args=_training_arguments(job, plan, work),
        train_dataset=DrawnSequences(tokens, plan.order),
        data_collator=lambda rows: make_batch(rows, end_of_document_id=job.end_of_document_id),
        compute_loss_func=step_loss,
        callbacks=[clock],
    )
    trainer.remove_callback(PrinterCallback)
    trainer._loss_shifts_labels = False  # make_batch has shifted them: every label counts
    return trainer, journal


def _training_arguments(job: TrainingJob, plan: TrainingPlan, work: Path) -> "TrainingArguments":
    import torch
    from transformers import TrainingArguments

    training = job.training
    sequences_at_once = _largest_divisor(plan.sequences_per_step, training.sequences_per_device)
    try:
        args = TrainingArguments(
            output_dir=str(work),
            per_device_train_batch_size=sequences_at_once,
            gradient_accumulation_steps=plan.sequences_per_step // sequences_at_once,
            num_train_epochs=1,  # the drawn order is one long epoch
            train_sampling_strategy="sequential",
            learning_rate=training.peak_learning_rate,
            lr_scheduler_type="cosine_warmup_with_min_lr",
            lr_scheduler_kwargs={"min_lr_rate": training.final_learning_rate_share},
            warmup_steps=round(training.warmup_share * plan.num_steps),
            adam_beta1=training.beta1,
            adam_beta2=training.beta2,
            adam_epsilon=training.epsilon,
            weight_decay=training.weight_decay,
            max_grad_norm=training.gradient_clip,
            use_cpu=not torch.accelerator.is_available(),
            bf16=training.dtype == "bfloat16",
            seed=job.seed % _MAX_SEED,
            save_strategy="no",
            logging_strategy="no",
            logging_nan_inf_filter=False,
            eval_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
    except ValueError as error:
        raise TrainingError(
            f"{job.name}: this device cannot train in {training.dtype} ({error}); set training.dtype to float32"
        ) from error
    args._n_gpu = min(1, args.n_gpu)  # else several GPUs mean DataParallel, and a step of as many times the sequences
    return args


def _largest_divisor(number: int, limit: int | None) -> int:
    """Return the largest divisor of a number up to a limit: a step is the same sequences on any device."""
    return max(divisor for divisor in range(1, min(number, limit or number) + 1) if number % divisor == 0)


def _trainer_state_json(state: Any) -> str:
    return json.dumps(dataclasses.asdict(state), indent=1, sort_keys=True) + "\n"
