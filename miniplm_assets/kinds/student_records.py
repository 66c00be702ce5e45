"""What is stored of a trained student, read for those that hold students against each other."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from miniplm_assets.core.resampling import in_groups
from miniplm_assets.evaluation.comparison import SelectionRecord, StudentRecord, StudentRun
from miniplm_assets.kinds.student_checkpoint import checkpoint_key
from miniplm_assets.kinds.student_evaluation import HELD_OUT, SEQUENCE_LOSSES, evaluation_key
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.store import Result
from miniplm_assets.training.held_out import HELD_OUT_LOG
from miniplm_assets.training.train import TRAINING_LOG


def keys_of_student(name: str) -> tuple[str, str]:
    """Return the keys of what is read of a student: its checkpoints and its evaluation."""
    return checkpoint_key(name), evaluation_key(name)


def read_student(
    work: Work[Any],
    name: str,
    *,
    tokenizer: str,
    corpus: str = "",
    selection: SelectionRecord | None = None,
    is_retokenised: bool = False,
    made_with: Mapping[str, Any] | None = None,
) -> StudentRecord:
    """Return what is known of a student.

    Args:
        work: its inputs are those of `keys_of_student`, by their keys.
        name: of the student.
        tokenizer: its name.
        corpus: that it learnt from, as the file names it, where that is to be told.
        selection: where its corpus is a refined one.
        is_retokenised: whether the models of that selection have another tokenizer.
        made_with: what beside corpus and seed made it, by setting.
    """
    checkpoints, evaluations = (work.input_pieces(key) for key in keys_of_student(name))
    return StudentRecord(
        name=name,
        corpus=corpus,
        tokenizer=tokenizer,
        num_parameters=next(iter(checkpoints.values())).facts["num_parameters"],
        runs=tuple(_run(int(seed), checkpoint, evaluations[seed]) for seed, checkpoint in checkpoints.items()),
        selection=selection,
        is_retokenised=is_retokenised,
        made_with=made_with or {},
    )


def _run(seed: int, checkpoint: Result, evaluation: Result) -> StudentRun:
    def table(result: Result, name: str) -> pl.DataFrame:
        return pl.read_parquet(result.file(name), glob=False)

    return StudentRun(
        seed=seed,
        num_epochs=checkpoint.facts["num_epochs"],
        measured_by=checkpoint.facts["measured_by"],
        training_flops=checkpoint.facts["training_flops"],
        training_log=table(checkpoint, TRAINING_LOG),
        held_out_log=table(checkpoint, HELD_OUT_LOG),
        held_out=table(evaluation, HELD_OUT),
        groups=in_groups(table(evaluation, SEQUENCE_LOSSES).filter("is_counted").drop("domain", "is_counted")),
        in_context_gain=evaluation.facts["in_context_gain_nats_per_token"],
    )
