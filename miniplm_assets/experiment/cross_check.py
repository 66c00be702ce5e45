"""Whether the parts of an experiment fit together: what one names, another must be, and be of the right sort."""

from collections.abc import Collection, Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

from miniplm_assets.experiment.generation_check import GenerationCheck
from miniplm_assets.experiment.models import TrainedModel
from miniplm_assets.experiment.selection_check import SelectionCheck
from miniplm_assets.experiment.settings import unknown
from miniplm_assets.experiment.student_check import StudentCheck

if TYPE_CHECKING:  # the schema checks itself by this
    from miniplm_assets.experiment.schema import Experiment

# In the context of a validation: names that the file has, and that are wrong in themselves.
LEFT_OUT: Final = "left_out"


class CrossCheck:
    """The checks of a whole experiment.

    Args:
        experiment: its parts, each right in itself.
        left_out: names of others that are not; nothing is said of what they are named for.
    """

    def __init__(self, experiment: "Experiment", left_out: Collection[str]) -> None:
        self._file = experiment
        self._left_out = left_out
        self._unknown = partial(unknown, left_out=left_out)

    def problems(self) -> Iterator[str]:
        """Say what does not fit together, each at its key."""
        for name, architecture in self._file.architectures.items():
            if not isinstance(architecture.get("model_type"), str):
                yield f"architectures.{name}: no model_type (for example qwen2, llama, mamba)"
        for kind, models in (("teachers", self._file.teachers), ("references", self._file.references)):
            for name, scored in models.items():
                where = f"{kind}.{name}"
                yield from self._unknown(f"{where}.tokenizer", scored.tokenizer, self._file.tokenizers)
                if isinstance(scored.model, TrainedModel):
                    yield from self._unknown(
                        f"{where}.model.architecture", scored.model.architecture, self._file.architectures
                    )
                    if kind == "teachers" and self._file.corpus.splits.teacher == 0:
                        yield (
                            f"{where} is trained here, but corpus.splits.teacher is 0; a teacher that learns from the "
                            "candidates would score its own memory: give the teacher split a share"
                        )
        for name in self._file.selections:
            yield from SelectionCheck(self._file, name, self._left_out).problems()
        for name in self._file.generations:
            yield from GenerationCheck(self._file, name, self._left_out).problems()
        for name in self._file.students:
            yield from StudentCheck(self._file, name, self._left_out).problems()
        published = self._file.publishing
        for what, named, known in (
            ("publishing.students", published.students, self._file.students),
            ("publishing.selections", published.selections, self._file.selections),
            ("reporting.paper", self._file.reporting.paper, self._file.students),
        ):
            for name in named:
                yield from self._unknown(what, name, known)
