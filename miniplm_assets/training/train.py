"""Training a causal language model from scratch, to the same weights however often it is interrupted."""

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miniplm_assets.core.doors import explained_as
from miniplm_assets.core.errors import ModelError, TrainingError
from miniplm_assets.core.stop import Stop
from miniplm_assets.lm.architectures import build_model, count_model_parameters
from miniplm_assets.lm.attention import settle_attention
from miniplm_assets.lm.causality import require_causal_model
from miniplm_assets.lm.memory import kept_memory
from miniplm_assets.lm.quiet import without_progress_bars
from miniplm_assets.storage.curves import Curves, NoCurves
from miniplm_assets.training.checkpoint import WEIGHTS, find_checkpoint, find_weights
from miniplm_assets.training.held_out import HELD_OUT_LOG, HeldOut
from miniplm_assets.training.job import TrainingJob
from miniplm_assets.training.launch import train_by_processes
from miniplm_assets.training.layers import compiling
from miniplm_assets.training.objectives import Setting, objective_of
from miniplm_assets.training.plan import plan_training
from miniplm_assets.training.processes import Processes
from miniplm_assets.training.sharding import Sharding
from miniplm_assets.training.slow_parts import slow_parts_noted, what_is_slow
from miniplm_assets.training.token_file import write_token_file

if TYPE_CHECKING:
    from miniplm_assets.training.course import Course

TRAINING_LOG = "training_log.parquet"
# Of the states that are kept beside the last one: a folder each, which transformers loads as it does the last.
EARLIER = "last_checkpoints"


def train_language_model(
    job: TrainingJob,
    *,
    work: Path,
    target: Path,
    report: Callable[[str], None],
    stop: Stop | None = None,
    curves: Curves | None = None,
) -> dict[str, Any]:
    """Train a model and write it as `save_pretrained` does, its tokenizer and its training log beside it.

    Where `work` holds a checkpoint of the same job, training goes on from there; on the CPU the result has
    the same bytes as that of an uninterrupted run. Where the settings ask for several processes, they are started.

    Args:
        job: model, data and settings.
        work: a folder that survives a crash; it belongs to this job.
        target: an existing folder for the result: model.safetensors, config.json, the tokenizer's files and
            `training_log.parquet`, a row for each of `TrainingPlan.log_steps`: step, num_tokens (of the
            sequences trained on so far), training_nll_nats_per_token (mean over the tokens predicted since the
            row before), objective_nats_per_token (what was minimised, over the same), held_out_nll_nats_per_token
            (over the whole sample; null where it was not measured), learning_rate, seconds; and
            `held_out_log.parquet`, that loss by domain, columns as in `held_out.SCHEMA`.
        report: takes one line of progress now and then.
        stop: says whether the run has been told to stop; absent where nobody can.
        curves: take what is worth looking at while it trains; absent where nobody looks.

    Returns:
        Facts: num_parameters, num_non_embedding_parameters, num_steps, num_sequences, num_tokens, num_epochs,
        measured_by (num_evaluations and num_held_out_sequences as asked), num_held_out_sequences (as found),
        held_out_nll_nats_per_token, training_nll_nats_per_token (the last row's), training_flops, training_seconds,
        resumed_from_step, device, and those of the objective.

    Raises:
        ModelError: if the architecture cannot be built, or a model of the objective not be loaded.
        TrainingError: if there is nothing to learn from or to measure on, the loss is not finite, the dtype or a
            reporter is not available, or `work` holds the checkpoint of another job.
        Stopped: if the run has been told to stop; `work` then holds a checkpoint of the last step that was done.
    """
    stop, curves = stop or Stop(), curves or NoCurves()
    if job.training.num_processes > 1:
        return train_by_processes(job, work=work, target=target, report=report, stop=stop, curves=curves)
    return train_in_this_process(
        job, work=work, target=target, report=report, stop=stop, curves=curves, processes=Processes()
    )


@kept_memory()
def train_in_this_process(
    job: TrainingJob,
    *,
    work: Path,
    target: Path,
    report: Callable[[str], None],
    stop: Stop,
    curves: Curves,
    processes: Processes,
) -> dict[str, Any]:
    """Train a model in this process, alone or as one of several.

    Args:
        job: as `train_language_model`; the next five too.
        work: the same folder in all processes.
        target: the first process alone writes into it.
        report: likewise tells its lines.
        stop: of the first process alone is looked at.
        curves: of the first process alone are told.
        processes: who trains with it.

    Returns:
        Facts, as `train_language_model`, and num_processes where there are several.
    """
    from miniplm_assets.training.arguments import training_arguments
    from miniplm_assets.training.course import Course
    from miniplm_assets.training.trainer import make_trainer

    checkpoint = find_checkpoint(work, identity=job.identity(), name=job.name, report=report)
    measured = {
        "num_evaluations": job.training.num_evaluations,
        "num_held_out_sequences": job.training.num_held_out_sequences,
    }
    if checkpoint is not None:  # one log is never measured in two ways
        measured = checkpoint.load_state()["measured"]
    model = build_model(
        job.architecture,
        vocab_size=job.vocab_size,
        end_of_document_id=job.end_of_document_id,
        max_sequence_tokens=job.max_sequence_tokens,
        seed=job.seed,
    )
    with (
        slow_parts_noted() as slow_parts,
        explained_as(ModelError, f"{job.name}: a model of its architecture does not run", "correct its settings"),
    ):
        settle_attention(model, report)
        require_causal_model(
            model,
            named=job.name,
            end_of_document_id=job.end_of_document_id,
            max_sequence_tokens=job.max_sequence_tokens,
        )
    if job.training.gradient_checkpointing and not model.supports_gradient_checkpointing:
        raise TrainingError(
            f"{job.name}: training.gradient_checkpointing is true, which transformers does not do for a "
            f"{type(model).__name__}; set it to false"
        )
    held_out = HeldOut(
        job.held_out_files,
        num_sequences=measured["num_held_out_sequences"],
        end_of_document_id=job.end_of_document_id,
    )
    with processes.first_ahead():
        tokens = write_token_file(
            work / "tokens",
            sequence_files=job.sequence_files,
            split=job.split,
            vocab_size=job.vocab_size,
            data_fingerprint=job.data_fingerprint,
            report=report,
            prompts_have_loss=job.prompts_have_loss,
            is_begun=not processes.is_first,
        )
    plan = plan_training(
        tokens.num_tokens(),
        token_budget=job.training.token_budget,
        sequences_per_step=job.training.sequences_per_step,
        num_evaluations=measured["num_evaluations"],
        seed=job.seed,
        repeats_order=job.training.later_epochs == "repeated",
        last_checkpoints=job.last_checkpoints,
    )
    arguments = training_arguments(job, plan, work)
    kind = objective_of(job.objective)
    sharding = None
    if processes.number > 1 and job.training.parallelism == "fsdp":
        sharding = Sharding(arguments.device, processes.number)
    with processes.first_ahead():
        objective = kind.open(
            job.objective,
            Setting(
                model=model,
                inputs=job.objective_inputs,
                tokens=tokens,
                vocab_size=job.vocab_size,
                end_of_document_id=job.end_of_document_id,
                device=arguments.device,
                dtype=job.training.dtype,
                seed=job.seed,
                data_fingerprint=job.data_fingerprint,
                work=work,
                report=report,
                sharding=sharding,
            ),
        )
    course = Course(
        job=job,
        work=work,
        plan=plan,
        sequence_ids=tokens.sequence_ids,
        measured=measured,
        held_out=held_out,
        report=report,
        stop=stop,
        curves=curves,
        checkpoint=checkpoint,
        processes=processes,
        sharding=sharding,
    )
    trainer = make_trainer(course, model=model, tokens=tokens, objective=objective, arguments=arguments)
    size = count_model_parameters(model)
    report(
        f"{job.name}: {size.total:,} parameters, {plan.num_steps:,} steps of {plan.sequences_per_step:,} sequences, "
        f"{plan.num_tokens:,} tokens ({plan.num_epochs:.2f} epochs) on {trainer.args.device}"
        + (f" by {processes.number} processes" if processes.number > 1 else "")
        + (f"; going on after step {checkpoint.step:,}" if checkpoint else "")
    )
    if slow_parts:
        num_sequences = len(plan.order) - course.first_step * plan.sequences_per_step
        report(what_is_slow(model, slow_parts, num_sequences=num_sequences, num_tokens=job.max_sequence_tokens - 1))
    compiles = compiling(name=job.name) if job.training.compile else nullcontext()
    with course.stop.held(), compiles:  # a step is done or not; the course looks after each
        trainer.train()
        whole = course.whole(model)
        if processes.is_first:
            _write(job, whole, course, work=work, target=target)
    last = course.journal.rows[-1]
    return {
        "num_parameters": size.total,
        "num_non_embedding_parameters": size.non_embedding,
        "num_steps": plan.num_steps,
        "num_sequences": len(plan.order),
        "num_tokens": plan.num_tokens,
        "num_epochs": round(plan.num_epochs, 4),
        "measured_by": measured,
        "num_held_out_sequences": held_out.num_sequences,
        "held_out_nll_nats_per_token": last["held_out_nll_nats_per_token"],
        "training_nll_nats_per_token": last["training_nll_nats_per_token"],
        "training_flops": kind.flops_per_token(job.objective, size.total, objective.num_parameters) * plan.num_tokens,
        "training_seconds": last["seconds"],
        "resumed_from_step": checkpoint.step if checkpoint else None,
        "device": str(trainer.args.device),
        **objective.facts,
        **({"num_processes": processes.number} if processes.number > 1 else {}),
    }


def _write(job: TrainingJob, model: Any, course: "Course", *, work: Path, target: Path) -> None:
    """Write a trained model, as `save_pretrained` does, its tokenizer and its logs beside it."""
    model.config.use_cache = True  # Trainer switches it off, and a saved model that generates wants it
    with without_progress_bars():
        model.save_pretrained(target)
    for step in course.plan.kept_steps:
        folder = target / EARLIER / f"step-{step:08d}"
        folder.mkdir(parents=True)
        shutil.copy2(find_weights(work, step=step), folder / WEIGHTS)
        shutil.copy2(target / "config.json", folder / "config.json")
    _copy_tokenizer(job.tokenizer_folder, target)
    course.journal.write_parquet(target / TRAINING_LOG)
    course.held_out.write_parquet(target / HELD_OUT_LOG)


def earlier_states(folder: Path) -> list[Path]:
    """Return the folders of the states that were kept beside the last one of a trained model, earliest first."""
    return sorted((folder / EARLIER).glob("step-*"))


def _copy_tokenizer(folder: Path, target: Path) -> None:
    """Copy the tokenizer's files beside the weights.

    Raises:
        TrainingError: if there are none.
    """
    # A tokenizer folder may be a whole model snapshot, or a stored result with its manifest.
    names = [path for path in sorted(folder.glob("*")) if _belongs_to_a_tokenizer(path)]
    if not names:
        raise TrainingError(f"{folder}: no tokenizer files; expected tokenizer.json and tokenizer_config.json")
    for path in names:
        shutil.copy2(path, target / path.name)


def _belongs_to_a_tokenizer(path: Path) -> bool:
    name = path.name
    return path.is_file() and (
        name.startswith(("tokenizer", "vocab", "merges", "special_tokens", "added_tokens", "spiece"))
        or name == "chat_template.jinja"
    )
