"""The processes that train a model together, as the training sees them: who it is, and how they agree.

Each learns from its share of a step's sequences and adds its gradients to those of the others, so that all hold the
same weights. What depends on a clock, or on who is told to stop, the first of them decides for all: a process that
does something alone which asks the others would wait for them for ever.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    pass

# The first prepares the data, and writes checkpoints, while the others wait. One that ends is noticed at once.
PATIENCE: Final = timedelta(hours=2)
_FIRST: Final = 0


class Processes:
    """One process that trains alone.

    Attributes:
        rank: of this process, from 0.
        number: of processes.
    """

    rank = 0
    number = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == _FIRST

    def agree(self, is_so: bool) -> bool:
        """Return what the first process says."""
        return is_so

    def gathered(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return an array of which each process knows some places, with zeros in the others, as all know it."""
        return shares

    def seed_step(self, seed: int, step: int) -> None:
        """Let this process draw other random numbers in a step than the others; nothing where it is alone."""

    @contextmanager
    def first_ahead(self) -> Iterator[None]:
        """Let the first process do something, and then the others, who find what it made."""
        yield


class Together(Processes):
    """One of several processes that torch.distributed has brought together."""

    def __init__(self) -> None:
        import torch.distributed as dist

        self.rank, self.number = dist.get_rank(), dist.get_world_size()

    def agree(self, is_so: bool) -> bool:
        """Return what the first process says."""
        import torch
        import torch.distributed as dist

        said = torch.tensor([is_so], dtype=torch.uint8)  # on the CPU: a device need not be waited for
        dist.broadcast(said, src=_FIRST)
        return bool(said)

    def gathered(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return an array of which each process knows some places, with zeros in the others, as all know it."""
        import torch
        import torch.distributed as dist

        whole = torch.from_numpy(shares.copy())
        dist.all_reduce(whole)
        return whole.numpy()

    def seed_step(self, seed: int, step: int) -> None:
        """Let this process draw other random numbers in a step than the others; the same if the step is done again."""
        import torch

        digest = hashlib.sha256(f"{seed} {step} {self.rank}".encode()).digest()
        torch.manual_seed(int.from_bytes(digest[:8], "little"))

    @contextmanager
    def first_ahead(self) -> Iterator[None]:
        """Let the first process do something, and then the others, who find what it made."""
        if not self.is_first:
            self.agree(True)
        yield
        if self.is_first:
            self.agree(True)


@contextmanager
def brought_together() -> Iterator[Together]:
    """Bring this process together with those that torchrun has started with it; on its own GPU where there are some."""
    import torch
    import torch.distributed as dist

    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend=backend, timeout=PATIENCE)
    yield Together()
    # Not after an error: others may be waiting for this one, and it for them.
    dist.destroy_process_group()
