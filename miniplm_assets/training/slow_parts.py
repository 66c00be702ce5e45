"""Whether a model computes parts by a readable reference where a kernel is meant: right, but many times slower.

transformers has both for what a state space model does (Mamba and its kin), takes the reference where a package is not
installed, and says so in its log, once a process. Here it is said for each model, with what it comes to.
"""

import logging
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from miniplm_assets.lm.modes import evaluation_mode
from miniplm_assets.training.progress import readable_duration

_FALLS_BACK: Final = re.compile(r"`(\w+)` is falling back to its reference .* because `([^`]+)` is not installed")


@contextmanager
def slow_parts_noted() -> Iterator[dict[str, str]]:
    """Note what transformers computes by a reference while a model runs: the missing package, by a function's name.

    What it would write into its own log of that is left out.
    """
    from transformers.utils.logging import warning_once

    found: dict[str, str] = {}

    def note(record: logging.LogRecord) -> bool:
        said = _FALLS_BACK.match(record.getMessage())
        if said:
            found[said[1]] = said[2]
        return not said

    library = logging.getLogger("transformers")
    handlers, level = list(library.handlers), library.level
    for handler in handlers:
        handler.addFilter(note)
    library.setLevel(min(library.getEffectiveLevel(), logging.WARNING))
    warning_once.cache_clear()  # let it say again what it says once a process
    try:
        yield found
    finally:
        library.setLevel(level)
        for handler in handlers:
            handler.removeFilter(note)


def what_is_slow(model: Any, packages: Mapping[str, str], *, num_sequences: int, num_tokens: int) -> str:
    """Say which parts of a model are slow and, on a CPU, how long its training will take by that.

    Takes as long as two sequences do. Draws no random numbers, and leaves no gradients.

    Args:
        model: on the device where it is trained.
        packages: as `slow_parts_noted` gives them, at least one.
        num_sequences: that it will be trained on.
        num_tokens: of a long one of them.
    """
    line = (
        f"{', '.join(sorted(packages))} of {type(model).__name__} are computed by transformers' own reference, since "
        f"these packages are not installed: {', '.join(sorted(set(packages.values())))}; right, but slow"
    )
    if model.device.type != "cpu":
        return line
    seconds = _seconds_of_a_pass(model, num_tokens)
    return (
        f"{line}. A sequence of {num_tokens:,} tokens takes {seconds:,.1f} s here, so the {num_sequences:,} of this "
        f"run some {readable_duration(seconds * num_sequences)}"
    )


def _seconds_of_a_pass(model: Any, num_tokens: int) -> float:
    """Return the seconds of a forward and a backward pass: of the second of two."""
    import torch

    vocab_size = model.get_input_embeddings().weight.shape[0]
    token_ids = (torch.arange(num_tokens) % vocab_size).unsqueeze(0)
    seconds = 0.0
    with evaluation_mode(model):
        for _ in range(2):
            started = time.perf_counter()
            model(input_ids=token_ids, use_cache=False).logits.float().logsumexp(-1).mean().backward()
            seconds = time.perf_counter() - started
            model.zero_grad(set_to_none=True)
    return seconds
