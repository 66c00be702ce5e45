"""What the report says of a selection: how it was made, what it does to the corpus, and examples to judge it by."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import polars as pl

from miniplm_assets.evaluation.figures import shortened
from miniplm_assets.evaluation.plots import MAX_DOMAINS, plot_difference_distribution
from miniplm_assets.evaluation.report.blocks import (
    Bars,
    Block,
    Cell,
    Column,
    Number,
    Picture,
    Section,
    Source,
    Table,
    Text,
    Texts,
)
from miniplm_assets.evaluation.report.charts import inline_svg
from miniplm_assets.evaluation.report.numbers import count, share

# Of the texts at each end, and of each text: as much as shows what it is.
NUM_TEXTS = 4
TEXT_CHARACTERS = 600


@dataclass(frozen=True, kw_only=True)
class SelectionTold:
    """What is known of a selection.

    Attributes:
        name: of the selection.
        made: how it was made, a row a thing.
        gates: what was said and measured before it.
        cutoff: the only row of its cutoff.
        unit: what the cutoff is in, in words.
        quantity: what its candidates are ranked by.
        is_difference: whether that is the plain difference.
        domain_shift: as the mart has it.
        distribution: as the mart has it.
        extremes: as the mart has it.
        length_bias: as the mart has it.
        sources: of those, by the name of the mart.
        pictures: where its columns come from.
        more: tables that the report knows nothing of.
    """

    name: str
    made: Mapping[str, str]
    gates: Sequence[Block]
    cutoff: Mapping[str, float]
    unit: str
    quantity: str
    is_difference: bool
    domain_shift: pl.DataFrame
    distribution: pl.DataFrame
    extremes: pl.DataFrame
    length_bias: pl.DataFrame
    sources: Mapping[str, Source]
    pictures: Sequence[Picture] = field(default_factory=tuple)
    more: Sequence[Table] = field(default_factory=tuple)


def selection_section(told: SelectionTold, *, place: int, is_folded: bool) -> Section:
    """Say what a selection did.

    Args:
        told: what is known of it.
        place: among the selections.
        is_folded: whether it is unfolded by the reader alone.
    """
    blocks: list[Block] = [
        Table(
            caption="How it was made",
            columns=[Column(""), Column("")],
            rows=[[what, words] for what, words in told.made.items()],
            sources=[told.sources["selection_cutoff"]],
        ),
        *told.gates,
        _distribution(told, place),
        _domains(told),
        *_examples(told),
        _lengths(told),
        *told.more,
        *told.pictures,
    ]
    return Section(title=told.name, blocks=blocks, is_folded=is_folded)


def _distribution(told: SelectionTold, place: int) -> Picture:
    cutoff = told.cutoff["cutoff_difference"]
    plot = partial(plot_difference_distribution, told.distribution, cutoff=cutoff, unit=told.unit, picture="svg")
    svg = plot() if told.is_difference else plot(quantity=told.quantity)
    caption = f"How the candidates are distributed over the {told.quantity}, and where the selection cuts"
    num_candidates = int(told.cutoff["num_candidates"])
    return Picture(
        caption=caption,
        svg=inline_svg(
            svg,
            name=f"distribution-{place}",
            title=caption,
            about=f"Kept are {told.cutoff['num_kept']:,} of {num_candidates:,} candidate sequences, from "
            f"{cutoff:.4g} {told.unit} on; {told.cutoff['share_below_zero']:.1%} lie below zero.",
        ),
        sources=[told.sources["score_distribution"], told.sources["selection_cutoff"]],
        note=f"n: {num_candidates:,} candidate sequences.",
    )


def _domains(told: SelectionTold) -> Table:
    shares = told.domain_shift.sort(
        pl.col("share_of_kept_tokens") - pl.col("share_of_candidate_tokens"), "domain", descending=[True, False]
    )
    largest = max(*shares["share_of_candidate_tokens"], *shares["share_of_kept_tokens"], 1e-9)
    rows: list[list[Cell]] = []
    for row in shares.iter_rows(named=True):
        before, after = row["share_of_candidate_tokens"], row["share_of_kept_tokens"]
        rows.append(
            [
                shortened(row["domain"]),
                share(before),
                share(after),
                Bars((before / largest, after / largest)),
                Number(after - before, f"{100 * (after - before):+.1f} points"),
                share(row["kept_share_of_domain"]),
                count(row["num_candidates"]),
                count(row["num_kept_tokens"]),
            ]
        )
    return Table(
        caption="Domains before and after: shares of the tokens",
        columns=[
            Column("domain"),
            Column("candidates", "share of all candidate tokens"),
            Column("kept", "share of all kept tokens"),
            Column("before, after", "pale: candidates; blue: kept"),
            Column("change"),
            Column("kept of it", "share of the domain's candidate sequences that are kept"),
            Column("candidate sequences"),
            Column("kept tokens"),
        ],
        rows=rows,
        sources=[told.sources["domain_shift"]],
        note=f"n: {int(told.cutoff['num_candidate_tokens']):,} candidate tokens, "
        f"{int(told.cutoff['num_kept_tokens']):,} kept.",
        is_folded=shares.height > 2 * MAX_DOMAINS,
    )


def _examples(told: SelectionTold) -> Iterator[Texts]:
    for extreme, words in (("highest", "What ranks highest"), ("lowest", "What ranks lowest")):
        rows = told.extremes.filter(pl.col("extreme") == extreme).sort("place")
        yield Texts(
            caption=words,
            texts=[_text(row, told.unit) for row in rows.head(NUM_TEXTS).iter_rows(named=True)],
            sources=[told.sources["extreme_sequences"]],
            note=f"{min(NUM_TEXTS, rows.height)} of the {rows.height} that are stored, of "
            f"{int(told.cutoff['num_candidates']):,} candidates; the first {TEXT_CHARACTERS} characters of each.",
        )


def _text(row: Mapping[str, object], unit: str) -> Text:
    losses = [
        f"{who} {loss:.2f}"
        for who in ("teacher", "reference")
        if isinstance(loss := row.get(f"{who}_nll_nats_per_token"), float)
    ]
    by = f"; {', '.join(losses)} nats a token" if losses else ""
    kept = "kept" if row["is_kept"] else "discarded"
    text = str(row["text"])
    left = len(text) - TEXT_CHARACTERS
    more = f" … ({left:,} more characters)" if left > 0 else ""
    return Text(
        title=f"{row['place']}. {shortened(str(row['domain']))}, {kept}: {row['rank_difference']:.3f} {unit}{by}",
        text=text[:TEXT_CHARACTERS] + more,
    )


def _lengths(told: SelectionTold) -> Table:
    buckets = told.length_bias.filter(pl.col("length_bucket") > 0).sort("length_bucket")
    rows: list[list[Cell]] = [
        [
            f"{row['min_num_tokens']:,} to {row['max_num_tokens']:,}",
            count(row["num_candidates"]),
            count(row["num_kept"]),
            share(row["share_kept"]),
            Bars((row["share_kept"],)),
        ]
        for row in buckets.iter_rows(named=True)
    ]
    overall = told.length_bias.filter(pl.col("length_bucket") == 0).row(0, named=True)
    correlations = [
        f"{value:+.2f} with the difference {of}"
        for name, of in (
            ("length_difference_per_token_correlation", "a token"),
            ("length_difference_correlation", "of a whole sequence"),
        )
        if isinstance(value := overall[name], float)
    ]
    said = f" Correlation of the length {', '.join(correlations)}." if correlations else ""
    return Table(
        caption="Whether the length decides: what is kept, by tokens of a sequence",
        columns=[
            Column("tokens"),
            Column("candidate sequences"),
            Column("kept sequences"),
            Column("share kept"),
            Column("of all of them"),
        ],
        rows=rows,
        sources=[told.sources["length_bias"]],
        note=f"n: {overall['num_candidates']:,} candidate sequences.{said}",
    )
