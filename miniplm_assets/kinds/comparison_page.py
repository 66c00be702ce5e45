"""What the page of the comparison says: the verdict, the students side by side, and their losses along the way."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import polars as pl

from miniplm_assets.evaluation.differences import PER_BYTE, HeldAgainst, differences_in
from miniplm_assets.evaluation.line_styles import line_styles
from miniplm_assets.kinds.student_checkpoint import checkpoint_key
from miniplm_assets.kinds.student_differences import STUDENT_DIFFERENCES, differences_in_words
from miniplm_assets.lineage.page import Cell, Entry, Lines, Page, Rows, Words
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.store import Result
from miniplm_assets.training.held_out import HELD_OUT_LOG

# Tokens and loss.
Curve = Sequence[tuple[float, float]]
MAX_CURVES: Final = 5


def comparison_page(work: Work[Any], result: Result) -> Page:
    """Return the page of the comparison."""
    [differences] = work.input_tables(STUDENT_DIFFERENCES.name)
    held = {row.student: row for row in differences_in(pl.read_parquet(differences, glob=False)) if row.text is None}
    outcome: dict[str, Entry] = {
        "verdict": Words(result.facts["verdict"]),
        **_students(result.facts["students"], held),
    }
    curves = _curves(work)
    if curves:
        colours = {name: style.colour for name, style in line_styles(curves).items()}
        shown = _few(curves, {one.baseline for one in work.settings.students.values()})
        which = "" if len(shown) == len(curves) else f", {len(shown)} of {len(curves)} students"
        outcome[f"loss along the way, nats / token{which}"] = Lines(shown, x="tokens", colours=colours)
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


def _students(rows: Sequence[Mapping[str, Any]], held: Mapping[str, HeldAgainst]) -> dict[str, Entry]:
    """Return the students side by side, each once, the lowest loss first; of several seeds the means.

    Args:
        rows: of the comparison's table.
        held: how each differs from its baseline, by the student.
    """
    baselines = {one.baseline for one in held.values()}
    of_students: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in rows:  # what is a baseline of others stands there once more
        of_students.setdefault(row["student"], {}).setdefault(row["seed"], row)
    numbers = sorted({len(seeds) for seeds in of_students.values()})
    of_seeds = "" if numbers == [1] else f", mean of {' or '.join(map(str, numbers))} seeds"
    table: list[list[Cell]] = []
    more: list[list[Cell]] = []
    losses_of = {
        student: [row["validation_nll_nats_per_token"] for row in seeds.values()]
        for student, seeds in of_students.items()
    }
    for student, losses in sorted(losses_of.items(), key=lambda one: fmean(one[1])):
        seeds = of_students[student]
        table.append([student, fmean(losses), *_against(held.get(student), has_name=len(baselines) > 1)])
        more.append(
            [
                student,
                min(losses),
                max(losses),
                fmean(row["bits_per_byte"] for row in seeds.values()),
                fmean(row["num_tokens"] for row in seeds.values()),
            ]
        )
    against = f"against {next(iter(baselines)) if len(baselines) == 1 else 'its baseline'}"
    columns = ("student", f"held-out loss, nats / token{of_seeds}", f"{against} (95 % interval)", "times fewer tokens")
    return {
        "students": Rows(columns, table),
        "their seeds and tokens": Rows(
            ("student", "lowest loss", "highest", "bits / byte", "tokens"), more, is_aside=True
        ),
    }


def _against(held: HeldAgainst | None, *, has_name: bool) -> tuple[str, str]:
    """Return how a student differs from its baseline, and how many times fewer tokens it needs, with intervals."""
    if held is None:
        return "", ""
    difference, fewer = differences_in_words(held)
    unit = " bits / byte" if held.unit == PER_BYTE else ""
    one_seed = "" if held.is_over_seeds else "; one seed"
    name = f"{held.baseline}: " if has_name else ""
    return f"{name}{difference}{unit}{one_seed}", fewer


def _few(curves: Mapping[str, Curve], baselines: Collection[str | None]) -> dict[str, Curve]:
    """Return as many curves as a small picture holds: baselines, and those that end lowest."""
    by_loss = sorted(curves, key=lambda name: (name not in baselines, curves[name][-1][1]))
    return {name: curves[name] for name in curves if name in by_loss[:MAX_CURVES]}


def _curves(work: Work[Any]) -> dict[str, Curve]:
    """Return the losses of each student's first seed, as far as they are stored."""
    curves = {}
    for name in work.settings.students:
        recipe = next(iter(work.fingerprints.pieces(checkpoint_key(name)).values()))
        stored = work.pipeline.store.find(recipe)
        if stored is not None:
            curves[name] = _curve(stored.folder / HELD_OUT_LOG, work.settings.excluded_domains)
    return curves


def _curve(log: Path, excluded_domains: Collection[str]) -> Curve:
    losses = (
        pl.read_parquet(log, glob=False)
        .filter(~pl.col("domain").is_in(list(excluded_domains)))
        .group_by("num_tokens")
        .agg(pl.col("nll_nats").sum() / pl.col("num_scored_tokens").sum())
        .sort("num_tokens")
    )
    return [(float(tokens), float(loss)) for tokens, loss in losses.iter_rows()]
