"""What one training run is asked to do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from miniplm_assets.experiment.models import LastCheckpoints, Training
from miniplm_assets.experiment.objectives import CrossEntropy, Objective
from miniplm_assets.training.objectives.objective import Input


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """A model to train.

    Attributes:
        name: what messages call it, for example ``small/student_checkpoint``.
        architecture: `model_type` and keys of its transformers configuration.
        training: optimiser, budget and schedule.
        objective: the loss.
        objective_inputs: what it needs beside the sequences, by role.
        tokenizer_folder: the tokenizer's files, copied beside the weights.
        vocab_size: number of ids of the tokenizer.
        end_of_document_id: the token between documents; what follows it carries no loss.
        sequence_files: Parquet files with a column `token_ids`, and `split` where `split` is given.
        split: only the rows of this split are learned from; None where the files hold nothing else.
        held_out_files: Parquet files with `token_ids`, `domain` and `split`, whose validation rows are never learned
            from.
        max_sequence_tokens: tokens of the longest sequence that the files may hold.
        seed: decides weights, order and dropout. The same seed gives the same model.
        data_fingerprint: identity of the files' content.
        prompts_have_loss: whether the first `num_prompt_tokens` of each sequence, a column of generated ones, have one.
        last_checkpoints: states before the last one whose weights are kept too; they touch no weight.
    """

    name: str
    architecture: Mapping[str, Any]
    training: Training
    tokenizer_folder: Path
    vocab_size: int
    end_of_document_id: int
    sequence_files: tuple[Path, ...]
    split: str | None
    held_out_files: tuple[Path, ...]
    max_sequence_tokens: int
    seed: int
    data_fingerprint: str
    objective: Objective = field(default_factory=CrossEntropy)
    objective_inputs: Mapping[str, Input] = field(default_factory=dict)
    prompts_have_loss: bool = True
    last_checkpoints: LastCheckpoints | None = None

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values, for a process that trains it."""
        inputs = {
            role: {**vars(one), "folder": one.folder and str(one.folder), "files": [str(path) for path in one.files]}
            for role, one in self.objective_inputs.items()
        }
        return {
            **vars(self),
            "architecture": dict(self.architecture),
            "training": self.training.model_dump(mode="json"),
            "tokenizer_folder": str(self.tokenizer_folder),
            "sequence_files": [str(path) for path in self.sequence_files],
            "held_out_files": [str(path) for path in self.held_out_files],
            "objective": self.objective.model_dump(mode="json"),
            "objective_inputs": inputs,
            "last_checkpoints": self.last_checkpoints and self.last_checkpoints.model_dump(mode="json"),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "TrainingJob":
        """Return the job that `to_json` described."""
        inputs = {
            role: Input(
                folder=one["folder"] and Path(one["folder"]),
                files=tuple(map(Path, one["files"])),
                begin_of_sequence_id=one["begin_of_sequence_id"],
            )
            for role, one in content["objective_inputs"].items()
        }
        last = content["last_checkpoints"]
        objective: TypeAdapter[Objective] = TypeAdapter(Objective)
        read = {
            "training": Training.model_validate(content["training"]),
            "tokenizer_folder": Path(content["tokenizer_folder"]),
            "sequence_files": tuple(map(Path, content["sequence_files"])),
            "held_out_files": tuple(map(Path, content["held_out_files"])),
            "objective": objective.validate_python(content["objective"]),
            "objective_inputs": inputs,
            "last_checkpoints": last and LastCheckpoints.model_validate(last),
        }
        return cls(**{**content, **read})

    def identity(self) -> dict[str, Any]:
        """Return all that the trained weights depend on; a checkpoint fits only the same.

        How often and on what held-out losses are measured on the way is not in: it touches no weight.
        """
        return {
            "architecture": dict(self.architecture),
            "objective": self.objective.identity(),
            **self.training.identity(),
            "vocab_size": self.vocab_size,
            "end_of_document_id": self.end_of_document_id,
            "split": self.split,
            "max_sequence_tokens": self.max_sequence_tokens,
            "seed": self.seed,
            "data_fingerprint": self.data_fingerprint,
            # As in `Settings.identity`: a checkpoint of before there were prompts goes on.
            **({} if self.prompts_have_loss else {"prompts_have_loss": False}),
        }
