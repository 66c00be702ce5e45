"""Who ended where, and how sure that is: the first table of the report, and those behind it."""

from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Final

import polars as pl

from miniplm_assets.evaluation.comparison import StudentRecord
from miniplm_assets.evaluation.differences import ALIKE, UNTOLD, HeldAgainst, hold_all, tokens_saved
from miniplm_assets.evaluation.report.blocks import Block, Cell, Column, Number, Source, Table, Words
from miniplm_assets.evaluation.report.numbers import NOT_THERE, count, nats, times
from miniplm_assets.evaluation.report.told import StudentsTold, after_headline

# Of a verdict, those that are read at once; each student has one.
MAX_OPEN_PARAGRAPHS: Final = 4
# Of those that students are held against: more columns would not fit.
MAX_BASELINES: Final = 2


def outcome(told: StudentsTold) -> Iterator[Block]:
    """Say who is better, and by which numbers."""
    rest = after_headline(told.verdict)
    if rest:
        yield Words(text="\n\n".join(rest[:MAX_OPEN_PARAGRAPHS]))
    yield _standing(told)
    if told.pays:
        yield Words(text=f"What it costs, against training alone: {told.pays}")
    yield _trained_on(told)
    if told.differences is not None:
        yield told.differences
    yield from told.more


def _standing(told: StudentsTold) -> Table:
    """Put all students in one order, each against those that most are held against."""
    column, unit = told.unit
    by_size = sorted(told.groups, key=lambda name: -len(told.groups[name]))
    records = list(told.records.values())
    held = {
        baseline: {
            row.student: row for row in hold_all(records, baseline=baseline, excluded_domains=told.excluded_domains)
        }
        for baseline in by_size[:MAX_BASELINES]
    }
    rows = [
        [
            one.name,
            told.about.get(one.name, one.corpus),
            _over_seeds([run.overall(column) for run in one.runs]),
            *(_against(rows.get(one.name)) for rows in held.values()),
            _saved(one, told),
        ]
        for one in sorted(records, key=lambda one: (one.mean(column), one.name))
    ]
    return Table(
        caption="Students, the lowest loss first",
        columns=[
            Column("student"),
            Column("what it is"),
            Column(f"held-out loss ({unit})", "mean over seeds; in brackets the lowest and the highest of them"),
            *(
                Column(
                    f"against {baseline}",
                    f"its loss less that of {baseline}, in brackets the 95 % interval; below 0: it is the better one",
                )
                for baseline in held
            ),
            Column(
                "tokens saved",
                "against its own baseline: the baseline's tokens by those after which the student reached the "
                "baseline's final loss, on the sample that is measured along the way",
            ),
        ],
        rows=rows,
        sources=list(told.evaluations.values()),
        note=_measured_on(told),
    )


def _against(row: HeldAgainst | None) -> Cell:
    if row is None:
        return NOT_THERE
    interval = _between(row.difference_low, row.difference_high, "+.3f")
    ending = {UNTOLD: ", not told apart", ALIKE: ", alike"}.get(row.outcome, "")
    return Number(row.difference, f"{row.difference:+.3f} ({interval}){ending}")


def _trained_on(told: StudentsTold) -> Table:
    """Say what each student was trained on, and its losses in other units and over other text."""
    excluded = sorted({str(domain) for domain in told.excluded_domains})
    rows = [
        [
            one.name,
            ", ".join(str(run.seed) for run in one.runs),
            count(one.num_tokens),
            Number(one.num_epochs, f"{one.num_epochs:.2f}"),
            count(one.num_parameters),
            _over_seeds([run.overall("bits_per_byte") for run in one.runs]),
            *([nats(one.nll_over_all_domains)] if excluded else []),
        ]
        for one in told.records.values()
    ]
    return Table(
        caption="Students: what they were trained on, and their losses by the byte",
        columns=[
            Column("student"),
            Column("seeds"),
            Column("tokens trained on"),
            Column("passes over its corpus"),
            Column("parameters"),
            Column("bits a byte", "the same text, whatever the tokenizer"),
            *([Column("loss with the excluded domains (nats a token)", ", ".join(excluded))] if excluded else []),
        ],
        rows=rows,
        sources=[told.source] if told.source else list(told.evaluations.values()),
        is_folded=True,
    )


def differences_told(differences: pl.DataFrame, source: Source) -> Table:
    """Say how sure each difference of a student and its baseline is.

    Args:
        differences: as `student_differences` has it.
        source: of it.
    """
    rows: list[list[Cell]] = []
    for row in differences.iter_rows(named=True):
        unit = row["unit"].replace("_per_", " a ")
        rows.append(
            [
                f"{row['student']} against {row['baseline']}",
                Number(row["difference"], f"{row['difference']:+.3f} {unit}"),
                _between(row["difference_low"], row["difference_high"], "+.3f"),
                row["outcome"],
                f"{row['num_seeds']} and {row['baseline_num_seeds']} seeds, and text"
                if row["is_over_seeds"]
                else "text alone: one seed",
                NOT_THERE if row["tokens_saved_factor"] is None else times(row["tokens_saved_factor"]),
                _between(row["tokens_saved_low"], row["tokens_saved_high"], ".2f"),
                NOT_THERE if row["num_seeds_needed"] is None else count(row["num_seeds_needed"]),
            ]
        )
    return Table(
        caption="How sure the differences are",
        columns=[
            Column("students"),
            Column("difference of the held-out loss", "below 0: the student is better"),
            Column("95 % interval"),
            Column("so it is", "not told apart: the interval holds 0"),
            Column(
                "interval over",
                "seeds: another training would end in it; the text alone: it speaks of these two models, not of what "
                "made them",
            ),
            Column("tokens saved"),
            Column("95 % interval of that", "over seeds"),
            Column("seeds needed", "of each, to tell a difference of this size in 8 of 10 cases"),
        ],
        rows=rows,
        sources=[source],
        is_folded=True,
    )


def _between(low: float | None, high: float | None, digits: str) -> str:
    return "not measured" if low is None or high is None else f"{low:{digits}} to {high:{digits}}"


def _measured_on(told: StudentsTold) -> str:
    runs = [run for one in told.records.values() for run in one.runs]
    sizes = {
        (int(total["num_sequences"]), int(total["num_scored_tokens"]), str(total["domain"]))
        for run in runs
        for total in run.held_out.filter("is_total").iter_rows(named=True)
    }
    by_size = "; ".join(
        f"{sequences:,} held-out sequences, {tokens:,} tokens, {over}" for sequences, tokens, over in sorted(sizes)
    )
    if all(len(one.runs) == 1 for one in told.records.values()):
        return (
            f"n: {by_size}. One seed each: intervals are over the text alone, and speak of these models. Another seed "
            "may end elsewhere."
        )
    single = [name for name, one in told.records.items() if len(one.runs) == 1]
    alone = f" One seed alone, so an interval over the text alone: {', '.join(single)}." if single else ""
    return (
        f"n: {by_size}. Intervals are over seeds and held-out text; another teacher, reference, split or corpus is not "
        f"in them.{alone}"
    )


def _over_seeds(values: Sequence[float]) -> Cell:
    mean = fmean(values)
    if len(values) == 1:
        return nats(mean)
    return Number(mean, f"{mean:.3f} ({min(values):.3f} to {max(values):.3f})")


def _saved(student: StudentRecord, told: StudentsTold) -> Cell:
    baseline = next((base for base, names in told.groups.items() if student.name in names[1:]), None)
    if baseline is None:
        return "is the baseline" if student.name in told.groups else "no baseline"
    if student.tokenizer != told.records[baseline].tokenizer:
        return "other tokenizer"
    saved = tokens_saved(student, told.records[baseline], told.excluded_domains)
    if saved.get("tokens_saved_factor") is None:
        return "not all seeds got there" if saved["num_pairs_reached"] else "never there"
    return times(saved["tokens_saved_factor"])
