"""`<selection>/selection_diversity`: how hard and how unlike the kept texts are, beside all and those that are dropped.

The paper finds that what is selected is more diverse (arXiv 2410.17215). Here two texts are as alike as the embeddings
of their tokens in the teacher, so that no other model is fetched.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import polars as pl

from miniplm_assets.core.diversity import directions, diversity, token_weights
from miniplm_assets.core.intervals import in_words
from miniplm_assets.core.recipe import key_of
from miniplm_assets.core.sampling import drawn_ids
from miniplm_assets.core.selection import is_kept
from miniplm_assets.experiment import Experiment
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.agreement import CUTOFF, DIFFERENCES, cutoff_of
from miniplm_assets.kinds.models import model_key
from miniplm_assets.kinds.rankings import rank_key
from miniplm_assets.kinds.sequences import SEQUENCES, sequences_key
from miniplm_assets.lineage.kind import ALL_FILES, Blueprint, Kind, Node
from miniplm_assets.lineage.page import Entry, Page, Rows
from miniplm_assets.lineage.work import Work
from miniplm_assets.lm.input_embeddings import input_embeddings
from miniplm_assets.storage.store import Draft, Result

TABLE: Final = "selection_diversity.parquet"
TEACHER: Final = "teacher_model"
# All pairs of so many are 130,816.
NUM_SAMPLED: Final = 512
# Of the hash that draws them, and of the resampling: other texts would do as well.
SEED: Final = 0
CANDIDATES, KEPT, DROPPED = "candidates", "kept", "dropped"


class Nothing(Settings):
    """Reads no setting."""


def _nodes(blueprint: Blueprint) -> Iterator[Node[Nothing]]:
    experiment = blueprint.experiment
    for name, selection in experiment.selections.items():
        teacher = _teacher_of(experiment, name)
        if teacher is None:
            continue
        tokenizer = experiment.teachers[teacher].tokenizer
        yield Node(
            kind=SELECTION_DIVERSITY,
            names=(name,),
            inputs={
                DIFFERENCES: rank_key(name, selection),
                CUTOFF: key_of(CUTOFF, name),
                SEQUENCES.name: sequences_key(tokenizer),
                TEACHER: model_key("teacher", teacher),
            },
            settings=Nothing(),
        )


def _teacher_of(experiment: Experiment, name: str) -> str | None:
    """Return the teacher in whose embeddings texts are alike: the selection's, else the first of its tokenizer."""
    tokenizer = experiment.selection_tokenizer(name)
    own = experiment.selections[name].models.get("teacher")
    others = (teacher for teacher, scored in experiment.teachers.items() if scored.tokenizer == tokenizer)
    return own or next(others, None)


def _make(work: Work[Nothing]) -> Result:
    """Measure the difficulty of all candidates, and the diversity of a sample of them."""

    def write(draft: Draft) -> None:
        ranked = _ranked(work)
        samples = {group: drawn_ids(rows["sequence_id"], NUM_SAMPLED, seed=SEED) for group, rows in _groups(ranked)}
        token_ids = _token_ids(work, pl.concat(samples.values()).unique())
        texts = {group: [token_ids[id_] for id_ in ids] for group, ids in samples.items()}
        # Only the rows of the matrix that a sampled text asks for.
        found = np.unique(np.concatenate([tokens for some in texts.values() for tokens in some]))
        embeddings = input_embeddings(work.input(TEACHER).verified_folder(), found)
        places = {group: [np.searchsorted(found, tokens) for tokens in some] for group, some in texts.items()}
        weights = token_weights(places[CANDIDATES], len(found))
        rows = []
        for group, members in _groups(ranked):
            distance = diversity(directions(places[group], embeddings, weights), seed=SEED) if places[group] else None
            rows.append(
                {
                    "texts": group,
                    "num_sequences": len(members),
                    "num_tokens": members["num_tokens"].sum(),
                    **{f"{who}_nll_nats_per_token": _nll(members, who) for who in ("teacher", "reference")},
                    "num_sampled": len(samples[group]),
                    "mean_distance": None if distance is None else distance.mean,
                    "mean_distance_low": None if distance is None else distance.low,
                    "mean_distance_high": None if distance is None else distance.high,
                }
            )
        table = pl.DataFrame(rows, schema=SCHEMA)
        table.write_parquet(draft.path / TABLE)
        draft.facts = {"rows": table.to_dicts()}

    return work.make(write)


def _page(_work: Work[Nothing], result: Result) -> Page:
    rows = result.facts["rows"]
    table = [
        [
            row["texts"],
            row["num_sequences"],
            row["teacher_nll_nats_per_token"],
            row["reference_nll_nats_per_token"],
            _distance(row),
        ]
        for row in rows
    ]
    columns = ("sequences", "number", "teacher loss, nats / token", "reference loss", "mean distance of two")
    outcome: dict[str, Entry] = {}
    of = {row["texts"]: row for row in rows}
    kept, candidates = of[KEPT], of[CANDIDATES]
    if kept["mean_distance"] is not None and candidates["mean_distance"] is not None:
        is_apart = kept["mean_distance_low"] > candidates["mean_distance_high"]
        is_close = kept["mean_distance_high"] < candidates["mean_distance_low"]
        how = "more unlike each other than" if is_apart else "more alike than" if is_close else "about as unlike as"
        outcome["outcome"] = (
            f"Kept sequences are {how} all candidates: two of them are {_distance(kept)} apart in the mean, two "
            f"candidates {_distance(candidates)} (0: the same words; 1: nothing in common)."
        )
    return Page(outcome={**outcome, "how hard, and how unlike": Rows(columns, table)})


def _distance(row: Mapping[str, Any]) -> str:
    return in_words(row["mean_distance"], row["mean_distance_low"], row["mean_distance_high"])


def _ranked(work: Work[Any]) -> pl.DataFrame:
    columns = ["sequence_id", "num_tokens", "num_scored_tokens", "teacher_logprob_nats", "reference_logprob_nats"]
    kept = is_kept(pl.col("rank_difference"), pl.col("sequence_id"), cutoff_of(work))
    return pl.scan_parquet(work.input_tables(DIFFERENCES), glob=False).select(*columns, kept).collect()


def _groups(ranked: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    yield CANDIDATES, ranked
    yield KEPT, ranked.filter("is_kept")
    yield DROPPED, ranked.filter(~pl.col("is_kept"))


def _token_ids(work: Work[Any], wanted: pl.Series) -> dict[int, Any]:
    sequences = pl.scan_parquet(work.input_tables(SEQUENCES.name), glob=False)
    rows = sequences.filter(pl.col("sequence_id").is_in(wanted.implode())).select("sequence_id", "token_ids").collect()
    return {id_: np.asarray(tokens, dtype=np.int64) for id_, tokens in rows.iter_rows()}


def _nll(rows: pl.DataFrame, who: str) -> float | None:
    """Return a model's mean NLL in nats a scored token; None where it scored none."""
    logprob = f"{who}_logprob_nats"
    scored = rows.filter(pl.col(logprob).is_not_null())
    num_tokens = int(scored["num_scored_tokens"].sum())
    return -float(scored[logprob].sum()) / num_tokens if num_tokens else None


SCHEMA: Final = {
    "texts": pl.String,
    "num_sequences": pl.Int64,
    "num_tokens": pl.Int64,
    "teacher_nll_nats_per_token": pl.Float64,
    "reference_nll_nats_per_token": pl.Float64,
    "num_sampled": pl.Int64,
    "mean_distance": pl.Float64,
    "mean_distance_low": pl.Float64,
    "mean_distance_high": pl.Float64,
}

SELECTION_DIVERSITY = Kind(
    name="selection_diversity",
    code_version="1",
    section="selection",
    technologies=frozenset({"polars", "parquet"}),
    description="""One row each for all candidates, the kept and the dropped ones: how hard, and how unlike each other.

Difficulty is the models' NLL a token, over all. Diversity is the mean distance (one less the cosine) of two texts of a
sample, each the mean of its tokens' embeddings in the teacher, frequent tokens weighing less. It tells sets of one
experiment apart, and is on another scale than the paper's 32.25 and 36.70.""",
    nodes=_nodes,
    make=_make,
    page=_page,
    table=ALL_FILES,
    columns={
        "texts": "candidates, kept or dropped",
        "num_sequences": "that there are",
        "num_tokens": "of those",
        "teacher_nll_nats_per_token": "the teacher's negative log-likelihood of a scored token; NULL without one",
        "reference_nll_nats_per_token": "the reference's; NULL without one",
        "num_sampled": "sequences that diversity is measured on, drawn by the hash of the id",
        "mean_distance": "of two sampled texts; NULL of fewer than two",
        "mean_distance_low": "lower end of its 95 % interval, by resampling the texts",
        "mean_distance_high": "upper end",
    },
)
