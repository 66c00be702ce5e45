"""Is the `dagster` command, but for a signal to itself in the middle of a training's step.

python -m tests.stop_at_step SIGNAL STEP [dagster's arguments]
"""

import os
import signal
import sys

from dagster._cli import main

from miniplm_assets.training.journal import Journal


def main_with_signal(name: str, at_step: int, arguments: list[str]) -> None:
    """Run."""
    record = Journal.record

    def record_and_signal(journal, step, **losses):
        record(journal, step, **losses)
        if step == at_step:
            os.kill(os.getpid(), signal.Signals[name])

    Journal.record = record_and_signal
    sys.argv = ["dagster", *arguments]
    main()


if __name__ == "__main__":
    main_with_signal(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
