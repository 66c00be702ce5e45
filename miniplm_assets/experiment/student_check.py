"""Whether a student fits the rest of the file: what it learns from, by which loss, and what it is held against."""

from collections.abc import Collection, Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

from miniplm_assets.experiment.objectives import FromScores, MiniLlm, SparseKd, TokenSelection
from miniplm_assets.experiment.scoring import Scoring
from miniplm_assets.experiment.settings import unknown

if TYPE_CHECKING:  # the schema checks itself by this
    from miniplm_assets.experiment.schema import Experiment

CANDIDATES: Final = "candidates"
REFINED: Final = "refined_corpus/"
GENERATED: Final = "generated_corpus/"


def selection_of(corpus: str) -> str | None:
    """Return the selection whose refined corpus is meant, or None for any other corpus."""
    return corpus.removeprefix(REFINED) if corpus.startswith(REFINED) else None


def generation_of(corpus: str) -> str | None:
    """Return the generation whose corpus is meant, or None for any other corpus."""
    return corpus.removeprefix(GENERATED) if corpus.startswith(GENERATED) else None


class StudentCheck:
    """The checks of one student.

    Args:
        experiment: the file, its parts each right in itself.
        name: of the student.
        left_out: names of parts that are not; nothing is said of what they are named for.
    """

    def __init__(self, experiment: "Experiment", name: str, left_out: Collection[str]) -> None:
        self._file, self._where = experiment, f"students.{name}"
        self._name, self._student = name, experiment.students[name]
        self._unknown = partial(unknown, left_out=left_out)

    def problems(self) -> Iterator[str]:
        """Say what does not fit, each at its key."""
        student = self._student
        yield from self._unknown(f"{self._where}.architecture", student.architecture, self._file.architectures)
        yield from self._unknown(f"{self._where}.tokenizer", student.tokenizer, self._file.tokenizers)
        if student.baseline is not None:
            yield from self._unknown(f"{self._where}.baseline", student.baseline, self._file.students)
        yield from self._corpus_problems()
        yield from self._objective_problems()
        yield from self._budget_problems()

    def _corpus_problems(self) -> Iterator[str]:
        student = self._student
        if student.selection is not None:
            yield from self._unknown(f"{self._where}.corpus: selection", student.selection, self._file.selections)
        elif student.generation is not None:
            yield from self._unknown(f"{self._where}.corpus: generation", student.generation, self._file.generations)
            known = student.generation in self._file.generations
            stored_in = self._file.generation_tokenizer(student.generation) if known else None
            if stored_in is not None and stored_in != student.tokenizer:
                yield (
                    f"{self._where}: tokenizer {student.tokenizer} differs from {stored_in}, in whose tokens "
                    f"{student.corpus} is stored; a student of another tokenizer can learn from a refined corpus"
                )
        elif student.corpus != CANDIDATES:
            yield (
                f"{self._where}.corpus: '{student.corpus}' is neither '{CANDIDATES}' nor '{REFINED}<selection>' nor "
                f"'{GENERATED}<generation>'"
            )

    def _objective_problems(self) -> Iterator[str]:
        objective = self._student.objective
        for who, known in (("teacher", self._file.teachers), ("reference", self._file.references)):
            name = getattr(objective, who, None)
            if name is None:
                continue
            yield from self._unknown(f"{self._where}.objective.{who}", name, known)
            if name in known and known[name].tokenizer != self._student.tokenizer:
                yield (
                    f"{self._where}.objective.{who}: {name} has tokenizer {known[name].tokenizer}, the student "
                    f"{self._student.tokenizer}; {objective.type} learns from probabilities of single tokens, so that "
                    "both must have the same (a student of another tokenizer can learn from a refined corpus)"
                )
            if name in known and isinstance(objective, TokenSelection):
                yield from self._kept_tokens_problems(who, name, known[name].scoring)
            if name in known and isinstance(objective, SparseKd) and known[name].scoring.keep_tokens is None:
                yield (
                    f"{self._where}.objective.{who}: the scores of {name} keep nothing of its distribution, from which "
                    f"{objective.type} learns; write keep_tokens: {{method: sampled, number: 12}} under "
                    f"{who}s.{name}.scoring"
                )
        if isinstance(objective, FromScores) and self._has_other_tokens():
            yield (
                f"{self._where}.objective: {objective.type} reads what is stored of the candidates' own tokens, and "
                f"those of {self._student.corpus} are others; take the candidates or a refined corpus of tokenizer "
                f"{self._student.tokenizer}, or an objective that runs its models beside the student (vanilla_kd, "
                "minillm)"
            )
        length = self._file.sequences.sequence_length
        if isinstance(objective, MiniLlm) and objective.num_sampled_tokens >= length:
            yield (
                f"{self._where}.objective.num_sampled_tokens: {objective.num_sampled_tokens:,} leave nothing of a "
                f"sequence to continue; expected fewer than sequences.sequence_length, {length:,}: set it to "
                f"{length - 1:,} or less (a quarter, {length // 4:,}, is the published share)"
            )

    def _has_other_tokens(self) -> bool:
        """Say whether a student learns from other sequences than its tokenizer makes of the candidates."""
        selection = self._student.selection
        if selection is None or selection not in self._file.selections:
            return self._student.generation is not None
        return self._file.selection_tokenizer(selection) not in (None, self._student.tokenizer)

    def _kept_tokens_problems(self, who: str, name: str, scoring: Scoring) -> Iterator[str]:
        if not scoring.keep_token_logprobs:
            yield (
                f"{self._where}.objective.{who}: {name} keeps no log-probabilities of tokens, and "
                f"{self._student.objective.type} selects by them; add scoring: {{keep_token_logprobs: true}} to "
                f"{who}s.{name} (it is then scored again)"
            )
        if scoring.score_after_end_of_document:
            yield (
                f"{self._where}.objective.{who}: {name} scores the token after an end-of-document token, which a "
                f"student does not predict; set {who}s.{name}.scoring.score_after_end_of_document to false"
            )

    def _budget_problems(self) -> Iterator[str]:
        key, names = "training.same_flops_as", [self._name]
        while (other := self._file.students[names[-1]].training.same_flops_as) is not None:
            if len(names) == 1:
                yield from self._unknown(f"{self._where}.{key}", other, self._file.students)
            if other not in self._file.students:
                return
            if other in names:
                # One that leads into a circle of others is told of at those.
                if other == self._name:
                    yield (
                        f"{self._where}.{key}: {' -> '.join([*names, other])} goes round; give one of them a "
                        "token_budget"
                    )
                return
            names.append(other)
        tokenizers = [self._file.students[name].tokenizer for name in (self._name, names[-1])]
        if tokenizers[0] != tokenizers[1]:
            yield (
                f"{self._where}.{key}: {names[-1]} has tokenizer {tokenizers[1]}, this student {tokenizers[0]}; what "
                "costs the same is counted in tokens, so that both must have the same"
            )
