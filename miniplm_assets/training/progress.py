"""Progress of a training run, for the person who waits."""

import time
from collections.abc import Callable

from miniplm_assets.core.progressed import Progressed

# Often enough to see that it moves, seldom enough to read.
SECONDS_BETWEEN_REPORTS = 10.0


class Progress:
    """Says now and then how far a training run is.

    Args:
        report: takes one line.
        num_steps: of the whole run.
        num_tokens: of the whole run.
        num_tokens_before: trained on before a resume.
    """

    def __init__(
        self, report: Callable[[str], None], *, num_steps: int, num_tokens: int, num_tokens_before: int
    ) -> None:
        self._report = report
        self._num_steps = num_steps
        self._num_tokens = num_tokens
        self._num_tokens_before = num_tokens_before
        self._started = self._last_report = time.monotonic()

    def is_due(self, step: int) -> bool:
        """Whether it is time for a line."""
        return step == self._num_steps or time.monotonic() - self._last_report >= SECONDS_BETWEEN_REPORTS

    def say(self, step: int, *, num_tokens: int, nats_per_token: float) -> None:
        """Report a step: tokens so far, the training loss, speed and time left."""
        self._last_report = time.monotonic()
        seconds = max(1e-9, self._last_report - self._started)
        tokens_per_second = (num_tokens - self._num_tokens_before) / seconds
        seconds_left = (self._num_tokens - num_tokens) / max(1e-9, tokens_per_second)
        line = (
            f"step {step:,} of {self._num_steps:,}, {num_tokens:,} tokens, {nats_per_token:.3f} nats a token, "
            f"{tokens_per_second:,.0f} tokens/s, {readable_duration(seconds_left)} left"
        )
        self._report(Progressed(line, done=step, total=self._num_steps))


def readable_duration(seconds: float) -> str:
    """Return a duration as people say it: 45 s, 3 min 20 s, 2 h 5 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
