"""Stage `reports`: students held against each other."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from miniplm_assets.assets.build import Kind
from miniplm_assets.assets.step import Made, Step
from miniplm_assets.core.errors import ScoringError
from miniplm_assets.core.splits import VALIDATION
from miniplm_assets.evaluation.comparison import SelectionRecord, StudentRecord, comparison_table
from miniplm_assets.evaluation.plots import plot_domain_shares, plot_loss_curves
from miniplm_assets.evaluation.verdict import verdict
from miniplm_assets.lineage.outcome import STUDENTS
from miniplm_assets.lm.score_shard import mean_nll
from miniplm_assets.storage.store import Draft
from miniplm_assets.training.train import TRAINING_LOG

GROUP = "reports"


def make_comparison(step: Step) -> Made:
    """Hold every student that names a baseline against it, in a table, plots and words."""

    def write(draft: Draft) -> None:
        selections = {name: _selection(step, name) for name in _selections_in_use(step)}
        students = {name: _student(step, name, selections) for name in step.pipeline.experiment.students}
        tables, verdicts = [], []
        for baseline, names in _groups(step).items():
            group = [students[name] for name in names]
            tables.append(comparison_table(group, baseline=baseline))
            verdicts.append(verdict(group, baseline=baseline))
            (draft.path / f"held_out_loss_{baseline}.png").write_bytes(plot_loss_curves(group, baseline=baseline))
        table = pl.concat(tables)
        table.write_parquet(draft.path / STUDENTS)
        for name, selection in selections.items():
            picture = plot_domain_shares(selection.domain_shift, selection=name)
            (draft.path / f"domain_shares_{name}.png").write_bytes(picture)
        draft.facts = {"verdict": "\n\n".join(verdicts), "students": table.to_dicts()}
        step.report(draft.facts["verdict"])

    return step.make(write)


def _groups(step: Step) -> dict[str, list[str]]:
    """Return the students to compare by their baseline, which comes first."""
    groups: dict[str, list[str]] = {}
    for name, student in step.pipeline.experiment.students.items():
        if student.baseline is not None:
            groups.setdefault(student.baseline, [student.baseline]).append(name)
    return groups


def _selections_in_use(step: Step) -> list[str]:
    students = step.pipeline.experiment.students.values()
    return list(dict.fromkeys(student.selection for student in students if student.selection is not None))


def _selection(step: Step, name: str) -> SelectionRecord:
    selection = step.pipeline.experiment.selections[name]
    cutoff = _only_row(step, f"selection_cutoff/{name}")
    return SelectionRecord(
        name=name,
        kept_share=cutoff["num_kept"] / cutoff["num_candidates"],
        teacher_nll_nats_per_token=_held_out_loss(step, f"teacher_scores/{selection.teacher}"),
        reference_nll_nats_per_token=_held_out_loss(step, f"reference_scores/{selection.reference}"),
        domain_shift=pl.read_parquet(step.input_tables(f"domain_shift/{name}")),
    )


def _held_out_loss(step: Step, scores: str) -> float:
    domains = step.input(scores).facts["by_split_and_domain"][VALIDATION]
    nll = mean_nll(domains, excluded_domains=step.pipeline.experiment.evaluation.excluded_domains)
    if nll is None:
        raise ScoringError(
            f"{scores}: no validation sequence was scored, so that its model cannot be judged; raise "
            "corpus.splits.validation, or exclude fewer domains from the evaluation"
        )
    return nll


def _only_row(step: Step, key: str) -> Mapping[str, Any]:
    return pl.read_parquet(step.input_tables(key)).row(0, named=True)


def _student(step: Step, name: str, selections: Mapping[str, SelectionRecord]) -> StudentRecord:
    student = step.pipeline.experiment.students[name]
    checkpoint = step.input(f"student_checkpoint/{name}")
    return StudentRecord(
        name=name,
        corpus=student.corpus,
        tokenizer=student.tokenizer,
        num_parameters=checkpoint.facts["num_parameters"],
        num_epochs=checkpoint.facts["num_epochs"],
        training_log=pl.read_parquet(checkpoint.file(TRAINING_LOG)),
        held_out=pl.read_parquet(step.input_tables(f"student_evaluation/{name}")),
        selection=None if student.selection is None else selections[student.selection],
    )


COMPARISON_KIND = Kind(
    group=GROUP,
    technologies=frozenset({"matplotlib", "parquet"}),
    description="""All students side by side, against the baseline.

Which one is better and by how much; how many times fewer tokens it needs for the baseline's final loss; or that the
selection did not help, and the likely reason.""",
    make=make_comparison,
    columns={
        "student": "its name",
        "corpus": "what it learnt from",
        "num_parameters": "of the student",
        "num_tokens": "that it was trained on",
        "held_out_nll_nats_per_token": "on the whole validation split",
        "bits_per_byte": "on the whole validation split",
        "tokens_to_baseline_loss": "after which it reached the baseline's final loss; empty where it never did",
        "tokens_saved_factor": "the baseline's tokens by those",
        "training_flops": "6 N D",
    },
)
