"""transformers' Trainer, with the four things that this project does otherwise.

1. The loss is handed in, and its mean is taken over the predicted tokens, or the sequences, of a whole step, in all
   processes.
2. Checkpoints hold safetensors and JSON, no pickle, and are complete or invisible. A run that goes on is given the
   steps that are left, and every value back where it was before the first of them.
3. The log, the held-out losses and the progress come from one place, at planned steps.
4. Nothing is printed, and nothing is sent anywhere but to the reporters that the settings name.

Imported by `train_language_model` alone, when a model is trained.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import torch  # noqa: TID253 - nobody imports this module before a model is trained
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments  # noqa: TID253

from miniplm_assets.core.errors import TrainingError
from miniplm_assets.core.stop import Stopped
from miniplm_assets.lm.scores import TokenRule
from miniplm_assets.training.batch import DrawnSequences, make_batch, share_of
from miniplm_assets.training.checkpoint import (
    restore_model,
    restore_optimizer,
    restore_random_states,
    save_checkpoint,
    save_weights,
)
from miniplm_assets.training.course import Course
from miniplm_assets.training.layers import compile_layers
from miniplm_assets.training.objectives import Objective
from miniplm_assets.training.processes import Processes
from miniplm_assets.training.progress import Progress
from miniplm_assets.training.reporters import Reported, open_reporters
from miniplm_assets.training.sharding import gathered_number, measurable
from miniplm_assets.training.token_file import TokenFile
from miniplm_assets.training.training_curves import Pace, add_held_out, add_training

# Of a float16 loss, as published; torch's own, 2^16, overflows for the first steps.
_FIRST_LOSS_SCALE: Final = 2.0**11
# How torch's DDP begins to say, in the step after, that it waits for the gradient of a parameter.
_NO_GRADIENT: Final = "Expected to have finished reduction in the prior iteration"


class CourseTrainer(Trainer):  # type: ignore[misc, unused-ignore]
    """Trainer of a course: its loss, and a schedule over the whole run, whichever leg this is."""

    def __init__(self, course: Course, objective: Objective, **arguments: Any) -> None:
        """Set up.

        Args:
            course: the run.
            objective: gives what is minimised.
            arguments: of `transformers.Trainer`.
        """
        self.course = course
        self._objective = objective
        super().__init__(**arguments)
        self.loss_is_scaled_for_ga = True  # over the whole step, see get_batch_samples
        # Else it would be wrapped once more: a model that is spread adds its gradients up by itself.
        self.is_distributed_loading_by_transformers = course.sharding is not None
        course.loss_scaler = self.accelerator.scaler
        course.journal.over_processes = lambda tensor: self.accelerator.reduce(tensor, reduction="sum")

    def get_train_dataloader(self) -> Any:
        """Return the batches of this process: its share is cut already, see `share_of`; the library would cut again."""
        if self.course.processes.number == 1:
            return super().get_train_dataloader()
        size = self.args.per_device_train_batch_size
        return torch.utils.data.DataLoader(self.train_dataset, batch_size=size, collate_fn=self.data_collator)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """Return the batches of a step, and how many tokens, or sequences, its mean is over, in all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        # A sequence's weights are 1 by their number each, and add up to 1 but for rounding.
        counts = [batch["weights"].sum().round().long() for batch in batches]
        return batches, self.accelerator.reduce(torch.stack(counts).sum().to(device), reduction="sum")

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return a batch's part of the mean over the predicted tokens, or the sequences, of the step."""
        assert not return_outputs, "nobody evaluates through the trainer"
        loss = self._objective.loss(model, inputs)
        step = self.course.first_step + self.state.global_step + 1
        # The log says nats a token either way.
        num_predicted = loss.nats.new_tensor(len(inputs["targets"]))
        self.course.journal.record(step, nats=loss.nats, nll_nats=loss.nll_nats, num_predicted=num_predicted)
        # Gradients are averaged over the processes.
        return loss.total / num_items_in_batch.clamp(min=1) * self.accelerator.num_processes

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """Compute the gradients of a batch.

        Raises:
            TrainingError: if gradients are added up over processes, and some parameters have none.
        """
        try:
            return super().training_step(model, inputs, num_items_in_batch)
        except RuntimeError as error:
            if _NO_GRADIENT not in str(error):
                raise
            raise TrainingError(
                f"{self.course.job.name}: some parameters of {type(self.model).__name__} have no gradient in a step, "
                "which training.parallelism ddp cannot add up; set it to fsdp, or num_processes to 1"
            ) from error

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Note the norm of a step's gradients, which is here before they are clipped."""
        norm = gathered_number(super()._get_grad_norm(model, grad_norm=grad_norm))
        self.course.gradient_norm = norm
        if self.course.loss_scaler is None:  # else a step whose gradient is not finite is left out, and the scale falls
            self.course.journal.record_gradient_norm(self.course.first_step + self.state.global_step + 1, norm)
        return norm

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """Return the parameters that weight decay is applied to."""
        if self.course.job.training.decay_norms_and_biases:
            return [name for name, _ in model.named_parameters()]
        return list(super().get_decay_parameter_names(model))

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:  # noqa: ARG002 (its signature)
        """Return the schedule of the whole run, also where only its last steps are left."""
        return super().create_scheduler(self.course.plan.num_steps, optimizer)

    def log(self, logs: Any, start_time: Any = None) -> None:
        """Leave out what the library has to say in the end: it counts this leg alone."""

    def floating_point_ops(self, inputs: Any) -> int:  # noqa: ARG002 (its signature)
        """Return 0: the library's own counts all parameters anew at every step, a third of a small model's time."""
        return 0


class CourseCallback(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """What happens around a step: going on from a checkpoint, the log, held-out losses, progress, checkpoints."""

    def __init__(self, course: Course) -> None:
        """Begin.

        Args:
            course: the run.
        """
        self._course = course
        self._started = self._last_checkpoint = time.monotonic()
        self._learning_rate = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **objects: Any) -> None:  # noqa: ARG002
        """Put the optimiser and the schedule back where they were."""
        course, plan = self._course, self._course.plan
        if course.checkpoint:
            restore_optimizer(course.checkpoint, objects["optimizer"])
            objects["lr_scheduler"].load_state_dict(course.checkpoint.load_state()["schedule"])
        if course.loss_scaler is not None:
            first = course.loss_scaler.state_dict() | {"scale": _FIRST_LOSS_SCALE}
            carried = course.checkpoint.load_state()["loss_scale"] if course.checkpoint else first
            course.loss_scaler.load_state_dict(carried)
        self._started = self._last_checkpoint = time.monotonic()
        num_tokens_before = int(plan.tokens_after_step[course.first_step - 1]) if course.first_step else 0
        self._progress = Progress(
            course.report,
            num_steps=plan.num_steps,
            num_tokens=plan.num_tokens,
            num_tokens_before=num_tokens_before,
        )
        self._is_watched = course.processes.is_first
        self._pace = Pace(num_tokens_before)
        if self._is_watched:
            course.curves.begin(course.first_step + 1)
        if course.checkpoint:
            self._learning_rate = course.checkpoint.load_state().get("learning_rate", 0.0)
            self._write_row(course.first_step, look=self._look, **objects)  # where it was stopped in that

    def on_step_begin(self, args: Any, state: Any, control: Any, **objects: Any) -> None:  # noqa: ARG002
        """Put the random generators back where they were, once the data loader has drawn from them."""
        course = self._course
        if course.checkpoint and state.global_step == 0:
            restore_random_states(course.checkpoint)
        course.processes.seed_step(course.job.seed, course.first_step + state.global_step + 1)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **objects: Any) -> None:  # noqa: ARG002
        """Note the learning rate: after the step, the schedule has moved on."""
        self._learning_rate = objects["optimizer"].param_groups[0]["lr"]

    def on_step_end(self, args: Any, state: Any, control: Any, **objects: Any) -> None:  # noqa: ARG002
        """Write the log, say how far it is, and write a checkpoint, where one is due or the run is told to stop."""
        course, plan = self._course, self._course.plan
        step = course.first_step + state.global_step
        if course.processes.agree(self._progress.is_due(step)):
            num_tokens = int(plan.tokens_after_step[step - 1])
            nll = course.journal.latest_nats_per_token()
            self._progress.say(step, num_tokens=num_tokens, nats_per_token=nll)
            if step not in plan.log_steps:
                self._show(step, num_tokens=num_tokens, losses=course.journal.latest())
        if step in plan.kept_steps:
            weights = course.whole(objects["model"])
            if course.processes.is_first:
                save_weights(course.work, step=step, model=weights)
        if step == plan.num_steps:  # nothing would be left to go on with
            self._write_row(step, look=None, **objects)
            return
        try:
            self._write_row(step, look=self._look, **objects)
            if course.processes.agree(self._is_told_to_stop()):
                raise Stopped
        except Stopped:
            self._save(step, **objects)
            course.report(f"told to stop: a checkpoint holds all up to step {step:,} of {plan.num_steps:,}")
            raise
        seconds = time.monotonic() - self._last_checkpoint
        if course.processes.agree(seconds >= 60 * course.job.training.checkpoint_minutes):
            self._save(step, **objects)
            self._last_checkpoint = time.monotonic()

    def _write_row(self, step: int, *, look: Callable[[], None] | None, model: Any, **_: Any) -> None:
        """Write the row of a step into the log, where it is due and not there."""
        course, plan = self._course, self._course.plan
        if step not in plan.log_steps or any(row["step"] == step for row in course.journal.rows):
            return
        course.journal.collect()
        num_tokens, held_out_nll = int(plan.tokens_after_step[step - 1]), None
        self._show(step, num_tokens=num_tokens, losses=course.journal.latest())
        if step in plan.evaluation_steps:
            # All processes compute the same at once where each holds a part of a layer.
            processes = course.processes if course.sharding is None else Processes()
            with measurable(model):
                held_out_nll = course.held_out.measure(
                    model, step=step, num_tokens=num_tokens, look=look, processes=processes
                )
            self._pace.begin_again()
            if self._is_watched:
                add_held_out(course.curves, step, nll=held_out_nll, rows=course.held_out.rows)
        course.journal.write_row(
            step=step,
            num_tokens=num_tokens,
            held_out_nll=held_out_nll,
            learning_rate=self._learning_rate,
            seconds=self._seconds(),
        )

    def _show(self, step: int, *, num_tokens: int, losses: tuple[float, float]) -> None:
        """Show the objective and the training loss of a step to who watches."""
        course = self._course
        if self._is_watched:
            add_training(
                course.curves,
                step,
                nll=losses[1],
                objective=losses[0],
                learning_rate=self._learning_rate,
                gradient_norm=course.gradient_norm,
                tokens_per_second=self._pace.tokens_per_second(num_tokens),
            )

    def _save(self, step: int, *, model: Any, optimizer: Any, lr_scheduler: Any, **_: Any) -> None:
        course = self._course
        # All processes are asked for each of these.
        journal, weights, moments = (
            course.journal.to_json(),
            course.whole(model),
            course.whole_optimizer_state(optimizer),
        )
        if course.processes.is_first:
            save_checkpoint(
                course.work,
                step=step,
                identity=course.job.identity(),
                state={
                    "journal": journal,
                    "held_out": course.held_out.rows,
                    "measured": dict(course.measured),
                    "seconds": self._seconds(),
                    "schedule": lr_scheduler.state_dict(),
                    "learning_rate": self._learning_rate,
                    "loss_scale": None if course.loss_scaler is None else course.loss_scaler.state_dict(),
                },
                model=weights,
                optimizer_state=moments,
            )

    @property
    def _look(self) -> Callable[[], None] | None:
        """What a measurement asks after each batch: one that is shared is not put down by one process alone."""
        return self._course.stop.look if self._course.processes.number == 1 else None

    def _is_told_to_stop(self) -> bool:
        try:
            self._course.stop.look()
        except Stopped:
            return True
        return False

    def _seconds(self) -> float:
        return self._course.seconds_before + time.monotonic() - self._started


def make_trainer(
    course: Course, *, model: PreTrainedModel, tokens: TokenFile, objective: Objective, arguments: TrainingArguments
) -> CourseTrainer:
    """Set up the training of a model, to be started with ``train()``.

    Args:
        course: the run; its journal and its held-out log are filled.
        model: the model, its weights still random.
        tokens: the sequences.
        objective: gives what is minimised.
        arguments: as `training_arguments` returns them.
    """
    reporters = open_reporters(course.job.training.reporters) if course.processes.is_first else []
    if course.checkpoint:
        restore_model(course.checkpoint, model)
    if course.job.training.compile:
        compile_layers(model)
    if course.sharding is not None:
        course.sharding.shard(model)
    left = course.plan.order[course.first_step * course.plan.sequences_per_step :]
    share = share_of(
        left,
        sequences_per_step=course.plan.sequences_per_step,
        rank=course.processes.rank,
        num_processes=course.processes.number,
    )
    rule = TokenRule(end_of_document_id=course.job.end_of_document_id, score_after_end_of_document=False)
    mean_over = course.job.training.loss_mean_over
    trainer = CourseTrainer(
        course,
        objective,
        model=model,
        args=arguments,
        train_dataset=DrawnSequences(tokens, share, course.job.end_of_document_id),
        data_collator=partial(make_batch, rule=rule, mean_over=mean_over, objective=objective),
        callbacks=[CourseCallback(course), *reporters],
    )
    trainer.remove_callback(PrinterCallback)
    if reporters:
        course.curves = Reported(course.curves, trainer, course.report)
    return trainer
