"""Selections in the SQL of dbt_like_sql: a kind for each of its marts, as `<selection>/refined_corpus`.

Difference Sampling as published is the plain one; `rankings` says how the others come to their rank.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import polars as pl
import polars.selectors as cs
import pyarrow.parquet as pq

from miniplm_assets.core.recipe import key_of
from miniplm_assets.evaluation.plots import plot_difference_distribution, plot_domain_shares
from miniplm_assets.experiment import Experiment, Selection
from miniplm_assets.kinds.agreement import CUTOFF, DIFFERENCES, SCORE_AGREEMENT, cutoff_of
from miniplm_assets.kinds.documents import DOCUMENTS
from miniplm_assets.kinds.parameters import WORDS_OF_UNIT, SelectionParameters, parameters_of, unit_of
from miniplm_assets.kinds.pre_filter import scores_of
from miniplm_assets.kinds.proxy_agreement import PROXY_AGREEMENT
from miniplm_assets.kinds.proxy_differences import PROXY_DIFFERENCES
from miniplm_assets.kinds.rankings import (
    MODEL_SCORES,
    RANKINGS,
    SMALL_TABLES,
    SURVIVING_REFERENCE_SCORES,
    SURVIVORS,
    TABLES,
    has_table,
    rank_key,
    ranked_before,
    reads_survivors,
    traits_of,
)
from miniplm_assets.kinds.retokenised_scores import scores_of_everything
from miniplm_assets.kinds.scored_bytes import SCORED_BYTES
from miniplm_assets.kinds.selection_on_ray import spread_of
from miniplm_assets.kinds.selection_page import page_of_model
from miniplm_assets.kinds.selection_verify import verify_selection
from miniplm_assets.kinds.sequences import SEQUENCES, sequences_key
from miniplm_assets.kinds.token_counts import TOKEN_COUNTS, token_counts_key
from miniplm_assets.lineage.kind import ALL_FILES, Blueprint, Check, Kind, Node
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.sql_checks import PLAIN, Trait
from miniplm_assets.storage.sql_project import SqlModel, SqlProject
from miniplm_assets.storage.sql_run import run_model
from miniplm_assets.storage.store import Draft, Result

CODE_VERSION: Final = "2"
# Of those with a picture alone: nothing is trained again for another label.
PICTURE_VERSION: Final = "2"
REFINED_CORPUS: Final = "refined_corpus"
DOMAIN_SHIFT: Final = "domain_shift"
SCORE_DISTRIBUTION: Final = "score_distribution"
WHAT_IF: Final = "what_if"
# Too large to be copied into the catalog.
VIEWS: Final = frozenset({*TABLES - SMALL_TABLES, REFINED_CORPUS})
# As much of a table, and of a text in it, as a page of the UI shows well.
MAX_SHOWN_ROWS: Final = 60
MAX_SHOWN_CHARACTERS: Final = 160


def selection_kinds(sql: SqlProject) -> tuple[Kind[SelectionParameters], ...]:
    """Return the kind of each mart: its descriptions, checks, inputs and column lineage come from the SQL."""
    return tuple(_kind(model) for model in sql.marts)


def _kind(model: SqlModel) -> Kind[SelectionParameters]:
    kind = replace(_kind_of(model), nodes=lambda blueprint: _nodes(kinds, model, blueprint))
    # Of selections of other traits, with the tests that speak of those.
    kinds = cache(lambda traits: kind if traits == PLAIN else _kind_of(model.of(traits)))
    return kind


def _kind_of(model: SqlModel) -> Kind[SelectionParameters]:
    return Kind(
        name=model.name,
        # To that of all selections, each model adds one of its own.
        code_version="-".join(
            [CODE_VERSION, *([PICTURE_VERSION] if model.name in PICTURES else []), model.code_version]
        ),
        section="selection",
        technologies=frozenset({"duckdb", "sql"}),
        description=model.description,
        sql=model.sql,
        nodes=lambda _: (),
        make=partial(_make, model),
        needs_ray=lambda settings: settings.processing.engine == "ray",
        table=ALL_FILES,
        is_view=model.name in VIEWS,
        columns={column.name: column.description for column in model.columns},
        column_sources=lambda: model.column_lineage,  # reading it off the SQL takes as long as all else of it
        checks=tuple(
            Check(check.name, check.description, check.severity != "warn", check.is_of_columns)
            for check in model.checks
        ),
        verify=verify_selection if model.name == REFINED_CORPUS else None,
        page=page_of_model,
    )


def _nodes(
    kinds: Callable[[frozenset[Trait]], Kind[SelectionParameters]], model: SqlModel, blueprint: Blueprint
) -> Iterator[Node[SelectionParameters]]:
    experiment = blueprint.experiment
    for name, selection in experiment.selections.items():
        if not has_table(selection, model.name):
            continue
        kind = kinds(traits_of(selection))
        keys = {mart.name: key_of(mart.name, name) for mart in blueprint.sql.marts}
        keys |= _inputs_of(experiment, name, model.name)
        settings = parameters_of(experiment, selection, model.parameters)
        if model.entry.config.per_shard:
            settings = settings.model_copy(update={"processing": experiment.processing})
        if model.name == CUTOFF:
            settings = settings.model_copy(update={"rank_by": unit_of(selection)})
        gates = _gates(name, selection) if model.name == REFINED_CORPUS else ()
        yield Node(
            kind=kind,
            names=(name,),
            inputs={role: keys[role] for role in model.of(traits_of(selection)).inputs},
            settings=settings,
            gates=gates,
        )


def _gates(name: str, selection: Selection) -> tuple[str, ...]:
    """Return what must say yes before a refined corpus is written."""
    has = {SCORE_AGREEMENT.name: selection.agreement, PROXY_AGREEMENT.name: selection.proxy}
    return tuple(key_of(gate, name) for gate, asked in has.items() if asked is not None)


def _inputs_of(experiment: Experiment, name: str, table: str) -> dict[str, str]:
    """Return what a table of a selection may read beside the selection's own tables, by role."""
    selection = experiment.selections[name]
    tokenizer = experiment.selection_tokenizer(name)
    assert tokenizer is not None  # the experiment is checked
    scores = {who: scores_of(experiment, name, who) for who in selection.models}
    keys = {
        DOCUMENTS.name: DOCUMENTS.name,
        SEQUENCES.name: sequences_key(tokenizer),
        TOKEN_COUNTS.name: token_counts_key(tokenizer),
        DIFFERENCES: key_of(ranked_before(selection, table), name),
        SCORED_BYTES.name: key_of(SCORED_BYTES.name, name),
        **{f"{who}_scores": key for who, key in scores.items()},
    }
    if selection.proxy is not None:
        keys[PROXY_DIFFERENCES.name] = key_of(PROXY_DIFFERENCES.name, name)
    if table == SURVIVING_REFERENCE_SCORES:
        keys[MODEL_SCORES] = scores_of_everything(experiment, name, "reference")
    elif scores:
        keys[MODEL_SCORES] = next(iter(scores.values()))
    if reads_survivors(selection, table):
        keys[SEQUENCES.name] = key_of(SURVIVORS, name)
    if table == SURVIVORS and selection.pre_filter is not None:
        first = selection.pre_filter
        keys |= {DIFFERENCES: rank_key(first, experiment.selections[first]), CUTOFF: key_of(CUTOFF, first)}
    return keys


def _make(model: SqlModel, work: Work[SelectionParameters]) -> Result:
    """Run one SQL model over its inputs; draw what is best seen in a picture."""

    def write(draft: Draft) -> None:
        draft.checks = run_model(
            model.project,
            model.name,
            inputs={role: work.input_tables(role) for role in work.node.inputs},
            parameters=work.settings.model_dump(),
            target=draft.path,
            traits=model.traits,
            spread=spread_of(work, work.settings.processing),
        )
        tables = sorted(draft.path.glob("*.parquet"))
        if model.name == WHAT_IF:
            over_all = _read(tables).filter(pl.col("domain").is_null())
            draft.facts = _shown(over_all.drop("domain", "share_of_kept_tokens", "share_of_kept_tokens_now"))
        elif sum(pq.read_metadata(table).num_rows for table in tables) <= MAX_SHOWN_ROWS:
            draft.facts = _shown(_read(tables))
        elif model.name in RANKINGS:
            draft.facts = {"scores": _spread_of_scores(tables)}
        if model.name in PICTURES:
            name, picture = PICTURES[model.name](work, _read(tables))
            (draft.path / name).write_bytes(picture)

    return work.make(write)


def _read(tables: list[Path]) -> pl.DataFrame:
    return pl.concat(pl.read_parquet(table, glob=False) for table in tables)


def _spread_of_scores(tables: Sequence[Path]) -> dict[str, float]:
    """Return how a ranking's scores are spread: number, mean, standard deviation, ends, and share below zero."""
    score = pl.col("rank_difference")
    spread = pl.scan_parquet(list(tables), glob=False).select(
        num_candidates=pl.len(),
        mean=score.mean(),
        standard_deviation=score.std(),
        lowest=score.min(),
        highest=score.max(),
        share_below_zero=(score < 0).mean(),
    )
    return spread.collect(engine="streaming").row(0, named=True)


def _shown(rows: pl.DataFrame) -> dict[str, Any]:
    """Return a small table as facts: the columns of its only row, or its rows without what is too long to read."""
    if len(rows) == 1:
        return rows.row(0, named=True)
    readable = rows.select(cs.exclude(cs.list(), cs.ends_with("_id"))).with_columns(
        cs.string().str.slice(0, MAX_SHOWN_CHARACTERS)
    )
    return {"rows": readable.to_dicts()}


def _distribution(work: Work[SelectionParameters], rows: pl.DataFrame) -> tuple[str, bytes]:
    cutoff = cutoff_of(work)
    unit = WORDS_OF_UNIT[cutoff["rank_by"]]
    ranking = work.input_node(DIFFERENCES).kind.name
    plot = partial(plot_difference_distribution, rows, cutoff=cutoff["cutoff_difference"], unit=unit)
    if ranking != DIFFERENCES:
        plot = partial(plot, quantity=ranking.replace("_", " "), kept="those that rank highest")
    picture = plot()
    return "difference_distribution.png", picture


def _shares(_work: Work[SelectionParameters], rows: pl.DataFrame) -> tuple[str, bytes]:
    return "domain_shares.png", plot_domain_shares(rows)


# What is best seen in a picture, by the mart.
PICTURES: Final[dict[str, Callable[[Work[SelectionParameters], pl.DataFrame], tuple[str, bytes]]]] = {
    SCORE_DISTRIBUTION: _distribution,
    DOMAIN_SHIFT: _shares,
}
