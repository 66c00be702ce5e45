"""Whether a generated corpus fits the rest of an experiment: who writes it, and what is continued."""

from collections.abc import Collection, Iterator
from functools import partial
from typing import TYPE_CHECKING

from miniplm_assets.experiment.settings import nearest, unknown
from miniplm_assets.experiment.student_check import CANDIDATES, REFINED

if TYPE_CHECKING:  # the schema checks itself by this
    from miniplm_assets.experiment.schema import Experiment


class GenerationCheck:
    """The checks of one generated corpus.

    Args:
        experiment: the file, its parts each right in itself.
        name: of the generation.
        left_out: names of parts that are not; nothing is said of what they are named for.
    """

    def __init__(self, experiment: "Experiment", name: str, left_out: Collection[str]) -> None:
        self._file, self._where = experiment, f"generations.{name}"
        self._generation = experiment.generations[name]
        self._unknown = partial(unknown, left_out=left_out)

    def problems(self) -> Iterator[str]:
        """Say what does not fit, each at its key."""
        yield from self._unknown(f"{self._where}.teacher", self._generation.teacher, self._file.teachers)
        yield from self._corpus_problems()
        yield from self._length_problems()

    def _corpus_problems(self) -> Iterator[str]:
        generation = self._generation
        if generation.selection is None:
            if generation.corpus != CANDIDATES:
                yield (
                    f"{self._where}.corpus: '{generation.corpus}' is neither '{CANDIDATES}' nor "
                    f"'{REFINED}<selection>'; {nearest(generation.corpus, self._corpora())}"
                )
            return
        yield from self._unknown(f"{self._where}.corpus: selection", generation.selection, self._file.selections)
        if generation.selection not in self._file.selections or generation.teacher not in self._file.teachers:
            return
        stored_in = self._file.selection_tokenizer(generation.selection)
        reads = self._file.teachers[generation.teacher].tokenizer
        if stored_in is not None and stored_in != reads:
            yield (
                f"{self._where}: teacher {generation.teacher} has tokenizer {reads}, but {generation.corpus} is stored "
                f"in tokens of {stored_in}; take a teacher or a selection of the same tokenizer"
            )

    def _length_problems(self) -> Iterator[str]:
        longest = self._file.sequences.sequence_length + 1
        given = self._generation.prompt_tokens
        if given is not None and given >= longest:
            yield (
                f"{self._where}.prompt_tokens: {given:,} leaves the teacher nothing to write, since a sequence holds "
                f"at most {longest:,} tokens (sequences.sequence_length and one); set {longest - 1:,} or less, or "
                f"leave it out for {self._file.sequences.sequence_length * 3 // 4:,}, three quarters as published"
            )

    def _corpora(self) -> list[str]:
        return [CANDIDATES, *(f"{REFINED}{name}" for name in self._file.selections)]
