"""Knowledge distillation in language-model pre-training as a graph of Dagster assets.

The method is MiniPLM's Difference Sampling (arXiv 2410.17215): every sequence of a corpus is scored
by a large teacher and a small reference language model; the sequences that the teacher predicts far
better than the reference are kept, and any student is trained on them.

``MiniPLM`` is an experiment as a component of a Dagster project; see `component`.
"""

from importlib import import_module
from typing import Any

__all__ = ["MiniPLM"]


def __getattr__(name: str) -> Any:
    """Import the component when it is asked for, and by its name: most of the package must not know Dagster."""
    if name == "MiniPLM":
        return import_module("miniplm_assets.component").MiniPLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Name the component too: Dagster finds it here."""
    return sorted({*globals(), *__all__})
