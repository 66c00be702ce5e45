"""`selection_overlap`, `selection_differences`: how alike selections over the same candidates are, and where they part.

A random selection beside another says what is chance; one with another reference, how much the reference decides.
"""

from collections.abc import Iterator
from functools import partial
from itertools import chain, combinations
from typing import Final

import polars as pl

from miniplm_assets.core.overlap import most_different, overlap, paired
from miniplm_assets.core.recipe import key_of
from miniplm_assets.core.selection import is_kept
from miniplm_assets.core.words import cut
from miniplm_assets.experiment import Experiment
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.agreement import CUTOFF
from miniplm_assets.kinds.rankings import rank_key
from miniplm_assets.kinds.sequences import SEQUENCES, sequences_key
from miniplm_assets.lineage.kind import ALL_FILES, Blueprint, Kind, Node
from miniplm_assets.lineage.page import Cell, Entry, Page, Rows, amount, percent
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.store import Draft, Result

OVERLAP: Final = "selection_overlap"
DIFFERENCES: Final = "selection_differences"
RANKING: Final = "ranking"
# Sequences that only one of two selections keeps: as many as a person looks through, and as much of each text.
MAX_SEQUENCES: Final = 50
MAX_CHARACTERS: Final = 200
MAX_SHOWN_PAIRS: Final = 60
# Of those, what is read at once: pairs, sequences of each way, and characters of each.
MAX_PAIRS_ON_A_PAGE: Final = 3
NUM_ON_A_PAGE: Final = 2
CHARACTERS_ON_A_PAGE: Final = 90


class Pairs(Settings):
    """Which selections are held against each other: the names of each two, in the order of the file."""

    pairs: tuple[tuple[str, str], ...]


def _nodes(kinds: dict[str, Kind[Pairs]], kind: str, blueprint: Blueprint) -> Iterator[Node[Pairs]]:
    experiment = blueprint.experiment
    pairs = tuple(_pairs(experiment))
    inputs: dict[str, str] = {}
    for name in dict.fromkeys(chain.from_iterable(pairs)):
        inputs[f"{name} {RANKING}"] = rank_key(name, experiment.selections[name])
        inputs[f"{name} {CUTOFF}"] = key_of(CUTOFF, name)
        if kind == DIFFERENCES:
            inputs[f"{name} {SEQUENCES.name}"] = sequences_key(str(experiment.selection_tokenizer(name)))
    if pairs:
        yield Node(kind=kinds[kind], inputs=inputs, settings=Pairs(pairs=pairs))


def _pairs(experiment: Experiment) -> Iterator[tuple[str, str]]:
    """Go through the pairs of selections over the same candidates: of one tokenizer, after the same pre_filter."""
    for (name, one), (other_name, other) in combinations(experiment.selections.items(), 2):
        same_sequences = experiment.selection_tokenizer(name) == experiment.selection_tokenizer(other_name)
        if same_sequences and one.pre_filter == other.pre_filter:
            yield name, other_name


def _make_overlap(work: Work[Pairs]) -> Result:
    """Measure each pair."""

    def write(draft: Draft) -> None:
        rows = [
            {"first": first, "second": second, **overlap(_paired(work, first, second))}
            for first, second in work.settings.pairs
        ]
        pl.DataFrame(rows, schema_overrides={"pearson": pl.Float64, "spearman": pl.Float64}).write_parquet(
            draft.path / f"{OVERLAP}.parquet"
        )
        draft.facts = {"rows": rows[:MAX_SHOWN_PAIRS]}

    return work.make(write)


def _page_of_overlap(_work: Work[Pairs], result: Result) -> Page:
    rows = result.facts["rows"]
    table = [
        [
            f"{row['first']}, {row['second']}",
            percent(row["share_of_equal_decisions"]),
            percent(row["share_equal_by_chance"]),
            percent(row["jaccard"]),
            row["spearman"],
        ]
        for row in rows
    ]
    columns = ("two selections", "same decision", "by chance", "of what either keeps, both", "Spearman")
    alike = max(rows, key=lambda row: row["share_of_equal_decisions"])
    outcome = (
        f"Most alike are {alike['first']} and {alike['second']}: of {amount(alike['num_candidates'])} candidates they "
        f"keep or drop {percent(alike['share_of_equal_decisions'])} alike; by chance it would be "
        f"{percent(alike['share_equal_by_chance'])}."
    )
    return Page(outcome={"outcome": outcome, "how alike they decide": Rows(columns, table)})


def _make_differences(work: Work[Pairs]) -> Result:
    """List the sequences of each pair on which it is most divided."""

    def write(draft: Draft) -> None:
        tables = [
            _with_texts(work, first, most_different(_paired(work, first, second), MAX_SEQUENCES)).select(
                pl.lit(first).alias("first"), pl.lit(second).alias("second"), pl.all()
            )
            for first, second in work.settings.pairs
        ]
        pl.concat(tables).write_parquet(draft.path / f"{DIFFERENCES}.parquet")

    return work.make(write)


def _page_of_differences(_work: Work[Pairs], result: Result) -> Page:
    rows = pl.concat(pl.read_parquet(path, glob=False) for path in result.matching(ALL_FILES))
    pairs = rows.select("first", "second").unique(maintain_order=True)
    outcome: dict[str, Entry] = {
        "outcome": f"Of {amount(pairs.height)} pair{'s' if pairs.height != 1 else ''} of selections, "
        f"{amount(rows.height)} sequences that one keeps and the other drops, those furthest apart in the two rankings."
    }
    for first, second in pairs.head(MAX_PAIRS_ON_A_PAGE).iter_rows():
        own = rows.filter(first=first, second=second).filter(pl.col("rank") <= NUM_ON_A_PAGE)
        told: list[list[Cell]] = [
            [first if kept_by == "first" else second, domain, cut(text, CHARACTERS_ON_A_PAGE)]
            for kept_by, domain, text in own.select("kept_by", "domain", "text").iter_rows()
        ]
        outcome[f"{first} and {second}"] = Rows(("kept by it alone", "domain", "text"), told)
    return Page(outcome=outcome)


def _paired(work: Work[Pairs], first: str, second: str) -> pl.DataFrame:
    def ranked(name: str) -> pl.DataFrame:
        [path] = work.input_tables(f"{name} {CUTOFF}")
        cutoff = pl.read_parquet(path, glob=False).row(0, named=True)
        kept = is_kept(pl.col("rank_difference"), pl.col("sequence_id"), cutoff)
        table = pl.scan_parquet(work.input_tables(f"{name} {RANKING}"), glob=False)
        return table.select("sequence_id", kept, value="rank_difference").collect()

    work.run.stop.look()
    return paired(ranked(first), ranked(second))


def _with_texts(work: Work[Pairs], name: str, chosen: pl.DataFrame) -> pl.DataFrame:
    """Add to some candidates of a selection what they are: their file, domain, documents and how their text begins."""
    sequences = pl.scan_parquet(work.input_tables(f"{name} {SEQUENCES.name}"), glob=False)
    told = (
        sequences.filter(pl.col("sequence_id").is_in(chosen["sequence_id"].implode()))
        .select(
            "sequence_id",
            "shard",
            "domain",
            "num_tokens",
            document_ids=pl.col("spans").list.eval(pl.element().struct.field("document_id")),
            text=pl.col("texts").list.join("\n\n").str.slice(0, MAX_CHARACTERS),
        )
        .collect()
    )
    columns = [
        "kept_by", "rank", "sequence_id", "shard", "domain", "num_tokens", "first_value", "second_value",
        "first_place", "second_place", "document_ids", "text",
    ]  # fmt: skip
    return chosen.join(told, on="sequence_id", validate="1:1", maintain_order="left").select(columns)


_KINDS: dict[str, Kind[Pairs]] = {}
_KINDS[OVERLAP] = Kind(
    name=OVERLAP,
    code_version="1",
    section="reports",
    technologies=frozenset({"polars", "parquet"}),
    description="""One row for each two selections over the same candidates: how alike they decide, and rank.

In the paper, references of 45M, 104M and 200M parameters rank as a student of 500M does with a Pearson of 0.743, 0.826
and 0.856, a Spearman of 0.774, 0.840 and 0.879, and 80.6, 87.4 and 89.5 of 100 decisions equal.""",
    nodes=partial(_nodes, _KINDS, OVERLAP),
    make=_make_overlap,
    page=_page_of_overlap,
    table=ALL_FILES,
    columns={
        "first": "a selection",
        "second": "another, over the same candidates",
        "num_candidates": "sequences that both rank",
        "num_kept_by_first": "of those",
        "num_kept_by_second": "of those",
        "num_kept_by_both": "of those",
        "share_of_equal_decisions": "kept by both or by neither",
        "share_equal_by_chance": "of two that keep as many, at random",
        "jaccard": "kept by both, by those that either keeps",
        "pearson": "correlation of the values that rank; NULL where one does not vary",
        "spearman": "correlation of their ranks",
    },
)
_KINDS[DIFFERENCES] = Kind(
    name=DIFFERENCES,
    code_version="1",
    section="reports",
    technologies=frozenset({"polars", "parquet"}),
    description=f"""One row for each sequence that one of two selections keeps and the other does not, with its text.

For each pair and each way the {MAX_SEQUENCES} that stand furthest apart in the two rankings.""",
    nodes=partial(_nodes, _KINDS, DIFFERENCES),
    make=_make_differences,
    page=_page_of_differences,
    table=ALL_FILES,
    columns={
        "first": "a selection",
        "second": "another, over the same candidates",
        "kept_by": "first or second: the other drops it",
        "rank": "1: of those that this one alone keeps, the furthest apart",
        "sequence_id": "the candidate",
        "shard": "the corpus file",
        "domain": "of the sequence",
        "num_tokens": "of the sequence",
        "first_value": "that the first ranks by, in its unit",
        "second_value": "that the second ranks by, in its unit",
        "first_place": "in the first's ranking: share of the candidates that rank as low, or lower",
        "second_place": "in the second's",
        "document_ids": "that the sequence holds a part of",
        "text": "how it begins; an empty line between two documents",
    },
)
SELECTION_OVERLAP = tuple(_KINDS.values())
