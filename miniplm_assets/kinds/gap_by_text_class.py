"""`<selection>/gap_by_text_class`: on which tokens the teacher is ahead of the reference: words, white space, URLs, ...

Where most of the difference lies on white space or URLs, the selection is one of layout, not of content. Needs
`keep_token_logprobs` of both models.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import polars as pl

from miniplm_assets.core.errors import ScoringError
from miniplm_assets.core.recipe import key_of
from miniplm_assets.core.sampling import drawn_ids
from miniplm_assets.core.selection import is_kept
from miniplm_assets.corpus.text_classes import CLASSES, TextClasses
from miniplm_assets.corpus.tokenizer import load_tokenizer
from miniplm_assets.experiment import Experiment
from miniplm_assets.experiment.selections import DIFFERENCE
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.agreement import CUTOFF, DIFFERENCES, cutoff_of
from miniplm_assets.kinds.pre_filter import scores_of
from miniplm_assets.kinds.rankings import rank_key
from miniplm_assets.kinds.scores import WHO, scored_by, scores_key
from miniplm_assets.kinds.sequences import SEQUENCES, packed_by
from miniplm_assets.kinds.tokenizer import TOKENIZER
from miniplm_assets.lineage.kind import ALL_FILES, Blueprint, Kind, Node
from miniplm_assets.lineage.work import Work
from miniplm_assets.lm.score_shard import TOKEN_LOGPROBS
from miniplm_assets.lm.scores import TokenRule
from miniplm_assets.storage.store import Draft, Result

TABLE: Final = "gap_by_text_class.parquet"
# Some million tokens; drawn by the hash of the id.
NUM_SAMPLED: Final = 4_096
SEED: Final = 0
CANDIDATES, KEPT = "candidates", "kept"


class Asked(Settings):
    """Which tokens have a log-probability.

    Attributes:
        score_after_end_of_document: whether the one behind an end of document has.
    """

    score_after_end_of_document: bool


def _nodes(blueprint: Blueprint) -> Iterator[Node[Asked]]:
    experiment = blueprint.experiment
    for name, selection in experiment.selections.items():
        if not _has_token_logprobs(experiment, name):
            continue
        _, teacher = scored_by(experiment, selection, "teacher")
        yield Node(
            kind=GAP_BY_TEXT_CLASS,
            names=(name,),
            inputs={
                DIFFERENCES: rank_key(name, selection),
                CUTOFF: key_of(CUTOFF, name),
                **packed_by(teacher.tokenizer),
                **{f"{who}_scores": scores_of(experiment, name, who) for who in WHO},
            },
            settings=Asked(score_after_end_of_document=teacher.scoring.score_after_end_of_document),
        )


def _has_token_logprobs(experiment: Experiment, name: str) -> bool:
    """Say whether both models of a selection kept the log-probability of every token of all candidates."""
    selection = experiment.selections[name]
    return selection.score == DIFFERENCE and all(
        scored_by(experiment, selection, who)[1].scoring.keep_token_logprobs
        and scores_of(experiment, name, who) == scores_key(who, selection.models[who])
        for who in WHO
    )


def _make(work: Work[Asked]) -> Result:
    """Sum the difference up by class, over a sample of the candidates and over what is kept of them."""

    def write(draft: Draft) -> None:
        tokens = _sampled_tokens(work)
        rows = [
            {"texts": texts, "text_class": CLASSES[of["text_class"]]} | {name: of[name] for name in SUMS}
            for texts, some in ((CANDIDATES, tokens), (KEPT, tokens.filter("is_kept")))
            for of in _by_class(some)
        ]
        table = pl.DataFrame(rows, schema=SCHEMA)
        table.write_parquet(draft.path / TABLE)
        draft.facts = {"num_sampled_sequences": tokens["sequence_id"].n_unique(), "rows": table.to_dicts()}

    return work.make(write)


def _sampled_tokens(work: Work[Asked]) -> pl.DataFrame:
    """Return sequence_id, is_kept, text_class and both log-probabilities of each scored token of the sample."""
    kept = is_kept(pl.col("rank_difference"), pl.col("sequence_id"), cutoff_of(work))
    ranked = pl.scan_parquet(work.input_tables(DIFFERENCES), glob=False).select("sequence_id", kept).collect()
    drawn = drawn_ids(ranked["sequence_id"], NUM_SAMPLED, seed=SEED)

    def rows_of(role: str, column: str, name: str) -> pl.DataFrame:
        table = pl.scan_parquet(work.input_tables(role), glob=False)
        of_drawn = table.filter(pl.col("sequence_id").is_in(drawn.implode()))
        return of_drawn.select("sequence_id", pl.col(column).alias(name)).collect()

    sampled = ranked.filter(pl.col("sequence_id").is_in(drawn.implode()))
    sampled = sampled.join(rows_of(SEQUENCES.name, "token_ids", "token_ids"), on="sequence_id", validate="1:1")
    for who in WHO:
        scores = rows_of(f"{who}_scores", TOKEN_LOGPROBS.name, who)
        sampled = sampled.join(scores, on="sequence_id", validate="1:1")
    tokenizer = load_tokenizer(work.input(TOKENIZER.name).verified_folder())
    rule = TokenRule(
        end_of_document_id=tokenizer.end_of_document_id,
        score_after_end_of_document=work.settings.score_after_end_of_document,
    )
    text_classes = TextClasses(tokenizer.token_bytes())
    classes = []
    for sequence_id, token_ids, *logprobs in sampled.select("sequence_id", "token_ids", *WHO).iter_rows():
        tokens = np.asarray(token_ids, dtype=np.int64)
        of_scored = text_classes.of(tokens)[1:][rule.scored(tokens)]
        for who, found in zip(WHO, logprobs, strict=True):
            if found is None or len(found) != len(of_scored):
                raise ScoringError(
                    f"{work.node.inputs[f'{who}_scores']}: sequence {sequence_id} has {len(found or ()):,} token "
                    f"log-probabilities; expected {len(of_scored):,}, one for each scored token. Materialise it again"
                )
        classes.append(of_scored)
    by_sequence = sampled.select("sequence_id", "is_kept", *WHO).with_columns(
        text_class=pl.Series([of.tolist() for of in classes], dtype=pl.List(pl.Int8))
    )
    return by_sequence.explode("text_class", *WHO, empty_as_null=False).with_columns(pl.col(WHO).cast(pl.Float64))


def _by_class(tokens: pl.DataFrame) -> Iterator[dict[str, Any]]:
    difference = pl.col("teacher") - pl.col("reference")
    by_class = tokens.group_by("text_class").agg(
        num_tokens=pl.len(),
        teacher_nll_nats_per_token=-pl.col("teacher").mean(),
        reference_nll_nats_per_token=-pl.col("reference").mean(),
        difference_nats=difference.sum(),
        difference_nats_per_token=difference.mean(),
    )
    shares = by_class.with_columns(
        share_of_tokens=pl.col("num_tokens") / pl.col("num_tokens").sum(),
        share_of_difference=(pl.col("difference_nats") / pl.col("difference_nats").sum()).fill_nan(None),
    )
    return shares.sort("text_class").iter_rows(named=True)


SUMS: Final = {
    "num_tokens": pl.Int64,
    "share_of_tokens": pl.Float64,
    "teacher_nll_nats_per_token": pl.Float64,
    "reference_nll_nats_per_token": pl.Float64,
    "difference_nats": pl.Float64,
    "difference_nats_per_token": pl.Float64,
    "share_of_difference": pl.Float64,
}
SCHEMA: Final = {"texts": pl.String, "text_class": pl.String, **SUMS}

GAP_BY_TEXT_CLASS = Kind(
    name="gap_by_text_class",
    code_version="1",
    section="selection",
    technologies=frozenset({"polars", "parquet"}),
    description="""One row for each class of tokens, over a sample of the candidates and over what is kept of it.

Where the difference of the two models lies: on words, numbers, punctuation, white space or URLs. From the
log-probabilities of single tokens, kept in float16.""",
    nodes=_nodes,
    make=_make,
    table=ALL_FILES,
    columns={
        "texts": "candidates or kept",
        "text_class": f"of a token, by its bytes: {', '.join(CLASSES)} (an end of document)",
        "num_tokens": "scored tokens of the class",
        "share_of_tokens": "in all scored tokens",
        "teacher_nll_nats_per_token": "the teacher's mean negative log-likelihood of one",
        "reference_nll_nats_per_token": "the reference's",
        "difference_nats": "log p_teacher - log p_reference, summed",
        "difference_nats_per_token": "its mean",
        "share_of_difference": "in the whole sum; negative where the reference is ahead",
    },
)
