"""What an objective is: a loss, what it needs beside the sequences, and what it costs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Protocol, TypeVar

from miniplm_assets.experiment.settings import Settings

if TYPE_CHECKING:
    import torch

# What is not predicted: padding, and the token after an end-of-document token.
NO_LOSS = -100
O = TypeVar("O", bound=Settings)  # noqa: E741
MeanOver = Literal["tokens", "sequences"]


class Loss(NamedTuple):
    """The loss of some sequences, as tensors that may still be on their way on the device.

    Attributes:
        nats: sum over the predicted tokens of each sequence, of shape (sequences,); where the mean of a step is over
            tokens, the sum over all of them will do.
        num_predicted: how many tokens that are, of the same shape.
    """

    nats: "torch.Tensor"
    num_predicted: "torch.Tensor"


class LossFunction(Protocol):
    """A loss, ready to be computed: models that it needs are loaded."""

    def __call__(self, model: Any, batch: "Mapping[str, torch.Tensor]") -> Loss:
        """Return the loss of a batch.

        Args:
            model: the student.
            batch: `input_ids` and `labels`, int64 of shape (sequences, positions); labels are `NO_LOSS` where nothing
                is predicted.
        """


@dataclass(frozen=True, kw_only=True)
class ObjectiveKind(Generic[O]):
    """One objective.

    Attributes:
        inputs: what it needs beside the sequences: by role, the kind and the name of an asset.
        flops: of training so many parameters on so many tokens.
        open: gives the loss, for a mean of each step over tokens or over sequences.
    """

    inputs: Callable[[O], Mapping[str, tuple[str, str]]]
    flops: Callable[[int, int], int]
    open: Callable[[O, MeanOver], LossFunction]
