"""What an experiment may say. Every teacher, reference, selection and student is a node of the graph.

Relative paths are relative to the experiment file. Keys at the top level that begin with ``x-`` are
left alone, so that YAML anchors have a place to stand.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue, ValidationInfo, model_validator

from miniplm_assets.core.splits import HELD_APART, REFERENCE, TEACHER, VALIDATION
from miniplm_assets.experiment.automation import Automation
from miniplm_assets.experiment.cleaning import Cleaning
from miniplm_assets.experiment.cross_check import LEFT_OUT, CrossCheck
from miniplm_assets.experiment.decontamination import Decontamination
from miniplm_assets.experiment.generations import Generation
from miniplm_assets.experiment.models import Owners, Scored, Seed, StudentTraining, TokenizerSource
from miniplm_assets.experiment.objectives import CrossEntropy, Objective
from miniplm_assets.experiment.processing import Processing
from miniplm_assets.experiment.publishing import Publishing
from miniplm_assets.experiment.reporting import Reporting
from miniplm_assets.experiment.scoring import Pilot
from miniplm_assets.experiment.selections import Selection, Who
from miniplm_assets.experiment.settings import Name, Settings, Share
from miniplm_assets.experiment.sources import DocumentFields, EvaluationText, Source
from miniplm_assets.experiment.student_check import CANDIDATES, generation_of, selection_of
from miniplm_assets.experiment.tasks import Tasks


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

    source: Source = Field(description="where the text is")
    fields: DocumentFields = DocumentFields()
    cleaning: Cleaning = Cleaning()
    decontamination: Decontamination | None = Field(
        None, description="documents that share words with what models are measured by are listed, or dropped"
    )
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


class Student(Settings):
    """A model trained on the candidates (no KD), a refined corpus (MiniPLM) or a generated one (SeqKD)."""

    architecture: str = Field(description="of architectures")
    tokenizer: str = Field(description="of tokenizers; that of another family than the selection's goes too")
    corpus: str = Field(
        CANDIDATES, description="candidates, refined_corpus/<selection>, or generated_corpus/<generation>"
    )
    training: StudentTraining
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
        """The selection whose refined corpus it learns from, if it does."""
        return selection_of(self.corpus)

    @property
    def generation(self) -> str | None:
        """The generation whose corpus it learns from, if it does."""
        return generation_of(self.corpus)


class Evaluation(Settings):
    """What students are measured on: the validation split, texts beside the corpus, and tasks."""

    excluded_domains: tuple[str, ...] = Field(
        (), description="measured by themselves, and left out of the total: noise, which no model should be good at"
    )
    texts: dict[Name, EvaluationText] = Field({}, description="measured in bits per byte, by each seed of each student")
    tasks: Tasks | None = Field(None, description="of lm-evaluation-harness; none are evaluated where it is absent")


class Experiment(Settings):
    """The whole file. Relative paths are relative to it; keys that begin with x- are left alone, for YAML anchors."""

    warehouse: str = Field(
        min_length=1,
        description="a folder for results, or a prefix of an object store (`s3://bucket/prefix`, `gs://`, `az://`: "
        "docs/object-store.md); what lies in another is not found here",
    )
    seed: Seed = Field(0, description="of splits, weights, orders and draws, where nothing names another")
    owners: Owners = ()
    corpus: Corpus
    sequences: Sequences = Sequences()
    processing: Processing = Processing()
    models_at_once: Literal["auto"] | Annotated[int, Field(ge=1, strict=True)] = Field(
        "auto",
        description="models that are trained or run side by side, each by a process with a device of its own; auto: as "
        "many as there are CUDA devices, one on a CPU, of which more than one share the cores",
    )
    tokenizers: dict[Name, TokenizerSource] = Field(min_length=1, description="by a name of your own, as all below")
    architectures: dict[Name, dict[str, JsonValue]] = Field(
        {}, description="transformers configurations: model_type and its settings; vocab_size is the tokenizer's"
    )
    teachers: dict[Name, Scored] = Field({}, description="the large models")
    references: dict[Name, Scored] = Field({}, description="the small ones, which have seen the reference split alone")
    pilot: Pilot | None = Field(None, description="a gate before teacher and reference score the whole corpus")
    selections: dict[Name, Selection] = Field({}, description="refined corpora, and what they are held against")
    generations: dict[Name, Generation] = Field({}, description="corpora that a teacher writes: SeqKD")
    students: dict[Name, Student] = Field({}, description="the models that all of this is for")
    evaluation: Evaluation = Evaluation()
    publishing: Publishing = Publishing()
    reporting: Reporting = Reporting()
    automation: Automation = Automation()

    @model_validator(mode="after")
    def _references_exist(self, info: ValidationInfo) -> "Experiment":
        problems = list(CrossCheck(self, (info.context or {}).get(LEFT_OUT, set())).problems())
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def selection_tokenizer(self, selection: str) -> str | None:
        """Return the tokenizer that a selection's sequences are in, or None where nothing known says so."""
        chosen = self.selections[selection]
        known = {"teacher": self.teachers, "reference": self.references}
        models = [known[who].get(name) for who, name in chosen.models.items()]
        return chosen.tokenizer if not models else next((model.tokenizer for model in models if model), None)

    def is_retokenised(self, selection: str, who: Who) -> bool:
        """Say whether a model of a selection reads its text in other tokens than those that the sequences are of."""
        known = self.teachers if who == "teacher" else self.references
        model = known.get(self.selections[selection].models.get(who, ""))
        return model is not None and model.tokenizer != self.selection_tokenizer(selection)

    def generation_tokenizer(self, generation: str) -> str | None:
        """Return the tokenizer that a generated corpus is in: its teacher's; None where nothing known says so."""
        teacher = self.teachers.get(self.generations[generation].teacher)
        return None if teacher is None else teacher.tokenizer
