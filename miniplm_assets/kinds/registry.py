"""All kinds of assets, a line each; and an experiment, opened."""

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from miniplm_assets.corpus.files import local_state
from miniplm_assets.experiment import Experiment, load_experiment
from miniplm_assets.experiment.key_prefix import parse_key_prefix
from miniplm_assets.kinds.agreement import AGREEMENT_SCORES, SCORE_AGREEMENT
from miniplm_assets.kinds.comparison import COMPARISON
from miniplm_assets.kinds.contaminated_documents import CONTAMINATED_DOCUMENTS
from miniplm_assets.kinds.documents import DOCUMENTS
from miniplm_assets.kinds.evaluation_text import EVALUATION_TEXT
from miniplm_assets.kinds.exported import EXPORTED_CORPUS, EXPORTED_STUDENT
from miniplm_assets.kinds.gap_by_text_class import GAP_BY_TEXT_CLASS
from miniplm_assets.kinds.generated_corpus import GENERATED_CORPUS
from miniplm_assets.kinds.held_out_tasks import HELD_OUT_TASKS
from miniplm_assets.kinds.ledger import BREAK_EVEN, LEDGER
from miniplm_assets.kinds.models import MODELS
from miniplm_assets.kinds.pilot import PILOT, PILOT_SCORES
from miniplm_assets.kinds.pre_filter import SURVIVING_SCORES
from miniplm_assets.kinds.protected_ngrams import PROTECTED_NGRAMS
from miniplm_assets.kinds.proxy import PROXY_MODEL, SAMPLED
from miniplm_assets.kinds.proxy_agreement import PROXY_AGREEMENT
from miniplm_assets.kinds.proxy_differences import PROXY_DIFFERENCES
from miniplm_assets.kinds.raw_corpus import RAW_CORPUS
from miniplm_assets.kinds.refined_sequences import REFINED_SEQUENCES
from miniplm_assets.kinds.report import REPORT
from miniplm_assets.kinds.rescoring import RESCORED
from miniplm_assets.kinds.retokenised_scores import RETOKENISED_SCORES
from miniplm_assets.kinds.retokenised_sequences import RETOKENISED_SEQUENCES
from miniplm_assets.kinds.scaling_laws import SCALING_LAWS
from miniplm_assets.kinds.scored_bytes import SCORED_BYTES
from miniplm_assets.kinds.scores import SCORES
from miniplm_assets.kinds.selection import selection_kinds
from miniplm_assets.kinds.selection_diversity import SELECTION_DIVERSITY
from miniplm_assets.kinds.selection_overlap import SELECTION_OVERLAP
from miniplm_assets.kinds.sequences import SEQUENCES
from miniplm_assets.kinds.student_checkpoint import STUDENT_CHECKPOINT
from miniplm_assets.kinds.student_differences import STUDENT_DIFFERENCES
from miniplm_assets.kinds.student_evaluation import STUDENT_EVALUATION
from miniplm_assets.kinds.student_tasks import STUDENT_TASKS
from miniplm_assets.kinds.task_comparison import TASK_COMPARISON
from miniplm_assets.kinds.tasks import TASKS
from miniplm_assets.kinds.text_evaluation import TEXT_EVALUATION
from miniplm_assets.kinds.token_counts import TOKEN_COUNTS
from miniplm_assets.kinds.tokenizer import TOKENIZER
from miniplm_assets.kinds.warehouse_catalog import WAREHOUSE_CATALOG
from miniplm_assets.lineage.freshness import fresh_within_hours
from miniplm_assets.lineage.graph import build_graph
from miniplm_assets.lineage.kind import Kind
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.storage.places import open_store
from miniplm_assets.storage.sql_project import SqlProject, load_sql_project

PROJECT: Final = Path(__file__).parents[2]
SQL: Final = PROJECT / "dbt_like_sql"
DEMO: Final = PROJECT / "experiments" / "demo.yaml"
# The environment: which experiment file, a warehouse in place of the file's own, and what Dagster's keys begin with.
EXPERIMENT_VARIABLE: Final = "MINIPLM_EXPERIMENT"
WAREHOUSE_VARIABLE: Final = "MINIPLM_WAREHOUSE"
KEY_PREFIX_VARIABLE: Final = "MINIPLM_KEY_PREFIX"


def all_kinds(sql: SqlProject) -> tuple[Kind[Any], ...]:
    """Return every kind, each after those whose nodes its own look at: gates first, what shows all of them last."""
    return (
        RAW_CORPUS,
        PROTECTED_NGRAMS,
        DOCUMENTS,
        CONTAMINATED_DOCUMENTS,
        HELD_OUT_TASKS,
        TASKS,
        TOKENIZER,
        SEQUENCES,
        TOKEN_COUNTS,
        SCORED_BYTES,
        RETOKENISED_SEQUENCES,
        *MODELS.values(),
        *PILOT_SCORES.values(),
        PILOT,
        *SCORES.values(),
        RETOKENISED_SCORES,
        *RESCORED.values(),
        *SAMPLED.values(),
        PROXY_MODEL,
        PROXY_AGREEMENT,
        PROXY_DIFFERENCES,
        SURVIVING_SCORES,
        *selection_kinds(sql),
        SELECTION_DIVERSITY,
        GAP_BY_TEXT_CLASS,
        *SELECTION_OVERLAP,
        *AGREEMENT_SCORES.values(),
        SCORE_AGREEMENT,
        REFINED_SEQUENCES,
        GENERATED_CORPUS,
        STUDENT_CHECKPOINT,
        STUDENT_EVALUATION,
        EVALUATION_TEXT,
        TEXT_EVALUATION,
        STUDENT_DIFFERENCES,
        STUDENT_TASKS,
        COMPARISON,
        TASK_COMPARISON,
        LEDGER,
        BREAK_EVEN,
        SCALING_LAWS,
        REPORT,
        EXPORTED_STUDENT,
        EXPORTED_CORPUS,
        WAREHOUSE_CATALOG,
    )


def open_pipeline(experiment_file: Path, *, warehouse: str | None = None, key_prefix: str = "") -> Pipeline:
    """Read an experiment file and the SQL; touch nothing else.

    Args:
        experiment_file: the YAML.
        warehouse: a folder that takes the place of the file's own.
        key_prefix: what the keys that Dagster shows begin with, such as ``paper`` or ``lm/paper``; of no result.

    Raises:
        ExperimentError: if the file or the prefix is wrong.
        SqlError: if dbt_like_sql is wrong.
    """
    return pipeline_of(load_experiment(experiment_file, warehouse=warehouse), key_prefix=key_prefix)


def pipeline_of(experiment: Experiment, *, key_prefix: str = "") -> Pipeline:
    """Open an experiment that has been read.

    Args:
        experiment: as `experiment.load` gives it.
        key_prefix: see `open_pipeline`.

    Raises:
        ExperimentError: if the prefix is wrong.
        SqlError: if dbt_like_sql is wrong.
    """
    sql, kinds = _read_sql(_state_of_sql())
    graph = build_graph(kinds, experiment, sql)
    store = open_store(experiment.warehouse)
    fresh_within_hours(graph, experiment.automation)  # refuses names that it does not have
    prefix = parse_key_prefix(key_prefix)
    return Pipeline(graph, store, experiment.automation, key_prefix=prefix, models_at_once=experiment.models_at_once)


def _state_of_sql() -> tuple[tuple[str, str | None], ...]:
    files = sorted(path for path in SQL.rglob("*") if path.is_file())
    return tuple((str(path), local_state(path).stamp) for path in files)


@lru_cache(maxsize=1)
def _read_sql(_state: tuple[tuple[str, str | None], ...]) -> tuple[SqlProject, tuple[Kind[Any], ...]]:
    """Read the SQL, once for a state of its files: that takes a second, and a process may open many experiments."""
    sql = load_sql_project(SQL)
    return sql, all_kinds(sql)


def open_chosen(experiment_file: Path | None = None, environment: Mapping[str, str] = os.environ) -> Pipeline:
    """Open a given experiment, or that which the environment names, or the demo; an empty variable names nothing."""
    chosen = experiment_file or Path(environment.get(EXPERIMENT_VARIABLE) or DEMO)
    return open_pipeline(
        chosen,
        warehouse=environment.get(WAREHOUSE_VARIABLE) or None,
        key_prefix=environment.get(KEY_PREFIX_VARIABLE, ""),
    )
