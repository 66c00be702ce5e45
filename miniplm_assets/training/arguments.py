"""What transformers' Trainer is told of a training run. Imported by `trainer` alone, when a model is trained."""

import math
from pathlib import Path
from typing import Final

import torch  # noqa: TID253 - nobody imports this module before a model is trained
from transformers import TrainingArguments  # noqa: TID253

from miniplm_assets.core.errors import TrainingError
from miniplm_assets.training.job import TrainingJob
from miniplm_assets.training.plan import TrainingPlan

# transformers seeds NumPy's old generator too, which takes no more.
_MAX_SEED: Final = 2**32


class OneDeviceArguments(TrainingArguments):  # type: ignore[misc, unused-ignore]
    """TrainingArguments of a process that trains on one device, however many it sees.

    Else several GPUs would mean DataParallel, and a step of as many times the sequences.
    """

    @property
    def n_gpu(self) -> int:
        """How many GPUs this process trains on."""
        return min(1, int(super().n_gpu))


def training_arguments(job: TrainingJob, plan: TrainingPlan, work: Path) -> TrainingArguments:
    """Return what `transformers.Trainer` is told.

    Args:
        job: what is asked.
        plan: which sequences, and how many at a step.
        work: for its files; it writes none.

    Raises:
        TrainingError: if the device does not have the dtype that is asked for.
    """
    training = job.training
    if training.dtype == "float16" and not torch.accelerator.is_available():
        # Else the library would train in float32 and say nothing.
        raise TrainingError(
            f"{job.name}: training.dtype float16 needs an accelerator, and this machine has none; set it to float32 or "
            "bfloat16"
        )
    share = math.ceil(plan.sequences_per_step / training.num_processes)
    sequences_at_once = _largest_divisor(share, training.sequences_per_device)
    try:
        return OneDeviceArguments(
            output_dir=str(work),
            run_name=f"{job.name} seed {job.seed}",  # what reporters call it
            per_device_train_batch_size=sequences_at_once,
            gradient_accumulation_steps=share // sequences_at_once,
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
            gradient_checkpointing=training.gradient_checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False} if training.gradient_checkpointing else None,
            ddp_find_unused_parameters=False,  # the output layer's weight has its gradient outside of the model
            ddp_broadcast_buffers=False,
            bf16=training.dtype == "bfloat16",
            fp16=training.dtype == "float16",
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


def _largest_divisor(number: int, limit: int | None) -> int:
    """Return the largest divisor of a number up to a limit: a step is the same sequences on any device."""
    return max(divisor for divisor in range(1, min(number, limit or number) + 1) if number % divisor == 0)
