"""What an objective is: a loss, what it needs beside the sequences, and what it costs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

from miniplm_assets.experiment.settings import Settings

if TYPE_CHECKING:
    import torch

# What is not predicted: padding, and the token after an end-of-document token.
NO_LOSS = -100
O = TypeVar("O", bound=Settings)  # noqa: E741


class Loss(NamedTuple):
    """The loss of some sequences, as scalars that may still be on their way on the device.

    Attributes:
        nats: sum over the predicted tokens; what is minimised is its mean over those of a whole step.
        num_predicted: how many tokens that are.
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
        open: gives the loss.
    """

    inputs: Callable[[O], Mapping[str, tuple[str, str]]]
    flops: Callable[[int, int], int]
    open: Callable[[O], LossFunction]
