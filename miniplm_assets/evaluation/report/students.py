"""What the report says of students: the curves, the losses by domain, how they were made, the costs."""

from collections.abc import Collection, Mapping, Sequence

import polars as pl

from miniplm_assets.evaluation.figures import shortened
from miniplm_assets.evaluation.line_styles import LineStyle
from miniplm_assets.evaluation.report.blocks import Block, Cell, Column, Picture, Section, Source, Table, Words
from miniplm_assets.evaluation.report.charts import inline_svg
from miniplm_assets.evaluation.report.numbers import NOT_THERE, count, flops, nats
from miniplm_assets.evaluation.report.outcome import MAX_OPEN_PARAGRAPHS
from miniplm_assets.evaluation.report.told import StudentsTold, after_headline
from miniplm_assets.evaluation.student_plots import plot_break_even, plot_loss_curves

HOW_TO_READ = " The dashed line is where the baseline ends; a ring marks where a student gets there."


def curves(told: StudentsTold) -> Section:
    """Draw the losses along the way, a picture for each baseline."""
    blocks: list[Block] = []
    for place, (baseline, names) in enumerate([*told.groups.items(), *((None, one) for one in _unheld(told))]):
        group = [told.records[name] for name in names]
        svg = plot_loss_curves(
            group, baseline=baseline, excluded_domains=told.excluded_domains, styles=told.styles, picture="svg"
        )
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
    rest = after_headline(told.verdict)[MAX_OPEN_PARAGRAPHS:]
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


def pays_said(words: str) -> list[str]:
    """Return what `break_even` says of when each way pays; what each costs stands in a table."""
    return [line for line in words.splitlines() if "FLOPs of training" not in line]


def _took(seconds: Mapping[str, float]) -> str:
    parts = ", ".join(f"{what} {taken / 60:,.1f}" for what, taken in seconds.items())
    return (
        f"All that is stored took {sum(seconds.values()) / 60:,.1f} minutes to compute, each result when it was made: "
        f"{parts}."
    )


def costs(
    ledger: pl.DataFrame,
    break_even: pl.DataFrame,
    *,
    words: str,
    baselines: Collection[str],
    styles: Mapping[str, LineStyle],
    seconds: Mapping[str, float],
    sources: Sequence[Source],
) -> Section:
    """Say what each student cost, and from how many on it is the cheaper way.

    Args:
        ledger: as `ledger_table` returns it.
        break_even: as `break_even_table` returns it.
        words: what `break_even` says of itself.
        baselines: whose loss is to be reached.
        styles: how the lines of the students are drawn.
        seconds: of computing all that is stored, by what it was.
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
    said = pays_said(words)
    blocks: list[Block] = [Words(text="\n\n".join([*said, _took(seconds)])), table]
    for place, baseline in enumerate(sorted(baselines)):
        caption = f"What it costs to reach the final loss of {baseline}, over the number of students that are trained"
        svg = plot_break_even(break_even, ledger, baseline=baseline, styles=styles, picture="svg")
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
