"""What the page of the ledger says: what each student cost, and what was made before it."""

from typing import Any

import polars as pl

from miniplm_assets.lineage.kind import ALL_FILES
from miniplm_assets.lineage.page import Entry, Page, Rows, Words
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.store import Result


def ledger_page(_work: Work[Any], result: Result) -> Page:
    """Return the page of the ledger."""
    rows = pl.concat(pl.read_parquet(path, glob=False) for path in result.matching(ALL_FILES)).to_dicts()
    cheapest, dearest = (of(rows, key=lambda row: row["flops"]) for of in (min, max))
    outcome: dict[str, Entry] = {}
    if len(rows) > 1 and cheapest["flops"]:
        times = dearest["flops"] / cheapest["flops"]
        outcome["outcome"] = (
            f"{dearest['student']} cost {dearest['flops']:.3g} FLOPs in all, {times:.3g} times as much as "
            f"{cheapest['student']} ({cheapest['flops']:.3g}). What was made before is shared by those that use it."
        )
    outcome["students, FLOPs"] = Rows(
        ("student", "training of one seed", "made before", "its share of that", "training and share"),
        [
            [row["student"], row["training_flops"], row["offline_flops"], row["offline_flops_share"], row["flops"]]
            for row in rows
        ],
    )
    return Page(outcome=outcome, made_of={"made before": Rows(("student", "assets"), _made_before(rows))})


def break_even_page(work: Work[Any], result: Result) -> Page:
    """Return the page of the break-even: from how many students on each is a cheaper way than its baseline."""
    rows = pl.concat(pl.read_parquet(path, glob=False) for path in result.matching(ALL_FILES)).to_dicts()
    pairs = work.settings.baselines.items()
    against = [row["outcome"] for row in rows if (row["student"], row["opponent"]) in pairs]
    # A paragraph for each: a page shows how each begins.
    return Page(outcome={"cheaper than its baseline": Words("\n\n".join(against))} if against else {})


def _made_before(rows: list[dict[str, Any]]) -> list[list[str]]:
    return [[row["student"], ", ".join(row["offline_assets"] or []) or "nothing"] for row in rows]
