"""Deriving a refined corpus again from its scores, by other means than the SQL: `python -m miniplm_assets verify`."""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import polars as pl

from miniplm_assets.core.ranking import best_first, num_kept
from miniplm_assets.core.splits import CANDIDATE
from miniplm_assets.experiment.selections import MODELS_OF_SCORE, PER_BYTE
from miniplm_assets.kinds.agreement import CUTOFF, DIFFERENCES
from miniplm_assets.kinds.parameters import SelectionParameters
from miniplm_assets.kinds.proxy_differences import NAME as PROXY_DIFFERENCES
from miniplm_assets.kinds.rankings import (
    DOMAIN_PLACES,
    LABELLED,
    LIKELIHOODS,
    MODEL_SCORES,
    PER_BYTE_SCORES,
    PERTURBED,
    PRIOR_STATISTICS,
    PRIORS,
    PROXY_SCORES,
    RANDOM,
    REVERSED,
    SCALE_CORRECTED,
)
from miniplm_assets.kinds.scored_bytes import SCORED_BYTES
from miniplm_assets.kinds.sequences import SEQUENCES
from miniplm_assets.lineage.work import Work
from miniplm_assets.lm.score_shard import SCHEMA

# What two ways to take a logarithm or a mean may be apart, of the value itself: which of two so near ones is kept, both
# may say in their own way. Scores that are only subtracted and divided must agree to the last bit.
ROUNDING: Final = 1e-9


def verify_selection(refined: Work[SelectionParameters]) -> Iterator[str]:
    """Say in what a refined corpus differs from what its scores ask for."""
    stored = refined.pipeline.store.require(refined.recipe)
    files = stored.matching("*.parquet")
    kept = set(pl.concat(pl.read_parquet(file, columns=["sequence_id"], glob=False) for file in files)["sequence_id"])
    tables = list(_ranking(refined))
    settings = _settings(refined, tables)
    ranked = best_first(**_inputs(settings, tables), **settings.model_dump())
    amount = num_kept(ranked, keep_fraction=settings.keep_fraction, token_budget=settings.token_budget)
    expected = set(ranked["sequence_id"].head(amount))
    wrong = kept ^ expected
    if settings.temperature is not None or settings.scale_correction != "none" or settings.score == "prior":
        wrong -= set(_near_the_cutoff(ranked.head(amount), ranked, settings)["sequence_id"])
    if not wrong:
        refined.report(f"{refined.node.key}: the {len(kept):,} sequences that its scores ask for")
    else:
        yield (
            f"{refined.node.key} ({stored.folder}): {len(wrong & kept):,} sequences too many, "
            f"{len(wrong & expected):,} missing, for example {next(iter(wrong))}"
        )


def _near_the_cutoff(kept: pl.DataFrame, ranked: pl.DataFrame, settings: SelectionParameters) -> pl.DataFrame:
    """Return the candidates that rounding may have on either side of the cutoff, or of that of their domain."""
    part = pl.col("domain") if settings.within else pl.lit("all")
    value, cutoff = pl.col("value_in_domain"), pl.col("cutoff")
    cutoffs = kept.group_by(part.alias("part")).agg(cutoff=value.min())
    with_cutoff = ranked.with_columns(part=part).join(cutoffs, on="part")
    return with_cutoff.filter((value - cutoff).abs() <= ROUNDING * pl.max_horizontal(1.0, cutoff.abs()))


def _ranking(refined: Work[Any]) -> list[Work[SelectionParameters]]:
    """Return the tables that lead to the rank, the score first."""
    tables: list[Work[SelectionParameters]] = []
    work = refined
    while DIFFERENCES in work.node.inputs:
        work = Work(work.pipeline, work.input_node(DIFFERENCES), work.run)
        tables.append(work)
    return tables[::-1]


def _settings(refined: Work[Any], tables: list[Work[SelectionParameters]]) -> SelectionParameters:
    """Return what the selection says: each table knows its own part of it."""
    cutoff = refined.input_node(CUTOFF).settings
    by_kind = {work.node.kind.name: work for work in tables}
    first, *_ = tables
    kind = first.node.kind.name
    score = first.settings.score if kind == LIKELIHOODS else {PRIORS: "prior", RANDOM: "random"}.get(kind, "difference")
    scaled, perturbed, labelled = (by_kind.get(step) for step in (SCALE_CORRECTED, PERTURBED, LABELLED))
    drawn = perturbed.input_node(RANDOM).settings if perturbed is not None else first.settings
    return SelectionParameters(
        score=score,
        rank_by=PER_BYTE if PER_BYTE_SCORES in by_kind else first.settings.rank_by,
        scale_correction="none" if scaled is None else scaled.settings.scale_correction,
        order="lowest" if REVERSED in by_kind else "highest",
        temperature=None if perturbed is None else perturbed.settings.temperature,
        seed=drawn.seed,
        unwanted_domains=() if labelled is None else labelled.settings.unwanted_domains,
        within="domain" if DOMAIN_PLACES in by_kind else None,
        keep_fraction=cutoff.keep_fraction,
        token_budget=cutoff.token_budget,
    )


def _inputs(settings: SelectionParameters, tables_of_ranking: list[Work[SelectionParameters]]) -> dict[str, Any]:
    """Return the candidates, the scores that the ranking begins with, and what it divides them by."""
    first = tables_of_ranking[0]
    columns = ["sequence_id", "domain", "num_tokens"]
    is_prior = settings.score == "prior"
    files = Work(first.pipeline, first.input_node(PRIOR_STATISTICS), first.run) if is_prior else first
    sequences = pl.scan_parquet(files.input_tables(SEQUENCES.name), glob=False).filter(pl.col("split") == CANDIDATE)
    candidates = sequences.select(*columns, *(["token_ids"] if is_prior else [])).collect()
    inputs: dict[str, Any] = {"candidates": candidates.select(columns)}
    if is_prior:
        inputs["token_ids"] = [np.array(tokens) for tokens in candidates["token_ids"].to_list()]
    if first.node.kind.name == PROXY_SCORES:
        tables = first.input_tables(PROXY_DIFFERENCES)
        inputs["predicted"] = pl.concat(pl.read_parquet(table, glob=False) for table in tables)
    if settings.rank_by == PER_BYTE:
        [per_byte] = [work for work in tables_of_ranking if work.node.kind.name == PER_BYTE_SCORES]
        inputs["scored_bytes"] = pl.read_parquet(per_byte.input_tables(SCORED_BYTES.name), glob=False)
    for who in MODELS_OF_SCORE[settings.score]:
        role = f"{who}_scores" if settings.score == "difference" else MODEL_SCORES
        tables = first.input_tables(role)
        inputs[f"{who}_scores"] = pl.concat(
            pl.read_parquet(table, columns=SCHEMA.names, glob=False) for table in tables
        )
    return inputs
