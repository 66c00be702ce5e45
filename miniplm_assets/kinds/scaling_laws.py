"""`scaling_laws`: how each student's loss falls with its compute, and where that leads."""

from collections.abc import Iterator
from typing import Any, Final

import polars as pl

from miniplm_assets.core.intervals import in_words
from miniplm_assets.evaluation.line_styles import line_styles
from miniplm_assets.evaluation.scaling import AHEAD, law_of, scaling_table
from miniplm_assets.evaluation.student_plots import plot_scaling
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.student_records import keys_of_student, read_student
from miniplm_assets.lineage.kind import Blueprint, Kind, Node
from miniplm_assets.lineage.page import Entry, Page, Rows
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.store import Draft, Result

TABLE: Final = "scaling_laws.parquet"


class FittedStudents(Settings):
    """Whose losses along the way are fitted.

    Attributes:
        tokenizers: of each student, by its name.
        excluded_domains: left out of the losses.
    """

    tokenizers: dict[str, str]
    excluded_domains: tuple[str, ...] = ()


def _nodes(blueprint: Blueprint) -> Iterator[Node[FittedStudents]]:
    students = blueprint.experiment.students
    if not students:
        return
    yield Node(
        kind=SCALING_LAWS,
        inputs={key: key for name in students for key in keys_of_student(name)},
        settings=FittedStudents(
            tokenizers={name: student.tokenizer for name, student in students.items()},
            excluded_domains=blueprint.experiment.evaluation.excluded_domains,
        ),
    )


def _make(work: Work[FittedStudents]) -> Result:
    """Fit a power law to each student's evaluations along the way."""
    settings = work.settings

    def write(draft: Draft) -> None:
        laws = []
        for name, tokenizer in settings.tokenizers.items():
            work.run.stop.look()
            student = read_student(work, name, tokenizer=tokenizer)
            laws.append(law_of(student, excluded_domains=settings.excluded_domains))
        table = scaling_table(laws)
        table.write_parquet(draft.path / TABLE)
        styles = line_styles(settings.tokenizers)
        for tokenizer in dict.fromkeys(settings.tokenizers.values()):
            of_one = [law for law in laws if law.student.tokenizer == tokenizer]
            (draft.path / f"scaling_{tokenizer}.png").write_bytes(plot_scaling(of_one, styles=styles))
        draft.facts = {"laws": [_shown(row) for row in table.iter_rows(named=True)]}

    return work.make(write)


def _shown(row: dict[str, Any]) -> dict[str, str]:
    """Return a row as a page shows it."""

    def interval(name: str) -> str:
        return in_words(row[name], row[f"{name}_low"], row[f"{name}_high"])

    return {
        "student": row["student"],
        "exponent": interval("exponent"),
        "floor, nats a token": interval("floor"),
        f"loss at {AHEAD} times the FLOPs": interval("loss_ahead"),
        "why not": row["problem"] or "",
    }


def _page(_work: Work[FittedStudents], result: Result) -> Page:
    laws = pl.read_parquet(result.file(TABLE), glob=False).sort("loss_ahead", nulls_last=True).to_dicts()
    outcome: dict[str, Entry] = {}
    if fitted := [law for law in laws if not law["problem"]]:
        table = [
            [law["student"], law["loss"], *(_short(law, name) for name in ("loss_ahead", "floor", "exponent"))]
            for law in fitted
        ]
        without_floor = ", ".join(law["student"] for law in fitted if not law["floor_low"])
        outcome["outcome"] = (
            f"Followed to {AHEAD} times their FLOPs, {table[0][0]} would end lowest, at {table[0][2]} nats a token. "
            "That is where the curves point; nobody has trained that far."
            + (
                f" No floor can be told for {without_floor}: the farther ahead, the less it says."
                if without_floor
                else ""
            )
        )
        columns = ("student", "loss now, nats / token", f"at {AHEAD} times the FLOPs", "floor", "exponent")
        outcome["laws, the lowest ahead first"] = Rows(columns, table)
    return Page(outcome=outcome | {f"no law for {law['student']}": law["problem"] for law in laws if law["problem"]})


def _short(law: dict[str, Any], name: str) -> str:
    """Return a value with its interval, as wide as a column is."""
    return in_words(law[name], law[f"{name}_low"], law[f"{name}_high"], digits=2)


SCALING_LAWS = Kind(
    name="scaling_laws",
    code_version="2",
    section="reports",
    technologies=frozenset({"parquet", "matplotlib"}),
    description=f"""One row for each student: L(C) = A / C^a + L_inf, fitted to its held-out losses along the way (arXiv
2410.17215, section 3.2), with 95 % intervals, and followed to {AHEAD} times its training FLOPs.

The points are those of one schedule of the learning rate, not the ends of shorter trainings; intervals take them as
independent. Read what lies ahead as where this curve points.""",
    nodes=_nodes,
    make=_make,
    page=_page,
    table=TABLE,
    columns={
        "student": "its name",
        "num_seeds": "whose evaluations are fitted together",
        "num_evaluations": "after the first tenth of the tokens",
        "amount": "A, nats a token by FLOPs to the exponent",
        "exponent": "a",
        "exponent_low": "lower end of its 95 % interval",
        "exponent_high": "upper end",
        "floor": "L_inf, nats a token, on the sample that is measured along the way",
        "floor_low": "lower end of its 95 % interval",
        "floor_high": "upper end",
        "training_flops": "of one seed",
        "loss": "by the law, at the end of the training",
        "flops_ahead": f"{AHEAD} times the training FLOPs",
        "loss_ahead": "by the law, after so many",
        "loss_ahead_low": "lower end of its 95 % interval",
        "loss_ahead_high": "upper end",
        "problem": "why there is no law; empty where there is one",
    },
)
