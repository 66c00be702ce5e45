"""The layers of a model, which are spread over devices, or compiled, one by one."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from miniplm_assets.core.errors import TrainingError

# It looks whether what goes into a layer has a gradient.
_TO_ITSELF: Final = r"The \.grad attribute of a Tensor that is not a leaf"


def layers_of(model: Any, *, setting: str, otherwise: str) -> list[Any]:
    """Return the layers of a model of transformers, which says what they are.

    Args:
        model: the model.
        setting: that asks for them.
        otherwise: what it can be set to.

    Raises:
        TrainingError: if transformers does not say it of this model.
    """
    kinds = set(model._no_split_modules or ())
    layers = [module for module in model.modules() if type(module).__name__ in kinds]
    if not layers:
        raise TrainingError(
            f"{setting}: transformers does not say what the layers of a {type(model).__name__} are; set it to "
            f"{otherwise}"
        )
    return layers


def compile_layers(model: Any) -> None:
    """Let each layer of a model be compiled as it is first called; each kind once, however many of it there are.

    What lies between the layers is little, and the output layer is not computed by the model. They keep their names and
    values, so that checkpoints, DDP, FSDP2 and gradient checkpointing know no difference.

    Raises:
        TrainingError: as `layers_of`.
    """
    for layer in layers_of(model, setting="training.compile true", otherwise="false"):
        # Else the first batch decides on shapes, and a run that goes on with another one would round otherwise.
        layer.compile(dynamic=True)


@contextmanager
def compiling(*, name: str) -> Iterator[None]:
    """Say in our words what keeps torch from compiling, and leave out what it says to itself.

    Args:
        name: what messages call the training.

    Raises:
        TrainingError: if it cannot be done on this machine, or of this model.
    """
    from torch._dynamo.exc import TorchDynamoException

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", _TO_ITSELF)
            yield
    except TorchDynamoException as error:
        raise TrainingError(
            f"{name}: torch cannot compile its layers here ({why_not_compiled(error)}); set training.compile to false"
        ) from error


def why_not_compiled(error: Exception) -> str:
    """Return what torch's compiler says first, in one line; hints come after it."""
    return " ".join(str(error).split("\n\n")[0].split())
