"""What the report says of students: the outcome and its table, the curves, the losses by domain, the costs."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import polars as pl

from miniplm_assets.evaluation.comparison import StudentRecord
from miniplm_assets.evaluation.differences import tokens_saved
from miniplm_assets.evaluation.plots import plot_break_even, plot_loss_curves, shortened
from miniplm_assets.evaluation.report.blocks import Block, Cell, Column, Number, Picture, Section, Source, Table, Words
from miniplm_assets.evaluation.report.charts import inline_svg
from miniplm_assets.evaluation.report.numbers import NOT_THERE, count, flops, nats, times

# Of a verdict, those that are read at once; each student has one.
MAX_OPEN_PARAGRAPHS = 4
HOW_TO_READ = " The dashed line is where the baseline ends; a ring marks where a student gets there."


@dataclass(frozen=True, kw_only=True)
class StudentsTold:
    """What is known of all students.

    Attributes:
        records: each student by name, the runs of its seeds.
        table: a row for each student and seed, as `comparison_table` returns it.
        groups: the students that are held against a baseline, itself first, by its name.
        excluded_domains: left out of the losses.
        verdict: the outcome in words.
        source: of table and verdict.
        evaluations: where the held-out losses of each student are from.
        checkpoints: where the losses along the way are from.
        differences: how sure each difference is, where that was measured.
        more: other tables of the comparison.
    """

    records: Mapping[str, StudentRecord]
    table: pl.DataFrame
    groups: Mapping[str, Sequence[str]]
    excluded_domains: Collection[str]
    verdict: str
    source: Source | None
    evaluations: Mapping[str, Source]
    checkpoints: Mapping[str, Source]
    differences: Table | None = None
    more: Sequence[Table] = field(default_factory=tuple)


def headline(verdict: str) -> str:
    """Return the first sentence of a verdict, which is the outcome."""
    first, stop, _ = verdict.partition(". ")
    return first + stop.strip()


def outcome(told: StudentsTold) -> Iterator[Block]:
    """Say who is better, and by which numbers."""
    rest = _rest(told)
    if rest:
        yield Words(text="\n\n".join(rest[:MAX_OPEN_PARAGRAPHS]))
    yield _small_table(told)
    if told.differences is not None:
        yield told.differences
    yield from told.more


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
    )


def _between(low: float | None, high: float | None, digits: str) -> str:
    return "not measured" if low is None or high is None else f"{low:{digits}} to {high:{digits}}"


def _rest(told: StudentsTold) -> list[str]:
    return Words(text=told.verdict.removeprefix(headline(told.verdict)).strip()).paragraphs


def _small_table(told: StudentsTold) -> Table:
    rows = []
    for group in told.table.partition_by("baseline", "student", maintain_order=True):
        seeds = group["seed"].to_list()
        rows.append(
            [
                group["student"][0],
                group["corpus"][0],
                count(fmean(group["num_tokens"])),
                _over_seeds(group["validation_nll_nats_per_token"].to_list()),
                _over_seeds(group["bits_per_byte"].to_list()),
                _saved(group, told),
                ", ".join(map(str, seeds)),
                count(group["num_parameters"][0]),
            ]
        )
    return Table(
        caption="Students, the lowest loss first after each baseline",
        columns=[
            Column("student"),
            Column("learnt from"),
            Column("tokens trained on"),
            Column("held-out loss (nats a token)", "mean over seeds; in brackets the lowest and the highest of them"),
            Column("bits a byte", "the same text, whatever the tokenizer"),
            Column(
                "tokens saved",
                "the baseline's tokens by those after which the student reached the baseline's final loss, on the "
                "sample that is measured along the way",
            ),
            Column("seeds"),
            Column("parameters"),
        ],
        rows=rows,
        sources=[told.source] if told.source else list(told.evaluations.values()),
        note=_measured_on(told),
    )


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
        intervals = "no interval over seeds" if told.differences is not None else "no interval"
        return f"n: {by_size}. One seed each: {intervals} was measured, and a difference may be chance."
    single = [name for name, one in told.records.items() if len(one.runs) == 1]
    return f"n: {by_size}." + (f" One seed alone, so no interval: {', '.join(single)}." if single else "")


def _over_seeds(values: Sequence[float]) -> Cell:
    mean = fmean(values)
    if len(values) == 1:
        return nats(mean)
    return Number(mean, f"{mean:.3f} ({min(values):.3f} to {max(values):.3f})")


def _saved(group: pl.DataFrame, told: StudentsTold) -> Cell:
    student, baseline = group["student"][0], group["baseline"][0]
    if baseline is None:
        return "no baseline"
    if student == baseline:
        return "is the baseline"
    if told.records[student].tokenizer != told.records[baseline].tokenizer:
        return "other tokenizer"
    saved = tokens_saved(told.records[student], told.records[baseline], told.excluded_domains)
    if saved.get("tokens_saved_factor") is None:
        return "not all seeds got there" if saved["num_pairs_reached"] else "never there"
    return times(saved["tokens_saved_factor"])


def curves(told: StudentsTold) -> Section:
    """Draw the losses along the way, a picture for each baseline."""
    blocks: list[Block] = []
    for place, (baseline, names) in enumerate([*told.groups.items(), *((None, one) for one in _unheld(told))]):
        group = [told.records[name] for name in names]
        svg = plot_loss_curves(group, baseline=baseline, excluded_domains=told.excluded_domains, picture="svg")
        sizes = group[0].runs[0].held_out_log.filter(~pl.col("domain").is_in(list(told.excluded_domains)))
        num_tokens = sizes.filter(pl.col("num_tokens") == pl.col("num_tokens").max())["num_scored_tokens"].sum()
        losses = ", ".join(f"{one.name} {one.final_curve_loss(told.excluded_domains):.3f}" for one in group)
        against = "" if baseline is None else f", against {baseline}"
        caption = f"Held-out loss while the students learn{against}: lower is better"
        blocks.append(
            Picture(
                caption=caption,
                svg=inline_svg(svg, name=f"curves-{place}", title=caption, about=f"The last losses: {losses}."),
                sources=[told.checkpoints[name] for name in names],
                note=f"n: {num_tokens:,} tokens of a sample of the validation split, the same at each point."
                + (HOW_TO_READ if baseline is not None else ""),
            )
        )
    blocks.append(_by_domain(told))
    rest = _rest(told)[MAX_OPEN_PARAGRAPHS:]
    more = Section(title="The other students in words", blocks=[Words(text="\n\n".join(rest))], is_folded=True)
    return Section(title="How the students learn", blocks=blocks, sections=[more] if rest else ())


def _unheld(told: StudentsTold) -> list[list[str]]:
    """Return the students that name no baseline and are none, those of each tokenizer together."""
    held = {name for names in told.groups.values() for name in names}
    by_tokenizer: dict[str, list[str]] = {}
    for name, student in told.records.items():
        if name not in held:
            by_tokenizer.setdefault(student.tokenizer, []).append(name)
    return list(by_tokenizer.values())


def _by_domain(told: StudentsTold) -> Table:
    students = list(told.records.values())
    losses: dict[str, dict[str, float]] = {}
    tokens: dict[str, int] = {}
    for student in students:
        for row in student.held_out.filter(pl.col("num_scored_tokens") > 0).iter_rows(named=True):
            losses.setdefault(row["domain"], {})[student.name] = row["nll_nats"] / row["num_scored_tokens"]
            tokens[row["domain"]] = row["num_scored_tokens"] // len(student.runs)
    excluded = [domain for domain in losses if domain in told.excluded_domains]
    return Table(
        caption="Held-out loss by domain (nats a token, mean over seeds)",
        columns=[Column("domain"), Column("scored tokens"), *(Column(student.name) for student in students)],
        rows=[
            [
                shortened(domain),
                count(tokens[domain]),
                *(nats(losses[domain].get(student.name)) for student in students),
            ]
            for domain in sorted(losses)
        ],
        sources=[told.evaluations[student.name] for student in students],
        note=f"Not in the totals: {', '.join(map(shortened, excluded))}." if excluded else "",
        is_folded=True,
    )


def how_made(made: Mapping[str, Mapping[str, str]], sources: Mapping[str, Source]) -> Table:
    """Say how each student was made.

    Args:
        made: what each says, by student.
        sources: where the students are from.
    """
    heads = list(dict.fromkeys(head for words in made.values() for head in words))
    return Table(
        caption="How the students were made",
        columns=[Column("student"), *map(Column, heads)],
        rows=[[name, *(words.get(head, NOT_THERE) for head in heads)] for name, words in made.items()],
        sources=list(sources.values()),
        is_folded=True,
    )


def costs(
    ledger: pl.DataFrame,
    break_even: pl.DataFrame,
    *,
    words: str,
    baselines: Collection[str],
    sources: Sequence[Source],
) -> Section:
    """Say what each student cost, and from how many on it is the cheaper way.

    Args:
        ledger: as `ledger_table` returns it.
        break_even: as `break_even_table` returns it.
        words: what `break_even` says of itself.
        baselines: whose loss is to be reached.
        sources: of the two tables.
    """
    rows: list[list[Cell]] = [
        [
            row["student"],
            count(row["num_seeds"]),
            flops(row["training_flops"]),
            flops(row["offline_flops"]),
            flops(row["offline_flops_share"]),
            flops(row["flops"]),
        ]
        for row in ledger.iter_rows(named=True)
    ]
    table = Table(
        caption="What each student cost (floating-point operations)",
        columns=[
            Column("student"),
            Column("seeds"),
            Column("training", "of one seed, the mean over them"),
            Column("made before", "scores of teacher and reference, and their training where that happened here"),
            Column("its share of that", "each divided by the students that use it"),
            Column("training and share"),
        ],
        rows=rows,
        sources=sources[:1],
        note="Attention over the context is left out, as in arXiv 2001.08361.",
    )
    # What each costs stands in the table.
    said = [line for line in words.splitlines() if "FLOPs of training" not in line]
    blocks: list[Block] = [Words(text="\n\n".join(said)), table]
    for place, baseline in enumerate(sorted(baselines)):
        caption = f"What it costs to reach the final loss of {baseline}, over the number of students that are trained"
        svg = plot_break_even(break_even, ledger, baseline=baseline, picture="svg")
        blocks.append(
            Picture(
                caption=caption,
                svg=inline_svg(svg, name=f"costs-{place}", title=caption, about=" ".join(said)),
                sources=sources,
                note="What was made before is paid once. Students of whom not every seed reached that loss have "
                "no line.",
            )
        )
    return Section(title="What it cost, and when it pays", blocks=blocks)
