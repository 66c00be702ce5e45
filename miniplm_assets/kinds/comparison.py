"""`comparison`: students held against each other, in a table, plots and words."""

from collections.abc import Iterator
from typing import Any, Final

import polars as pl
from pydantic import Field

from miniplm_assets.core.errors import ScoringError
from miniplm_assets.core.recipe import key_of
from miniplm_assets.core.splits import VALIDATION
from miniplm_assets.evaluation.comparison import (
    SelectionRecord,
    StudentRecord,
    by_baseline,
    comparison_table,
    unmeasured,
)
from miniplm_assets.evaluation.differences import differences_in
from miniplm_assets.evaluation.line_styles import line_styles
from miniplm_assets.evaluation.plots import plot_domain_shares
from miniplm_assets.evaluation.student_plots import plot_loss_curves
from miniplm_assets.evaluation.verdict import unheld, verdict
from miniplm_assets.experiment import Experiment, Selection, StudentTraining
from miniplm_assets.experiment.objectives import Objective
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.agreement import CUTOFF
from miniplm_assets.kinds.comparison_page import comparison_page
from miniplm_assets.kinds.models import Who
from miniplm_assets.kinds.pre_filter import scores_of
from miniplm_assets.kinds.refined_sequences import REFINED_SEQUENCES, refined_for
from miniplm_assets.kinds.retokenised_scores import scores_of_everything
from miniplm_assets.kinds.scores import WHO, scores_key
from miniplm_assets.kinds.selection import DOMAIN_SHIFT
from miniplm_assets.kinds.student_differences import STUDENT_DIFFERENCES
from miniplm_assets.kinds.student_records import keys_of_student, read_student
from miniplm_assets.lineage.kind import ALL_FILES, Blueprint, Check, Kind, Node
from miniplm_assets.lineage.outcome import COMPARISON as NAME
from miniplm_assets.lineage.outcome import STUDENTS
from miniplm_assets.lineage.work import Work
from miniplm_assets.lm.score_shard import mean_nll
from miniplm_assets.storage.manifest import CheckOutcome
from miniplm_assets.storage.store import Draft, Result

MEASURED_AS_ASKED: Final = Check(
    "students_are_measured_as_asked",
    "A failure means that a stored student was measured less along the way than `num_evaluations` and "
    "`num_held_out_sequences` ask for now. Its weights do not depend on that, so it is not trained again.",
    is_blocking=False,
)


class ComparedStudent(Settings):
    """What is said of a student.

    Attributes:
        corpus: that it learnt from, as the file names it.
        tokenizer: losses per token are compared within one alone.
        selection: whose refined corpus it learnt from.
        is_retokenised: whether the models of that selection have another tokenizer.
        baseline: the student that it is held against.
        num_evaluations: held-out losses along the way that the file asks for.
        num_held_out_sequences: on how many sequences.
        architecture: `model_type` and its settings.
        training: budget, schedule and optimiser.
        objective: the loss.
    """

    corpus: str
    tokenizer: str
    selection: str | None = None
    is_retokenised: bool = False
    baseline: str | None = None
    num_evaluations: int
    num_held_out_sequences: int
    architecture: dict[str, Any]
    training: StudentTraining
    objective: Objective

    def made_with(self) -> dict[str, Any]:
        """Return what beside corpus and seed makes the student, by setting."""
        left_out = self.training.runtime_only | self.training.reporting_only
        sections = {
            "architecture": self.architecture,
            "training": self.training.model_dump(exclude=set(left_out) - {"same_flops_as"}, exclude_none=True),
            "objective": self.objective.model_dump(),
        }
        return {f"{section}.{name}": value for section, values in sections.items() for name, value in values.items()}


class ComparedSelection(Settings):
    """Whose scores a selection ranks by; None where it asks no such model.

    Attributes:
        teacher: its name.
        reference: its name.
        is_control: whether it is made by chance, or to fail.
        scores: where those of a model are that did not score every candidate, by who it is.
    """

    teacher: str | None = None
    reference: str | None = None
    is_control: bool = False
    scores: dict[Who, str] = Field(default_factory=dict)

    def key_of_scores(self, who: Who) -> str | None:
        """Return the key of the scores that say how well a model does on held-out text; None where none is asked."""
        model = self.teacher if who == "teacher" else self.reference
        return None if model is None else self.scores.get(who, scores_key(who, model))


class Compared(Settings):
    """Everything that is compared; the selections are those that a student learnt from."""

    excluded_domains: tuple[str, ...] = ()
    students: dict[str, ComparedStudent]
    selections: dict[str, ComparedSelection]


def _nodes(blueprint: Blueprint) -> Iterator[Node[Compared]]:
    experiment = blueprint.experiment
    if not any(student.baseline for student in experiment.students.values()):
        return
    settings = _compared(experiment)
    keys = [STUDENT_DIFFERENCES.name, *(key for name in settings.students for key in keys_of_student(name))]
    for name, selection in settings.selections.items():
        keys += [key_of(DOMAIN_SHIFT, name), key_of(CUTOFF, name)]
        keys += [key for who in WHO if (key := selection.key_of_scores(who)) is not None]
    yield Node(kind=COMPARISON, inputs={key: key for key in keys}, settings=settings)


def _compared(experiment: Experiment) -> Compared:
    students = experiment.students
    selections = {student.selection for student in students.values() if student.selection is not None}
    return Compared(
        excluded_domains=experiment.evaluation.excluded_domains,
        students={
            name: ComparedStudent(
                corpus=student.corpus,
                tokenizer=student.tokenizer,
                selection=student.selection,
                is_retokenised=REFINED_SEQUENCES.name in refined_for(experiment, student),
                baseline=student.baseline,
                num_evaluations=student.training.num_evaluations,
                num_held_out_sequences=student.training.num_held_out_sequences,
                architecture=experiment.architectures[student.architecture],
                training=student.training,
                objective=student.objective,
            )
            for name, student in students.items()
        },
        selections={
            name: ComparedSelection(
                **selection.models,
                is_control=selection.is_control,
                scores=_own_scores(experiment, name, selection),
            )
            for name, selection in experiment.selections.items()
            if name in selections
        },
    )


def _own_scores(experiment: Experiment, name: str, selection: Selection) -> dict[Who, str]:
    """Return where the scores of a model are that has none of every candidate in its own tokens."""
    spared = {who: scores_of(experiment, name, who) for who in selection.models if selection.spares(who)}
    retokenised = [who for who in selection.models if experiment.is_retokenised(name, who)]
    return spared | {who: scores_of_everything(experiment, name, who) for who in retokenised}


def _make(work: Work[Compared]) -> Result:
    """Hold every student that names a baseline against it, in a table, plots and words."""
    excluded_domains = work.settings.excluded_domains

    def write(draft: Draft) -> None:
        selections = {name: _selection(work, name) for name in work.settings.selections}
        students = {name: _student(work, name, selections) for name in work.settings.students}
        [differences_file] = work.input_tables(STUDENT_DIFFERENCES.name)
        held = differences_in(pl.read_parquet(differences_file, glob=False))
        baselines = {name: student.baseline for name, student in work.settings.students.items()}
        tables, verdicts = [], []
        for baseline, names in by_baseline(baselines).items():
            group = [students[name] for name in names]
            tables.append(comparison_table(group, baseline=baseline, excluded_domains=excluded_domains))
            verdicts.append(verdict(group, held, baseline=baseline, excluded_domains=excluded_domains))
            picture = plot_loss_curves(
                group, baseline=baseline, excluded_domains=excluded_domains, styles=line_styles(students)
            )
            (draft.path / f"held_out_loss_{baseline}.png").write_bytes(picture)
        unheld_ones = [students[name] for name in _held_against_nothing(work.settings)]
        if unheld_ones:
            tables.append(comparison_table(unheld_ones, baseline=None, excluded_domains=excluded_domains))
            verdicts += map(unheld, unheld_ones)
        table = pl.concat(tables)
        table.write_parquet(draft.path / STUDENTS)
        for name, selection in selections.items():
            (draft.path / f"domain_shares_{name}.png").write_bytes(plot_domain_shares(selection.domain_shift))
        draft.facts = {"verdict": "\n\n".join(verdicts), "students": table.to_dicts()}
        asked = {
            name: student.model_dump(include={"num_evaluations", "num_held_out_sequences"})
            for name, student in work.settings.students.items()
        }
        problems = list(unmeasured(students.values(), asked))
        draft.checks.append(
            CheckOutcome(name=MEASURED_AS_ASKED.name, passed=not problems, description=" ".join(problems))
        )
        work.report(draft.facts["verdict"])

    return work.make(write)


def _held_against_nothing(compared: Compared) -> list[str]:
    """Return the students that name no baseline and are none."""
    baselines = {student.baseline for student in compared.students.values()}
    return [name for name, student in compared.students.items() if student.baseline is None and name not in baselines]


def _selection(work: Work[Compared], name: str) -> SelectionRecord:
    [cutoff_file] = work.input_tables(key_of(CUTOFF, name))
    cutoff = pl.read_parquet(cutoff_file, glob=False).row(0, named=True)
    [shift_file] = work.input_tables(key_of(DOMAIN_SHIFT, name))
    selection = work.settings.selections[name]
    return SelectionRecord(
        name=name,
        is_control=selection.is_control,
        kept_share=cutoff["num_kept"] / cutoff["num_candidates"],
        teacher_nll_nats_per_token=_held_out_loss(work, selection.key_of_scores("teacher")),
        reference_nll_nats_per_token=_held_out_loss(work, selection.key_of_scores("reference")),
        domain_shift=pl.read_parquet(shift_file, glob=False),
    )


def _held_out_loss(work: Work[Compared], scores: str | None) -> float | None:
    if scores is None:
        return None
    domains = work.input(scores).facts["by_split_and_domain"][VALIDATION]
    nll = mean_nll(domains, excluded_domains=work.settings.excluded_domains)
    if nll is None:
        raise ScoringError(
            f"{scores}: no validation sequence was scored, so that its model cannot be judged; raise "
            "corpus.splits.validation, or exclude fewer domains from the evaluation"
        )
    return nll


def _student(work: Work[Compared], name: str, selections: dict[str, SelectionRecord]) -> StudentRecord:
    student = work.settings.students[name]
    return read_student(
        work,
        name,
        corpus=student.corpus,
        tokenizer=student.tokenizer,
        selection=None if student.selection is None else selections[student.selection],
        is_retokenised=student.is_retokenised,
        made_with=student.made_with(),
    )


COMPARISON = Kind(
    name=NAME,
    code_version="7",
    section="reports",
    technologies=frozenset({"matplotlib", "parquet"}),
    description="""All students side by side, each against its baseline, where it names one.

Which one is better and by how much; how many times fewer tokens it needs for the baseline's final loss; or that the
selection did not help, and the likely reason.""",
    nodes=_nodes,
    make=_make,
    page=comparison_page,
    table=ALL_FILES,
    checks=(MEASURED_AS_ASKED,),
    columns={
        "student": "its name",
        "baseline": "what it is held against; empty for a student that names none and is none",
        "seed": "that it was trained with",
        "corpus": "what it learnt from",
        "num_parameters": "of the student",
        "num_tokens": "that it was trained on",
        "validation_nll_nats_per_token": "on the whole validation split without evaluation.excluded_domains",
        "bits_per_byte": "on the same",
        "sample_nll_nats_per_token": "at the end of training, on the sample that is measured along the way",
        "tokens_to_baseline_loss": "after which that of the sample reached the baseline's; empty where it never did",
        "tokens_saved_factor": "the baseline's tokens by those",
        "training_flops": "6 N D, and those of a teacher that runs beside it",
        "in_context_gain": "nats a token by which the longest contexts lower its loss, against an eighth of them",
    },
)
