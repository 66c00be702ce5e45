"""What an experiment may say. Every teacher, reference, selection and student is a node of the graph.

Relative paths are relative to the experiment file. Keys at the top level that begin with ``x-`` are
left alone, so that YAML anchors have a place to stand.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

from pydantic import Field, JsonValue, model_validator

from miniplm_assets.core.splits import HELD_APART, REFERENCE, TEACHER, VALIDATION
from miniplm_assets.experiment.models import Owners, Scored, Seed, TokenizerSource, TrainedModel, Training
from miniplm_assets.experiment.objectives import CrossEntropy, Objective
from miniplm_assets.experiment.scoring import Agreement, Pilot, Rescoring
from miniplm_assets.experiment.settings import Name, Settings, Share, nearest
from miniplm_assets.experiment.sources import DocumentFields, Source

CANDIDATES: Final = "candidates"
REFINED: Final = "refined_corpus/"


class Splits(Settings):
    """Shares of the documents that are held apart from the candidates, by a seeded hash of the text."""

    validation: Share = Field(0.01, gt=0, description="for held-out losses")
    reference: Share = Field(0.05, gt=0, description="D_ref: trains the reference and is never selected from")
    teacher: Share = Field(0.0, description="trains a teacher that is made here; 0 where none is")

    @model_validator(mode="after")
    def _leave_candidates(self) -> "Splits":
        held_apart = sum(self.shares.values())
        if held_apart >= 1:
            raise ValueError(f"{' + '.join(HELD_APART)} = {held_apart:g} leaves no candidates; keep the sum under 1")
        return self

    @property
    def shares(self) -> dict[str, float]:
        """Share by split."""
        return {VALIDATION: self.validation, REFERENCE: self.reference, TEACHER: self.teacher}


class Corpus(Settings):
    """The raw corpus and how its documents are split."""

    runtime_only: ClassVar[frozenset[str]] = frozenset({"expected_tokens"})
    reporting_only: ClassVar[frozenset[str]] = frozenset({"max_rejected_share"})

    source: Source
    fields: DocumentFields = DocumentFields()
    splits: Splits = Splits()
    max_rejected_share: float = Field(
        0.01, ge=0, le=1, description="of the rows; where more are no documents, a check warns"
    )
    expected_tokens: int | None = Field(
        None, ge=1, description="for plans only, until the corpus has been packed and its tokens are counted"
    )


class Sequences(Settings):
    """How documents are packed into token sequences."""

    sequence_length: int = Field(1024, ge=8, description="tokens that are predicted in a full sequence")
    trim_to_sentence_end: bool = Field(True, description="end a sequence at the last sentence end that fits")


class Selection(Settings):
    """Difference Sampling: which candidates are kept."""

    teacher: str
    reference: str
    keep_fraction: float | None = Field(None, gt=0, le=1, description="alpha: share of the candidates")
    token_budget: int | None = Field(None, ge=1, description="keep the best until they hold this many tokens")
    rank_by: Literal["nats_per_token", "nats_per_sequence"] = Field(
        "nats_per_token", description="nats_per_token as published, nats_per_sequence as in the paper's formula"
    )
    agreement: Agreement | None = Field(None, description="a gate: a sample must score alike in another way")
    rescoring: Rescoring | None = Field(None, description="the band around another selection's cutoff is scored again")
    owners: Owners = ()

    @model_validator(mode="after")
    def _one_amount(self) -> "Selection":
        if (self.keep_fraction is None) == (self.token_budget is None):
            raise ValueError("give exactly one of keep_fraction and token_budget")
        return self


class Student(Settings):
    """A model trained on the candidates (no KD) or on a refined corpus (MiniPLM)."""

    architecture: str
    tokenizer: str
    corpus: str = Field(CANDIDATES, description="candidates, or refined_corpus/<selection>")
    training: Training
    objective: Objective = Field(CrossEntropy(), description="the loss that it is trained with")
    seeds: tuple[Seed, ...] = Field(
        (), description="a model is trained with each; default: the experiment's one. Another seed costs itself alone"
    )
    baseline: str | None = Field(None, description="the student that it is held against in the comparison")
    owners: Owners = ()

    @model_validator(mode="after")
    def _seeds_differ(self) -> "Student":
        twice = sorted({seed for seed in self.seeds if self.seeds.count(seed) > 1})
        if twice:
            raise ValueError(f"seeds: {twice[0]} is named twice, and would be the same model; name each once")
        return self

    @property
    def selection(self) -> str | None:
        """The selection that it learns from, or None for the candidates."""
        return self.corpus.removeprefix(REFINED) if self.corpus.startswith(REFINED) else None


class Evaluation(Settings):
    """What held-out losses are measured on: the validation split."""

    excluded_domains: tuple[str, ...] = Field(
        (), description="measured by themselves, and left out of the total: noise, which no model should be good at"
    )


class Experiment(Settings):
    """The whole file."""

    warehouse: str = Field(description="a local folder")
    seed: Seed = 0
    owners: Owners = ()
    corpus: Corpus
    sequences: Sequences = Sequences()
    tokenizers: dict[Name, TokenizerSource] = Field(min_length=1)
    architectures: dict[Name, dict[str, JsonValue]] = Field(
        {}, description="transformers configurations: model_type and its settings; vocab_size is the tokenizer's"
    )
    teachers: dict[Name, Scored] = {}
    references: dict[Name, Scored] = {}
    pilot: Pilot | None = Field(None, description="a gate before teacher and reference score the whole corpus")
    selections: dict[Name, Selection] = {}
    students: dict[Name, Student] = {}
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _references_exist(self) -> "Experiment":
        problems = list(self._problems())
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _problems(self) -> Iterator[str]:
        if "://" in self.warehouse:
            yield (
                f"warehouse: {self.warehouse} is a URL, and only a local folder can be a warehouse so far (the corpus "
                "may be a URL); name a folder"
            )
        for name, architecture in self.architectures.items():
            if not isinstance(architecture.get("model_type"), str):
                yield f"architectures.{name}: no model_type (for example qwen2, llama, mamba)"
        for kind, models in (("teachers", self.teachers), ("references", self.references)):
            for name, scored in models.items():
                where = f"{kind}.{name}"
                yield from _unknown(f"{where}.tokenizer", scored.tokenizer, self.tokenizers)
                if isinstance(scored.model, TrainedModel):
                    yield from _unknown(f"{where}.model.architecture", scored.model.architecture, self.architectures)
                    if kind == "teachers" and self.corpus.splits.teacher == 0:
                        yield (
                            f"{where} is trained here, but corpus.splits.teacher is 0; a teacher that learns from the "
                            "candidates would score its own memory: give the teacher split a share"
                        )
        for name, selection in self.selections.items():
            yield from self._selection_problems(f"selections.{name}", selection)
        for name, student in self.students.items():
            yield from self._student_problems(f"students.{name}", student)

    def _selection_problems(self, where: str, selection: Selection) -> Iterator[str]:
        unknown = [
            *_unknown(f"{where}.teacher", selection.teacher, self.teachers),
            *_unknown(f"{where}.reference", selection.reference, self.references),
        ]
        yield from unknown
        if unknown:
            return
        teacher, reference = self.teachers[selection.teacher], self.references[selection.reference]
        if teacher.tokenizer != reference.tokenizer:
            yield (
                f"{where}: teacher {selection.teacher} uses tokenizer {teacher.tokenizer}, reference "
                f"{selection.reference} uses {reference.tokenizer}; a difference of log-probabilities exists only over "
                "the same tokens, so both need the same tokenizer"
            )
        if teacher.scoring.score_after_end_of_document != reference.scoring.score_after_end_of_document:
            yield (
                f"{where}: score_after_end_of_document differs between teacher and reference; their sums would cover "
                "different tokens"
            )
        if selection.agreement is not None:
            other = selection.agreement
            if all(
                one.scoring.by(other.backend, other.dtype) == one.scoring.by(None, None) for one in (teacher, reference)
            ):
                yield (
                    f"{where}.agreement: teacher and reference are scored by {teacher.scoring.backend} in "
                    f"{teacher.scoring.dtype} already; name another backend or dtype"
                )
        if selection.rescoring is not None:
            yield from self._rescoring_problems(f"{where}.rescoring.around", selection, selection.rescoring)

    def _rescoring_problems(self, where: str, selection: Selection, rescoring: Rescoring) -> Iterator[str]:
        first = self.selections.get(rescoring.around)
        if first is None:
            yield from _unknown(where, rescoring.around, self.selections)
            return
        if first.rescoring is not None:
            yield f"{where}: '{rescoring.around}' is a second pass itself; name a selection without rescoring"
        for name in ("teacher", "reference", "keep_fraction", "token_budget", "rank_by"):
            mine, theirs = getattr(selection, name), getattr(first, name)
            if mine != theirs:
                yield (
                    f"{where}: '{rescoring.around}' has {name} {theirs}, this selection {mine}; a second pass moves "
                    "scores, not what they are for, so that both need the same"
                )

    def _student_problems(self, where: str, student: Student) -> Iterator[str]:
        yield from _unknown(f"{where}.architecture", student.architecture, self.architectures)
        yield from _unknown(f"{where}.tokenizer", student.tokenizer, self.tokenizers)
        if student.baseline is not None:
            yield from _unknown(f"{where}.baseline", student.baseline, self.students)
        if student.selection is None:
            if student.corpus != CANDIDATES:
                yield f"{where}.corpus: '{student.corpus}' is neither '{CANDIDATES}' nor '{REFINED}<selection>'"
            return
        unknown = list(_unknown(f"{where}.corpus: selection", student.selection, self.selections))
        yield from unknown
        if unknown:
            return
        scored_with = self.selection_tokenizer(student.selection)
        if scored_with is not None and scored_with != student.tokenizer:
            yield (
                f"{where}: tokenizer {student.tokenizer} differs from {scored_with}, in whose tokens "
                f"{student.corpus} is stored"
            )

    def selection_tokenizer(self, selection: str) -> str | None:
        """Return the tokenizer that a selection's sequences are in, or None where its teacher is unknown."""
        teacher = self.teachers.get(self.selections[selection].teacher)
        return teacher.tokenizer if teacher else None

    def resolve(self, folder: Path) -> "Experiment":
        """Return the experiment with every local path made absolute, relative ones against `folder`."""
        return Experiment.model_validate(_absolute(self.model_dump(exclude_unset=True), folder))


def _unknown(where: str, name: str, known: dict[str, Any]) -> Iterator[str]:
    if name not in known:
        yield f"{where} '{name}' is not in this file; {nearest(name, list(known))}"


def _absolute(value: Any, folder: Path, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _absolute(inner, folder, name) for name, inner in value.items()}
    if key in ("path", "warehouse") and isinstance(value, str) and "://" not in value:
        return os.path.normpath(folder / Path(value).expanduser())
    return value
