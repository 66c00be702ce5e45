"""What else is told of a training: the reporters of transformers (wandb, mlflow, ...), where the settings name some.

Each takes its own settings from its own environment variables or files, and sends what it is told wherever those say.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from miniplm_assets.core.doors import cause_of, explained_as
from miniplm_assets.core.errors import TrainingError
from miniplm_assets.storage.curves import Curves


def open_reporters(names: Sequence[str]) -> list[Any]:
    """Return the callbacks of transformers that tell the reporters; nothing is sent before a training begins.

    Raises:
        TrainingError: if the package of one is not installed.
    """
    if not names:
        return []
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    opened = []
    for name in names:
        with explained_as(
            TrainingError,
            f"training.reporters: {name} cannot be opened",
            "install its package, or leave it out of training.reporters",
        ):
            opened.append(INTEGRATION_TO_CALLBACK[name]())
    return opened


def reporter_problems(names: Sequence[str]) -> Iterator[str]:
    """Say why a reporter cannot be told, if one cannot."""
    try:
        open_reporters(names)
    except TrainingError as error:
        yield str(error)


class Reported(Curves):
    """Curves that go to the reporters of a trainer as well; what fails there is reported once, and ends it."""

    def __init__(self, curves: Curves, trainer: Any, report: Callable[[str], None]) -> None:
        """Tell them nothing yet.

        Args:
            curves: are told first.
            trainer: of transformers; its callbacks are told.
            report: takes a line where they cannot be.
        """
        self._curves, self._trainer, self._report = curves, trainer, report
        self._is_given_up = False

    def begin(self, first_step: int) -> None:
        """Let the curves begin; reporters forget nothing."""
        self._curves.begin(first_step)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of a step."""
        self._curves.add(step, values)
        if self._is_given_up:
            return
        try:
            with explained_as(TrainingError, "a reporter failed", "see its own messages"):
                self._tell(step, values)
        except (TrainingError, OSError) as error:
            self._is_given_up = True
            self._report(f"no more is sent to training.reporters: {cause_of(error)}. The training goes on.")

    def _tell(self, step: int, values: Mapping[str, float]) -> None:
        trainer = self._trainer
        # A trainer counts from where this process began, a reporter asks it for the step of the training.
        counted, trainer.state.global_step = trainer.state.global_step, step
        try:
            trainer.callback_handler.on_log(trainer.args, trainer.state, trainer.control, dict(values))
        finally:
            trainer.state.global_step = counted
