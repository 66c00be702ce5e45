"""What the page of the ledger says: what each student cost, and what was made before it."""

from collections.abc import Mapping
from typing import Any, Final

import polars as pl

from miniplm_assets.lineage.kind import ALL_FILES
from miniplm_assets.lineage.page import Entry, Page, Rows, Words, percent
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.store import Result

# Of the students that have a baseline; the table has all.
NUM_IN_WORDS: Final = 2


def ledger_page(work: Work[Any], result: Result) -> Page:
    """Return the page of the ledger."""
    rows = pl.concat(pl.read_parquet(path, glob=False) for path in result.matching(ALL_FILES)).to_dicts()
    by_name = {row["student"]: row for row in rows}
    pairs = [
        (by_name[student], by_name[baseline])
        for student, baseline in work.settings.baselines.items()
        if by_name[baseline]["flops"]
    ]
    times = {one["student"]: one["flops"] / baseline["flops"] for one, baseline in pairs}
    outcome: dict[str, Entry] = {}
    if pairs:
        outcome["outcome"] = (
            " ".join(_held_against(*pair) for pair in pairs[:NUM_IN_WORDS])
            + " What was made before is shared by the students that use it."
        )
    outcome["students, FLOPs"] = Rows(
        ("student", "training of one seed", "its share of what was made before", "in all, times its baseline"),
        [
            [row["student"], row["training_flops"], row["offline_flops_share"], times.get(row["student"])]
            for row in rows
        ],
    )
    outcome["in all"] = Rows(
        ("student", "all that was made before", "training and its share"),
        [[row["student"], row["offline_flops"], row["flops"]] for row in rows],
        is_aside=True,
    )
    return Page(outcome=outcome, made_of={"made before": Rows(("student", "assets"), _made_before(rows))})


def _held_against(row: Mapping[str, Any], baseline: Mapping[str, Any]) -> str:
    """Say what a student cost beside its baseline, and how much of that was made before any student."""
    times = row["flops"] / baseline["flops"]
    before = percent(row["offline_flops_share"], row["flops"])
    made_before = f", {before} of it made before" if row["offline_flops_share"] else ""
    return (
        f"{row['student']} cost {row['flops']:.3g} FLOPs in all{made_before}: {times:.3g} times as much as "
        f"{baseline['student']} ({baseline['flops']:.3g})."
    )


def break_even_page(work: Work[Any], result: Result) -> Page:
    """Return the page of the break-even: from how many students on each is a cheaper way than its baseline."""
    rows = pl.concat(pl.read_parquet(path, glob=False) for path in result.matching(ALL_FILES)).to_dicts()
    pairs = work.settings.baselines.items()
    against = [row["outcome"] for row in rows if (row["student"], row["opponent"]) in pairs]
    # A paragraph for each: a page shows how each begins.
    return Page(outcome={"cheaper than its baseline": Words("\n\n".join(against))} if against else {})


def _made_before(rows: list[dict[str, Any]]) -> list[list[str]]:
    return [[row["student"], ", ".join(row["offline_assets"] or []) or "nothing"] for row in rows]
