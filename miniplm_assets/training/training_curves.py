"""The curves of a training under way: its losses, learning rate, gradient norm and pace."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from miniplm_assets.storage.curves import Curves

# A legend of more is not read; the largest are shown, and the log has all.
MAX_SHOWN_DOMAINS: Final = 20


class Pace:
    """How many tokens a second are trained on, since it was last asked.

    Args:
        num_tokens: trained on before it begins.
    """

    def __init__(self, num_tokens: int) -> None:
        self._num_tokens, self._since = num_tokens, time.monotonic()

    def tokens_per_second(self, num_tokens: int) -> float:
        """Return the pace up to now; the next one begins here.

        Args:
            num_tokens: trained on so far.
        """
        seconds, done = time.monotonic() - self._since, num_tokens - self._num_tokens
        self._num_tokens, self._since = num_tokens, self._since + seconds
        return done / max(1e-9, seconds)

    def begin_again(self) -> None:
        """Leave out what was done since it was last asked: it was no training."""
        self._since = time.monotonic()


def add_training(
    curves: Curves,
    step: int,
    *,
    nll: float,
    objective: float,
    learning_rate: float,
    gradient_norm: Any,
    tokens_per_second: float,
) -> None:
    """Add a step to the curves.

    Args:
        curves: take it.
        step: of the whole training, from 1.
        nll: mean cross-entropy since the last row of the log, in nats a token.
        objective: mean of what is minimised, over the same.
        learning_rate: of the step.
        gradient_norm: of the step, before clipping: a number, or a tensor of one; None where there was no step.
        tokens_per_second: the pace.
    """
    values = {
        "training/nll_nats_per_token": nll,
        "training/objective_nats_per_token": objective,
        "training/learning_rate": learning_rate,
        "training/tokens_per_second": tokens_per_second,
    }
    if gradient_norm is not None:
        values["training/gradient_norm"] = float(gradient_norm)
    curves.add(step, values)


def add_held_out(curves: Curves, step: int, *, nll: float, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add held-out losses to the curves.

    Args:
        curves: take them.
        step: after which they were measured.
        nll: over the whole sample, in nats a token.
        rows: of the held-out log, of any steps; those of this one are taken.
    """
    here = [row for row in rows if row["step"] == step and row["num_scored_tokens"]]
    largest = sorted(here, key=lambda row: row["num_scored_tokens"], reverse=True)[:MAX_SHOWN_DOMAINS]
    by_domain = {
        f"held_out_nll_nats_per_token/{row['domain']}": row["nll_nats"] / row["num_scored_tokens"] for row in largest
    }
    curves.add(step, {"held_out/nll_nats_per_token": nll} | by_domain)
