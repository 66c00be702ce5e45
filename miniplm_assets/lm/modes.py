"""The mode of a model: training, with its dropout, or evaluation."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
    """Put a model into evaluation mode, and each of its parts back into the mode that it had."""
    # One by one: a frozen part of a model in training may stand in evaluation mode itself.
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training
