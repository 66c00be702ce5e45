"""`student_differences`: how each student's held-out loss differs from its baseline's, and how sure that is."""

import math
from collections.abc import Iterator
from statistics import fmean, variance
from typing import Final

import numpy as np
import polars as pl

from miniplm_assets.core.intervals import Difference, in_words, smallest_told
from miniplm_assets.core.resampling import in_groups
from miniplm_assets.evaluation.differences import (
    HIGHER,
    LOWER,
    PER_BYTE,
    HeldAgainst,
    Measured,
    differences_table,
    hold_against,
    hold_on_text,
)
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.student_evaluation import evaluation_key
from miniplm_assets.kinds.student_records import keys_of_student, read_student
from miniplm_assets.kinds.text_evaluation import DOCUMENT_LOSSES, text_evaluation_key
from miniplm_assets.lineage.kind import Blueprint, Kind, Node
from miniplm_assets.lineage.page import Page, Rows
from miniplm_assets.lineage.sizes import Sizes
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.store import Draft, Result

TABLE: Final = "student_differences.parquet"


class HeldStudents(Settings):
    """Who is held against whom.

    Attributes:
        baselines: of the students that have one.
        tokenizers: of those, and of their baselines.
        excluded_domains: left out of the losses along the way.
        texts: beside the corpus, that all are measured on.
    """

    baselines: dict[str, str]
    tokenizers: dict[str, str]
    excluded_domains: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()


def _nodes(blueprint: Blueprint) -> Iterator[Node[HeldStudents]]:
    students = blueprint.experiment.students
    baselines = {name: student.baseline for name, student in students.items() if student.baseline is not None}
    if not baselines:
        return
    tokenizers = {
        name: student.tokenizer for name, student in students.items() if name in baselines or name in baselines.values()
    }
    evaluation = blueprint.experiment.evaluation
    keys = [key for name in tokenizers for key in keys_of_student(name)]
    keys += [text_evaluation_key(name, text) for name in tokenizers for text in evaluation.texts]
    yield Node(
        kind=STUDENT_DIFFERENCES,
        inputs={key: key for key in keys},
        settings=HeldStudents(
            baselines=baselines,
            tokenizers=tokenizers,
            excluded_domains=evaluation.excluded_domains,
            texts=tuple(evaluation.texts),
        ),
    )


def _make(work: Work[HeldStudents]) -> Result:
    """Hold each student that names a baseline against it."""
    settings = work.settings

    def write(draft: Draft) -> None:
        students = {
            name: read_student(work, name, tokenizer=tokenizer) for name, tokenizer in settings.tokenizers.items()
        }
        rows = [
            hold_against(students[name], students[baseline], excluded_domains=settings.excluded_domains)
            for name, baseline in settings.baselines.items()
        ]
        rows += [
            hold_on_text((name, baseline), text, _on_text(work, name, text), _on_text(work, baseline, text))
            for name, baseline in settings.baselines.items()
            for text in settings.texts
        ]
        table = differences_table(rows)
        table.write_parquet(draft.path / TABLE)
        draft.facts = {"differences": [_shown(row) for row in rows]}

    return work.make(write)


def _shown(row: HeldAgainst) -> dict[str, str]:
    """Return a row as a page shows it: what is asked first, and no more columns than fit."""
    difference, fewer = differences_in_words(row)
    return {
        "student": f"{row.student} against {row.baseline}",
        "on": row.text or "held-out text",
        "unit": row.unit,
        "difference": difference,
        "outcome": row.outcome if row.is_over_seeds else f"{row.outcome} (one seed)",
        "times fewer tokens": fewer,
    }


def differences_in_words(row: HeldAgainst) -> tuple[str, str]:
    """Return the difference of the losses, and how many times fewer tokens it took, each with its interval."""
    return (
        in_words(row.difference, row.difference_low, row.difference_high, signed=True),
        in_words(row.tokens_saved_factor, row.tokens_saved_low, row.tokens_saved_high),
    )


def _page(_work: Work[HeldStudents], result: Result) -> Page:
    rows = result.facts["differences"]
    table = [
        [
            row["student"],
            f"{row['difference']} {row['unit'].replace('_per_', ' / ')}",
            row["outcome"].replace(LOWER, "better: lower").replace(HIGHER, "worse: higher"),
            row["times fewer tokens"],
            row["on"],
        ]
        for row in rows
    ]
    columns = ("student", "difference of the losses", "so it ended", "times fewer tokens", "on")
    return Page(outcome={"each student against its baseline": Rows(columns, table)} if rows else {})


def _on_text(work: Work[HeldStudents], student: str, text: str) -> Measured:
    """Return what the seeds of a student cost on a text."""
    results = list(work.input_pieces(text_evaluation_key(student, text)).values())
    tables = [pl.read_parquet(result.file(DOCUMENT_LOSSES), glob=False) for result in results]
    return Measured.of(
        (result.facts["bits_per_byte"] for result in results),
        (in_groups(table.drop("domain").rename({"document_id": "sequence_id"})) for table in tables),
        PER_BYTE,
    )


def _outlook(node: Node[HeldStudents], sizes: Sizes) -> Iterator[str]:
    """Say how small a difference the seeds that are asked for can tell, before they are trained."""
    groups: dict[tuple[str, int], list[str]] = {}
    for name, baseline in node.settings.baselines.items():
        num_seeds = min(len(sizes.input_node(node, evaluation_key(one)).seeds) for one in (name, baseline))
        groups.setdefault((baseline, num_seeds), []).append(name)
    for (baseline, num_seeds), names in groups.items():
        who = f"{', '.join(names)} against {baseline}:"
        if num_seeds == 1:
            yield f"{who} one seed cannot tell an effect from chance; name more (seeds: [1, 2, 3])"
            continue
        # For seeds whose standard deviation is 1; two of them are held against each other.
        [deviations] = smallest_told(2.0, np.array([num_seeds]))
        found = _seed_deviation(node, sizes, baseline)
        if found is None:
            yield (
                f"{who} {num_seeds} seeds of each tell {deviations:.2f} standard deviations of a seed and more in 8 of "
                "10 cases; how far seeds lie apart is known once two seeds of one student are stored"
            )
        else:
            deviation, num_stored = found
            yield (
                f"{who} {num_seeds} seeds of each tell {deviations * deviation:.3f} nats a token and more in 8 of 10 "
                f"cases, if seeds lie as far apart as the {num_stored} that are stored (standard deviation "
                f"{deviation:.3f})"
            )
            for name in names:
                if node.settings.tokenizers[name] == node.settings.tokenizers[baseline]:
                    yield from _seeds_for_what_was_seen(sizes, name, baseline, deviation)


def _seeds_for_what_was_seen(sizes: Sizes, student: str, baseline: str, deviation: float) -> Iterator[str]:
    """Say how many seeds the difference of two students needs of which some seed of each is stored."""
    means = [
        fmean(result.facts["nll_nats_per_token"] for result in stored)
        for name in (student, baseline)
        if (stored := sizes.stored_pieces(evaluation_key(name)))
    ]
    if len(means) < 2:
        return
    seen = means[0] - means[1]
    needed = Difference(seen, -math.inf, math.inf, spread=2 * deviation**2).num_needed()
    enough = "more than any number of seeds tells" if needed is None else f"{needed} seeds of each would tell that"
    yield f"{student} against {baseline}: {seen:+.3f} nats a token by what is stored; {enough}"


def _seed_deviation(node: Node[HeldStudents], sizes: Sizes, baseline: str) -> tuple[float, int] | None:
    """Return the standard deviation of the seeds that are stored of students with a baseline's tokenizer, and how many.

    Pooled over the students, in nats a token. None where no student has two.
    """
    squares = freedom = num_stored = 0.0
    for name, tokenizer in node.settings.tokenizers.items():
        stored = sizes.stored_pieces(evaluation_key(name))
        if tokenizer == node.settings.tokenizers[baseline] and len(stored) > 1:
            squares += variance(result.facts["nll_nats_per_token"] for result in stored) * (len(stored) - 1)
            freedom += len(stored) - 1
            num_stored += len(stored)
    return ((squares / freedom) ** 0.5, int(num_stored)) if freedom else None


STUDENT_DIFFERENCES = Kind(
    name="student_differences",
    code_version="1",
    section="reports",
    technologies=frozenset({"parquet"}),
    description="""One row for each student that is held against a baseline, and for each text of the two: how their
held-out losses differ, and the tokens saved, each with a 95 % interval.

With several seeds of both, the interval is over seeds (Welch) and over the text (bootstrap over the held-out sequences,
on which both were measured). With one seed it is over the text alone, and speaks of these two models, not of what made
them.""",
    nodes=_nodes,
    make=_make,
    page=_page,
    table=TABLE,
    outlook=_outlook,
    columns={
        "student": "its name",
        "baseline": "what it is held against",
        "text": "beside the corpus, that both were measured on; empty: the validation split",
        "unit": "of the losses: nats_per_token, or bits_per_byte where the two have different tokenizers",
        "num_seeds": "of the student",
        "baseline_num_seeds": "of the baseline",
        "num_sequences": "held-out sequences that count, or documents of the text",
        "loss": "mean over the seeds; of the validation split, without evaluation.excluded_domains",
        "baseline_loss": "likewise",
        "difference": "loss - baseline_loss",
        "difference_low": "lower end of its 95 % interval",
        "difference_high": "upper end",
        "is_over_seeds": "whether the interval is over seeds and text; else over the text alone",
        "outcome": "lower, higher, alike, or not told apart: the interval holds 0",
        "num_seeds_needed": "of each, to tell a difference of this size in 8 of 10 cases; empty with one seed",
        "smallest_told": "the smallest difference that so many seeds tell in 8 of 10 cases; empty with one seed",
        "seed_variance": "the variances of the seeds of both, added up; empty with one seed",
        "text_variance": "of the difference, by the choice of the held-out sequences",
        "tokens_saved_factor": "how many times fewer tokens it takes to the baseline's final loss, the geometric mean "
        "over pairs of seeds; empty where a pair never got there",
        "tokens_saved_low": "lower end of its 95 % interval over seeds; empty with one seed",
        "tokens_saved_high": "upper end",
        "flops_saved_factor": "how many times fewer training FLOPs that is; its interval is that of the tokens, scaled",
        "num_pairs_reached": "pairs of seeds of which the student got there",
    },
)
