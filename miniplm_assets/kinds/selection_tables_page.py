"""What the pages of a selection's smaller tables say: how scores are spread, over domains, lengths and tenths."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import polars as pl

from miniplm_assets.core.words import cut
from miniplm_assets.kinds.agreement import CUTOFF
from miniplm_assets.kinds.parameters import WORDS_OF_UNIT
from miniplm_assets.kinds.rankings import RANKINGS
from miniplm_assets.lineage.facts_page import page_of_facts
from miniplm_assets.lineage.kind import ALL_FILES
from miniplm_assets.lineage.page import Cell, Entry, Lines, Page, Rows, Words, amount, percent
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.store import Result

# As many as a small chart draws: of more bins, so many neighbours are added up.
NUM_DRAWN_BINS: Final = 20
# Of a tenth: as much as fits into a cell.
CHARACTERS_OF_AN_EXAMPLE: Final = 60
NUM_DOMAINS: Final = 3


def _shift(_work: Work[Any], result: Result) -> Page:
    rows = sorted(result.facts.get("rows", []), key=lambda row: row["token_share_change"])
    table = [
        [
            row["domain"],
            percent(row["share_of_candidate_tokens"]),
            percent(row["share_of_kept_tokens"]),
            percent(row["kept_share_of_domain"]),
            row["mean_difference_nats_per_token"],
        ]
        for row in rows
    ]
    columns = ("domain", "of candidate tokens", "of kept tokens", "sequences kept", "mean difference, nats / token")
    outcome: dict[str, Entry] = {"domains, by change of share": Rows(columns, table)} if rows else {}
    if rows:
        least, most = rows[0], rows[-1]
        outcome = {
            "outcome": f"The selection cut {least['domain']} from {percent(least['share_of_candidate_tokens'])} to "
            f"{percent(least['share_of_kept_tokens'])} of the tokens, and raised {most['domain']} from "
            f"{percent(most['share_of_candidate_tokens'])} to {percent(most['share_of_kept_tokens'])}."
        } | outcome
    return Page(outcome=outcome)


def _ranking(_work: Work[Any], result: Result) -> Page:
    spread = result.facts.get("scores")
    if spread is None:  # of an earlier release, or of so few candidates that all are shown
        return page_of_facts(result.facts)
    outcome = (
        f"{amount(spread['num_candidates'])} candidates are ranked, the highest score first: in the mean it is "
        f"{amount(spread['mean'])}, with a standard deviation of {amount(spread['standard_deviation'])}, and goes from "
        f"{amount(spread['lowest'])} to {amount(spread['highest'])}. Below zero are "
        f"{percent(spread['share_below_zero'])}."
    )
    return Page(outcome={"outcome": outcome})


def _distribution(work: Work[Any], result: Result) -> Page:
    files = (pl.read_parquet(path, glob=False) for path in result.matching(ALL_FILES))
    rows = pl.concat(files).sort("bin_start_nats")
    together = max(1, -(-rows.height // NUM_DRAWN_BINS))
    drawn = rows.group_by(pl.int_range(pl.len()) // together, maintain_order=True).agg(
        pl.col("bin_start_nats").mean(), pl.col("num_candidates", "num_kept").sum()
    )
    lines: dict[str, Sequence[tuple[float, float]]] = {
        name: list(drawn.select("bin_start_nats", f"num_{name}").iter_rows()) for name in ("candidates", "kept")
    }
    cutoff = work.input(CUTOFF).facts
    if cutoff["cutoff_difference"] is not None:
        top = max(drawn["num_candidates"].to_list(), default=0)
        lines["cutoff"] = [(cutoff["cutoff_difference"], 0), (cutoff["cutoff_difference"], top)]
    title = f"number of sequences by score, in {drawn.height} bins"
    return Page(outcome={title: Lines(lines, x=f"score, {WORDS_OF_UNIT[cutoff['rank_by']]}")})


def _deciles(_work: Work[Any], result: Result) -> Page:
    rows = result.facts.get("rows", [])
    if len(rows) < 2:  # so few candidates that nothing is told of tenths
        return page_of_facts(result.facts)
    table = [
        [
            row["decile"],
            row["lowest_difference"],
            row["teacher_nll_nats_per_token"],
            row["reference_nll_nats_per_token"],
            percent(row["share_kept"]),
        ]
        for row in rows
    ]
    texts: list[list[Cell]] = [
        [
            row["decile"],
            ", ".join(row["domains"].split(", ")[:NUM_DOMAINS]),
            cut(row["example_1"] or "", CHARACTERS_OF_AN_EXAMPLE),
        ]
        for row in rows
    ]
    best, worst = rows[0], rows[-1]
    outcome = f"Tenth 1 ranks highest: {best['domains']}. Tenth {worst['decile']} ranks lowest: {worst['domains']}."
    columns = ("tenth", "lowest score", "teacher's loss, nats / token", "reference's loss", "kept")
    return Page(
        outcome={
            "outcome": outcome,
            "how hard each tenth is": Rows(columns, table),
            "of which domains it is, and a text drawn from it": Rows(("tenth", "domains", "text"), texts),
        }
    )


def _length_bias(_work: Work[Any], result: Result) -> Page:
    rows = result.facts.get("rows", [])
    buckets, every = [row for row in rows if row["length_bucket"]], [row for row in rows if not row["length_bucket"]]
    if not buckets or not every:
        return page_of_facts(result.facts)
    table = [
        [
            f"{amount(row['min_num_tokens'])} to {amount(row['max_num_tokens'])}",
            row["num_candidates"],
            percent(row["share_kept"]),
            row["mean_difference_nats_per_token"],
            row["mean_difference_nats"],
        ]
        for row in buckets
    ]
    by_token = every[0]["length_difference_per_token_correlation"]
    by_sequence = every[0]["length_difference_correlation"]
    outcome = (
        f"Of the shortest candidates {percent(buckets[0]['share_kept'])} are kept, of the longest "
        f"{percent(buckets[-1]['share_kept'])}. The difference a token has a correlation with the length of "
        f"{amount(by_token)}; summed over the sequence, of {amount(by_sequence)}."
    )
    columns = ("tokens", "candidates", "kept", "mean difference, nats / token", "nats / sequence")
    return Page(outcome={"outcome": outcome, "by length": Rows(columns, table)})


def _what_if(work: Work[Any], result: Result) -> Page:
    rows = result.facts.get("rows", [])
    if not rows:
        return page_of_facts(result.facts)
    now = work.input(CUTOFF).facts
    share = now["num_kept"] / now["num_candidates"]
    told = [
        (row["keep_fraction"], row["num_kept"], row["kept_share_of_tokens"], row["cutoff_difference"], row["overlap"])
        for row in rows
        if row["num_kept"] != now["num_kept"]
    ]
    of_tokens = now["num_kept_tokens"] / now["num_candidate_tokens"]
    told.append((share, now["num_kept"], of_tokens, now["cutoff_difference"], 1.0))
    table: list[list[Cell]] = [
        [
            f"{fraction:.2f}" + (" (as it stands)" if number == now["num_kept"] else ""),
            number,
            percent(tokens),
            cutoff,
            percent(overlap),
        ]
        for fraction, number, tokens, cutoff, overlap in sorted(told)
    ]
    columns = ("keep fraction", "sequences", "of the tokens", "cutoff", "of what either keeps, both")
    outcome: dict[str, Entry] = {
        "outcome": f"As it stands, {percent(share)} of the candidates are kept. From the same scores, another keep "
        "fraction would keep:",
        "other keep fractions": Rows(columns, table),
    }
    command = f"python -m miniplm_assets what-if {work.node.names[0]} --keep-fraction 0.3"
    return Page(outcome=outcome, made_of={"with any other, and by domain": Words(f"`{command}`")})


TABLE_PAGES: Final[Mapping[str, Callable[[Work[Any], Result], Page]]] = {
    **dict.fromkeys(RANKINGS, _ranking),
    "domain_shift": _shift,
    "score_distribution": _distribution,
    "score_deciles": _deciles,
    "length_bias": _length_bias,
    "what_if": _what_if,
}
