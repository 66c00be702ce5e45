"""What the page of the comparison says: the verdict, the students side by side, and their losses along the way."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from miniplm_assets.evaluation.line_styles import line_styles
from miniplm_assets.kinds.student_checkpoint import checkpoint_key
from miniplm_assets.lineage.page import Cell, Entry, Lines, Page, Rows, Words
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.store import Result
from miniplm_assets.training.held_out import HELD_OUT_LOG


def comparison_page(work: Work[Any], result: Result) -> Page:
    """Return the page of the comparison."""
    rows = result.facts["students"]
    several = len({row["student"] for row in rows}) < len(rows)
    students: list[list[Cell]] = [
        [
            f"{row['student']} {row['seed']}" if several else row["student"],
            row["validation_nll_nats_per_token"],
            row["bits_per_byte"],
            row["num_tokens"],
            row["tokens_saved_factor"],
        ]
        for row in rows
    ]
    columns = ("student", "loss, nats / token", "bits / byte", "tokens", "times fewer tokens")
    outcome: dict[str, Entry] = {"verdict": Words(result.facts["verdict"]), "students": Rows(columns, students)}
    curves = _curves(work)
    if curves:
        colours = {name: style.colour for name, style in line_styles(curves).items()}
        outcome["loss along the way, nats / token"] = Lines(curves, x="tokens", colours=colours)
    settings = work.settings
    made_of: dict[str, Entry] = {
        "students learnt from": Rows(
            ("student", "corpus", "baseline"),
            [[name, one.corpus, one.baseline] for name, one in settings.students.items()],
        )
    }
    if settings.excluded_domains:
        made_of["domains that losses leave out"] = ", ".join(settings.excluded_domains)
    return Page(outcome=outcome, made_of=made_of)


def _curves(work: Work[Any]) -> dict[str, Sequence[tuple[float, float]]]:
    """Return the losses of each student's first seed, as far as they are stored."""
    curves = {}
    for name in work.settings.students:
        recipe = next(iter(work.fingerprints.pieces(checkpoint_key(name)).values()))
        stored = work.pipeline.store.find(recipe)
        if stored is not None:
            curves[name] = _curve(stored.folder / HELD_OUT_LOG, work.settings.excluded_domains)
    return curves


def _curve(log: Path, excluded_domains: Collection[str]) -> Sequence[tuple[float, float]]:
    losses = (
        pl.read_parquet(log, glob=False)
        .filter(~pl.col("domain").is_in(list(excluded_domains)))
        .group_by("num_tokens")
        .agg(pl.col("nll_nats").sum() / pl.col("num_scored_tokens").sum())
        .sort("num_tokens")
    )
    return [(float(tokens), float(loss)) for tokens, loss in losses.iter_rows()]
