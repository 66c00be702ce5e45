"""Which sequences are learned from, in which order, and when the losses are looked at.

Decided before the first step, from the lengths and the seed alone, so that a resumed run needs no
memory of it and two students with the same budget see the same number of tokens.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from miniplm_assets.core.errors import TrainingError
from miniplm_assets.experiment.models import LastCheckpoints

# The training log holds at most about this many rows, whatever the number of steps: enough for a curve.
NUM_LOG_ROWS = 200


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """The course of a training run.

    Attributes:
        order: uint32 of shape (num_drawn,): rows of the token file, one after the other.
        sequences_per_step: how many of them make a step; the last step takes what is left.
        tokens_after_step: int64 of shape (num_steps,): tokens of all sequences up to the end of each step.
        evaluation_steps: steps (from 1) after which the held-out loss is measured; the last step is one.
        log_steps: steps that get a row in the training log; all evaluation steps are among them.
        num_epochs: how often the data is gone through.
        kept_steps: steps before the last after which the weights are kept, rising.
    """

    order: NDArray[np.uint32]
    sequences_per_step: int
    tokens_after_step: NDArray[np.int64]
    evaluation_steps: frozenset[int]
    log_steps: frozenset[int]
    num_epochs: float
    kept_steps: tuple[int, ...] = ()

    @property
    def num_steps(self) -> int:
        """Optimiser steps."""
        return len(self.tokens_after_step)

    @property
    def num_tokens(self) -> int:
        """Tokens of all drawn sequences."""
        return int(self.tokens_after_step[-1])


def plan_training(
    num_tokens: NDArray[np.int64],
    *,
    token_budget: int,
    sequences_per_step: int,
    num_evaluations: int,
    seed: int,
    repeats_order: bool = False,
    last_checkpoints: LastCheckpoints | None = None,
) -> TrainingPlan:
    """Draw sequences in random order, epoch after epoch, until they hold the token budget.

    The sequence that reaches the budget is the last one, so that the budget is exceeded by less than one
    sequence. Takes some 20 bytes of memory a drawn sequence.

    Args:
        num_tokens: int64 of shape (num_sequences,): the length of each sequence, at least one of them.
        token_budget: tokens to train on.
        sequences_per_step: sequences of one optimiser step.
        num_evaluations: held-out losses, evenly spaced, the last one at the end.
        seed: of the order.
        repeats_order: whether each epoch has the order of the first; else each has its own.
        last_checkpoints: states whose weights are kept; the last one alone where absent.

    Raises:
        TrainingError: if there are too few steps to keep so many states.
    """
    random = np.random.default_rng(seed)
    epoch_tokens = int(num_tokens.sum())
    drawn: list[NDArray[np.uint32]] = []
    left = token_budget
    while left > 0:
        is_drawn = drawn and repeats_order
        epoch = drawn[0] if is_drawn else random.permutation(len(num_tokens)).astype(np.uint32)
        if left < epoch_tokens:
            num_needed = int(np.searchsorted(np.cumsum(num_tokens[epoch]), left, side="left")) + 1
            epoch = epoch[:num_needed]
        drawn.append(epoch)
        left -= epoch_tokens
    order = np.concatenate(drawn)
    step_starts = np.arange(0, len(order), sequences_per_step)
    tokens_after_step = np.add.reduceat(num_tokens[order], step_starts).cumsum()
    num_steps = len(step_starts)
    log_interval = math.ceil(num_steps / NUM_LOG_ROWS)
    evaluation_steps = evenly_spaced(num_steps, num_evaluations)
    return TrainingPlan(
        order=order,
        sequences_per_step=sequences_per_step,
        tokens_after_step=tokens_after_step,
        evaluation_steps=evaluation_steps,
        log_steps=evaluation_steps | frozenset(range(log_interval, num_steps + 1, log_interval)),
        num_epochs=int(tokens_after_step[-1]) / epoch_tokens,
        kept_steps=_kept_steps(num_steps, last_checkpoints),
    )


def _kept_steps(num_steps: int, last: LastCheckpoints | None) -> tuple[int, ...]:
    if last is None:
        return ()
    before = sorted({num_steps - round(place * last.apart * num_steps) for place in range(1, last.number)})
    if len(before) < last.number - 1 or before[-1] == num_steps or before[0] < 1:
        raise TrainingError(
            f"training.last_checkpoints: {last.number} states, {last.apart:g} of {num_steps:,} steps apart, are not as "
            "many different ones; raise `apart`, lower `number`, or train for more steps"
        )
    return tuple(before)


def evenly_spaced(num_steps: int, count: int) -> frozenset[int]:
    """Return up to `count` steps between 1 and `num_steps`, evenly spaced, the last one among them."""
    count = min(count, num_steps)
    return frozenset(round(num_steps * place / count) for place in range(1, count + 1))
