"""What teachers, references and students that are trained here have in common."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any, Final

from miniplm_assets.core.errors import ModelError
from miniplm_assets.core.recipe import canonical_json
from miniplm_assets.corpus.tokenizer import load_tokenizer
from miniplm_assets.experiment import Training
from miniplm_assets.experiment.models import LastCheckpoints
from miniplm_assets.experiment.objectives import CrossEntropy, Objective
from miniplm_assets.kinds.sequences import SEQUENCES
from miniplm_assets.kinds.tokenizer import TOKENIZER
from miniplm_assets.lineage.kind import Node
from miniplm_assets.lineage.sizes import Sizes
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.curves import EventFile, curves_folder
from miniplm_assets.storage.store import Draft
from miniplm_assets.training.job import TrainingJob
from miniplm_assets.training.launch import parallelism_problems
from miniplm_assets.training.objectives import Input
from miniplm_assets.training.reporters import reporter_problems
from miniplm_assets.training.train import train_language_model

# Raised where the same settings give other weights; a student's code version with it.
TRAINING_CODE: Final = "2"
TRAINING_COLUMNS: Final = {
    "step": "optimiser steps so far",
    "num_tokens": "tokens of the sequences trained on so far",
    "training_nll_nats_per_token": "mean cross-entropy since the row before",
    "objective_nats_per_token": "mean of what is minimised since the row before: the same, but for distillation",
    "held_out_nll_nats_per_token": "on a fixed sample of the validation split; empty where it was not measured",
    "learning_rate": "of the step",
    "seconds": "since training began",
}


def training_problems(node: Node[Any], sizes: Sizes) -> Iterator[str]:
    """Say why the model of a node cannot be built, or cannot score, or its training not be told of, if so.

    Args:
        node: its settings have an architecture, a training and the length of the longest sequence.
        sizes: know the vocabulary.
    """
    yield from reporter_problems(node.settings.training.reporters)
    yield from parallelism_problems(node.settings.training, getattr(node.settings, "objective", None))
    vocab_size = sizes.vocab_size(node.inputs[TOKENIZER.name])
    problem = _problem(canonical_json(node.settings.architecture), vocab_size, node.settings.max_sequence_tokens)
    if problem is not None:
        yield problem


@cache  # the students of a pair ask for the same
def _problem(architecture_json: str, vocab_size: int, max_sequence_tokens: int) -> str | None:
    from miniplm_assets.lm.architectures import build_config, require_buildable
    from miniplm_assets.lm.causality import require_causal_config

    architecture = json.loads(architecture_json)
    try:
        require_buildable(architecture, vocab_size=vocab_size, max_sequence_tokens=max_sequence_tokens)
        config = build_config(
            architecture, vocab_size=vocab_size, end_of_document_id=0, max_sequence_tokens=max_sequence_tokens
        )
        named = f"architecture of model_type {architecture['model_type']}"
        require_causal_config(config, named=named, max_sequence_tokens=max_sequence_tokens)
    except ModelError as error:
        return str(error)
    return None


def train(
    work: Work[Any],
    draft: Draft,
    *,
    architecture: Mapping[str, Any],
    training: Training,
    sequence_files: Sequence[Path],
    split: str | None,
    seed: int,
    max_sequence_tokens: int,
    objective: Objective | None = None,
    objective_inputs: Mapping[str, Input] | None = None,
    prompts_have_loss: bool = True,
    last_checkpoints: LastCheckpoints | None = None,
) -> None:
    """Train a model and let the draft hold it.

    Args:
        work: its input `sequences` gives the held-out texts, its input `tokenizer` the tokenizer.
        draft: takes the weights, the tokenizer, the training log and the facts.
        architecture: `model_type` and its settings.
        training: budget, schedule and optimiser.
        sequence_files: the sequences to learn from.
        split: which of their rows; None where they hold nothing else.
        seed: of the weights and of the order.
        max_sequence_tokens: of the longest sequence.
        objective: the loss; cross-entropy where absent.
        objective_inputs: what it needs beside the sequences, by role.
        prompts_have_loss: whether the prompts of generated sequences have a loss.
        last_checkpoints: states before the last one that are kept beside it; none where absent.
    """
    tokenizer_folder = work.input(TOKENIZER.name).verified_folder()
    tokenizer = load_tokenizer(tokenizer_folder)
    job = TrainingJob(
        name=work.node.key,
        architecture=architecture,
        training=training,
        tokenizer_folder=tokenizer_folder,
        vocab_size=tokenizer.vocab_size,
        end_of_document_id=tokenizer.end_of_document_id,
        sequence_files=tuple(sequence_files),
        split=split,
        held_out_files=tuple(work.input_tables(SEQUENCES.name)),
        max_sequence_tokens=max_sequence_tokens,
        seed=seed,
        data_fingerprint=draft.recipe.fingerprint,
        objective=objective or CrossEntropy(),
        objective_inputs=objective_inputs or {},
        prompts_have_loss=prompts_have_loss,
        last_checkpoints=last_checkpoints,
    )
    folder = curves_folder(work.pipeline.store.root, draft.recipe)
    if training.num_nodes > 1:
        work.run.connect_ray()
    device = work.run.device() if training.num_devices_here else nullcontext()
    with device, EventFile(folder, work.report) as curves:
        draft.facts = train_language_model(
            job, work=draft.work, target=draft.path, report=work.report, stop=work.run.stop, curves=curves
        )
