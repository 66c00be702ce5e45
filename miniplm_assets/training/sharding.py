"""Models that are spread over the processes that train them (fully sharded data parallelism, torch's FSDP2).

Each process holds a part of every weight, of its gradient and of its moments. A layer is gathered where it is computed;
what belongs to none, such as embeddings and the output layer, from the beginning of the forward pass to the end of the
backward pass, so that a loss may be taken outside of the model. What is stored is always whole: any number of processes
goes on from it.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from miniplm_assets.training.layers import layers_of

if TYPE_CHECKING:
    import torch


class Sharding:
    """Spreads models over processes."""

    def __init__(self, device: "torch.device", num_processes: int) -> None:
        """Bring the processes together for it; all of them, at once.

        Args:
            device: of this one.
            num_processes: all of them.
        """
        from torch.distributed.device_mesh import init_device_mesh

        self._device = device
        self._mesh = init_device_mesh(device.type, (num_processes,))

    def shard(self, model: Any) -> None:
        """Spread a model that is to be trained, in place.

        Raises:
            TrainingError: if transformers does not say what its layers are.
        """
        from torch.distributed.fsdp import fully_shard

        self._shard_layers(model)
        fully_shard(model, mesh=self._mesh)

    def shard_frozen(self, model: Any) -> None:
        """Spread the layers of a model whose parts are asked by themselves; the rest is whole in each process.

        Raises:
            TrainingError: if transformers does not say what its layers are.
        """
        self._shard_layers(model)
        model.to(self._device)

    def _shard_layers(self, model: Any) -> None:
        from torch.distributed.fsdp import fully_shard

        for layer in layers_of(model, setting="training.parallelism fsdp", otherwise="ddp"):
            fully_shard(layer, mesh=self._mesh, reshard_after_forward=True)


def is_sharded(model: Any) -> bool:
    """Whether a model is spread over processes."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


@contextmanager
def measurable(model: Any) -> Iterator[None]:
    """Let the parts of a model be asked by themselves; what a spread one has gathered for that, it lets go after it."""
    import torch

    if not is_sharded(model):
        yield
        return
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # side by side, threads would gather other layers than those of another process
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
        model.reshard()


def gathered_weights(model: Any, into: "Callable[[], torch.nn.Module]", *, is_kept: bool) -> Any:
    """Return a model with the whole weights of a spread one; all processes must ask.

    Args:
        model: is spread.
        into: makes a model of the same shape, on the CPU.
        is_kept: whether this process wants it; the others get None.
    """
    whole = {name: _gathered(value, is_kept=is_kept) for name, value in model.state_dict().items()}
    if not is_kept:
        return None
    plain = into()
    plain.load_state_dict(whole)
    return plain


def gathered_optimizer_state(optimizer: Any, *, is_kept: bool) -> dict[str, Any]:
    """Return the state of an optimiser with whole tensors; all processes must ask.

    Args:
        optimizer: of a spread model.
        is_kept: whether this process wants it; the others get None in the place of each.
    """
    state = optimizer.state_dict()
    whole = {
        number: {name: _gathered(value, is_kept=is_kept) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    return {**state, "state": whole}


def spread_optimizer_state(
    optimizer: Any, state: Mapping[int, Mapping[str, "torch.Tensor"]]
) -> dict[int, dict[str, Any]]:
    """Return whole tensors of an optimiser's state as its parameters are spread; those of others as they are.

    Args:
        optimizer: its parameters are numbered as the state is.
        state: by number and name.
    """
    from torch.distributed.tensor import DTensor, distribute_tensor

    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    spread: dict[int, dict[str, Any]] = {}
    for number, values in state.items():
        parameter = parameters[number]
        spread[number] = {
            name: distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
            if isinstance(parameter, DTensor) and value.shape == parameter.shape
            else value
            for name, value in values.items()
        }
    return spread


def gathered_number(value: Any) -> Any:
    """Return a scalar that may be spread over processes as one that is not; all processes must ask."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def _gathered(value: "torch.Tensor", *, is_kept: bool) -> "torch.Tensor | None":
    whole = gathered_number(value)
    return whole.cpu() if is_kept else None
