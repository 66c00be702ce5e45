"""What an objective is: a loss, what it needs beside the sequences, and what it costs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from miniplm_assets.experiment.settings import Settings
from miniplm_assets.training.sharding import Sharding

if TYPE_CHECKING:
    import torch

    from miniplm_assets.training.token_file import Row, TokenFile

O = TypeVar("O", bound=Settings)  # noqa: E741
# The kinds of assets that are models.
MODEL_KINDS: Final = frozenset({"teacher_model", "reference_model"})
# The tensors of some sequences; see `training.batch`.
Batch = Mapping[str, "torch.Tensor"]


class Loss(NamedTuple):
    """The loss of some sequences, as scalars that may still be on their way on the device.

    Attributes:
        total: sum of weight * nats over the predicted tokens; gradients flow from here.
        nats: sum of nats over them, for the log.
        nll_nats: sum of their cross-entropy, for the log: the same for the objectives that minimise that.
    """

    total: "torch.Tensor"
    nats: "torch.Tensor"
    nll_nats: "torch.Tensor"


@dataclass(frozen=True, kw_only=True)
class Input:
    """A stored input of an objective.

    Attributes:
        folder: of a model; None for tables.
        files: of its table, in the order of the corpus files; none for a model.
        begin_of_sequence_id: the token that the model reads in front of every sequence, if any.
    """

    folder: Path | None = None
    files: tuple[Path, ...] = ()
    begin_of_sequence_id: int | None = None


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where an objective is at work.

    Attributes:
        model: the student, on the CPU, its weights still random.
        inputs: by role, as `ObjectiveKind.inputs` names them.
        tokens: the sequences that are learned from.
        vocab_size: of the tokenizer, and so of the student.
        end_of_document_id: the token between documents.
        device: that is trained on.
        dtype: of the matrix products: float32, bfloat16 or float16.
        seed: of the run.
        data_fingerprint: identity of the sequences and the inputs.
        work: a folder that survives a crash; it belongs to this run.
        report: takes a line of progress.
        sharding: spreads models over the processes that train together; None where each holds all of one.
    """

    model: Any
    inputs: Mapping[str, Input]
    tokens: "TokenFile"
    vocab_size: int
    end_of_document_id: int
    device: "torch.device"
    dtype: str
    seed: int
    data_fingerprint: str
    work: Path
    report: Callable[[str], None]
    sharding: Sharding | None = None


class Objective:
    """A loss, ready to be computed: models that it needs are loaded.

    Attributes:
        num_parameters: of the models that it runs beside the student, by the role of their input.
        facts: what is worth knowing of the run beside the loss.
    """

    num_parameters: Mapping[str, int]
    facts: Mapping[str, Any]

    def __init__(self) -> None:
        self.num_parameters = {}
        self.facts = {}

    def predicted(self, row: "Row", is_predicted: NDArray[np.bool_]) -> NDArray[np.bool_]:  # noqa: ARG002
        """Return which tokens of a sequence, but for its first, have a loss: of those that may, all, unless overridden.

        Args:
            row: the sequence.
            is_predicted: bool of shape (num_tokens - 1,): whether a token may have one.
        """
        return is_predicted

    def more(self, rows: "Sequence[Row]", is_predicted: Sequence[NDArray[np.bool_]]) -> Batch:  # noqa: ARG002
        """Return tensors of its own for a batch, which are on the device when the loss is asked for.

        Args:
            rows: the sequences.
            is_predicted: of each sequence, as `predicted` returned it.
        """
        return {}

    def loss(self, model: Any, batch: Batch) -> Loss:
        """Return the loss of a batch.

        Args:
            model: the student.
            batch: as `training.batch.make_batch` returns it.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class ObjectiveKind(Generic[O]):
    """One objective.

    Attributes:
        inputs: what it needs beside the sequences: by role, the kind and the name of an asset.
        flops_per_token: of training a student of so many parameters, with those of the models that it runs beside the
            student by role.
        open: makes the loss ready.
    """

    inputs: Callable[[O], Mapping[str, tuple[str, str]]]
    flops_per_token: Callable[[O, int, Mapping[str, int]], int]
    open: Callable[[O, Setting], Objective]

    def models_beside(self, settings: O) -> list[str]:
        """Return the roles of the models that run beside a student; other inputs are tables."""
        return [role for role, (kind, _) in self.inputs(settings).items() if kind in MODEL_KINDS]
