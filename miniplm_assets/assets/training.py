"""What teachers, references and students trained here have in common."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from miniplm_assets.assets.step import Step
from miniplm_assets.corpus.tokenizer import load_tokenizer
from miniplm_assets.experiment import Training
from miniplm_assets.storage.store import Draft
from miniplm_assets.training.job import TrainingJob
from miniplm_assets.training.train import train_language_model


def train(
    step: Step,
    draft: Draft,
    *,
    architecture: Mapping[str, Any],
    training: Training,
    sequence_files: Sequence[Path],
    split: str | None,
) -> None:
    """Train the model of a step and let the draft hold it.

    Args:
        step: its input `sequences` gives the held-out texts, its input `tokenizer` the tokenizer.
        draft: takes the weights, the tokenizer, the training log and the facts.
        architecture: `model_type` and its settings.
        training: budget, schedule and optimiser.
        sequence_files: the sequences to learn from.
        split: which of their rows; None where they hold nothing else.
    """
    experiment = step.pipeline.experiment
    tokenizer_folder = step.input("tokenizer").verified_folder()
    tokenizer = load_tokenizer(tokenizer_folder)
    job = TrainingJob(
        name=step.node.key,
        architecture=architecture,
        training=training,
        tokenizer_folder=tokenizer_folder,
        vocab_size=tokenizer.vocab_size,
        end_of_document_id=tokenizer.end_of_document_id,
        sequence_files=tuple(sequence_files),
        split=split,
        held_out_files=tuple(step.input_tables("sequences")),
        excluded_domains=experiment.evaluation.excluded_domains,
        max_sequence_tokens=experiment.sequences.sequence_length + 1,
        seed=experiment.seed,
        data_fingerprint=step.recipe.fingerprint,
    )
    draft.facts = train_language_model(job, work=draft.work, target=draft.path, report=step.report)
