"""Progress of a long step, said every few seconds."""

import time
from collections.abc import Callable
from typing import Final

# Often enough to see that it lives, seldom enough to read.
REPORT_SECONDS: Final = 10.0

Report = Callable[[str], None]


class Progress:
    """Passes on what a step says, at most once every `REPORT_SECONDS`."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._next = time.monotonic() + REPORT_SECONDS

    def say(self, sentence: str) -> None:
        """Report the sentence if the last one is long ago."""
        now = time.monotonic()
        if now >= self._next:
            self._report(sentence)
            self._next = now + REPORT_SECONDS
