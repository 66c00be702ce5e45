"""`<student>/student_evaluation`: what a student costs on the validation split, by domain, for each of its seeds."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Final

import numpy as np
import polars as pl

from miniplm_assets.core.recipe import key_of
from miniplm_assets.core.splits import VALIDATION
from miniplm_assets.corpus.tokenizer import load_tokenizer
from miniplm_assets.evaluation.held_out import (
    count_scored_bytes,
    held_out_table,
    in_context_gain,
    losses_by_context,
)
from miniplm_assets.experiment import Scoring
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.costs import scoring_cost
from miniplm_assets.kinds.evaluation_page import evaluation_page
from miniplm_assets.kinds.sequences import SEQUENCES, packed_by
from miniplm_assets.kinds.student_checkpoint import (
    STUDENT_CHECKPOINT,
    checkpoint_key,
    measured_folders,
    num_measured,
    seeds_of,
)
from miniplm_assets.kinds.tokenizer import TOKENIZER
from miniplm_assets.lineage.kind import Blueprint, Cost, Kind, Node
from miniplm_assets.lineage.sizes import Sizes
from miniplm_assets.lineage.work import Work
from miniplm_assets.lm.scorer import open_scorer
from miniplm_assets.lm.scores import TokenRule
from miniplm_assets.storage.store import Draft, Result

HELD_OUT: Final = "held_out.parquet"
# What each sequence cost: for intervals, and to hold two students against each other text by text.
SEQUENCE_LOSSES: Final = "sequence_losses.parquet"
CONTEXT_LOSSES: Final = "losses_by_context.parquet"
# Students are measured in float32 whatever they were trained in, and as they were trained: without a loss after an
# end-of-document token.
EVALUATION: Final = Scoring()


class Measuring(Settings):
    """What held-out losses are measured on.

    Attributes:
        excluded_domains: measured by themselves, and left out of the total.
        max_sequence_tokens: of the longest sequence; the sequences are an input.
    """

    runtime_only: ClassVar[frozenset[str]] = frozenset({"max_sequence_tokens"})

    excluded_domains: tuple[str, ...] = ()
    max_sequence_tokens: int


def _nodes(blueprint: Blueprint) -> Iterator[Node[Measuring]]:
    experiment = blueprint.experiment
    for name, student in experiment.students.items():
        yield Node(
            kind=STUDENT_EVALUATION,
            names=(name,),
            inputs={
                STUDENT_CHECKPOINT.name: checkpoint_key(name),
                **packed_by(student.tokenizer),
            },
            settings=Measuring(
                excluded_domains=experiment.evaluation.excluded_domains,
                max_sequence_tokens=experiment.sequences.sequence_length + 1,
            ),
            seeds=seeds_of(experiment, student),
        )


def _make(work: Work[Measuring]) -> Result:
    """Measure a student on the validation split."""
    checkpoints = work.input_pieces(STUDENT_CHECKPOINT.name)

    def write(seed: str, draft: Draft) -> None:
        measured = [_measure(work, folder) for folder in measured_folders(checkpoints[seed])]
        held_out, by_context = _mean_of(measured)
        by_context.write_parquet(draft.path / CONTEXT_LOSSES)
        table = held_out_table(
            held_out.select("sequence_id", "domain", "num_scored_bytes"),
            held_out.select("sequence_id", "logprob_nats", "num_scored_tokens"),
            excluded_domains=work.settings.excluded_domains,
        )
        table.write_parquet(draft.path / HELD_OUT)
        held_out.select(
            "sequence_id",
            "domain",
            "is_counted",
            num_scored_tokens=pl.col("num_scored_tokens").cast(pl.Int64),
            num_scored_bytes="num_scored_bytes",
            nll_nats=-pl.col("logprob_nats"),
        ).write_parquet(draft.path / SEQUENCE_LOSSES)
        total = table.filter("is_total")
        draft.facts = total.drop("domain", "is_total").row(0, named=True) | {
            "over": total["domain"].item(),
            "in_context_gain_nats_per_token": in_context_gain(by_context),
            "by_domain": table.drop("is_total", "num_sequences", "nll_nats").to_dicts(),
        }
        if len(measured) > 1:
            draft.facts["mean_over_last_checkpoints"] = len(measured)

    return work.make_pieces(write)


def _measure(work: Work[Measuring], model_folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the scores of the validation sequences under a model, one row for each; and their losses by context.

    The latter leave out the domains that do not count.
    """
    tokenizer = load_tokenizer(work.input(TOKENIZER.name).verified_folder())
    rule = TokenRule(
        end_of_document_id=tokenizer.end_of_document_id,
        score_after_end_of_document=EVALUATION.score_after_end_of_document,
    )
    token_num_bytes = tokenizer.token_num_bytes.astype(np.int64)
    measured, by_context = [], []
    with (
        work.run.device(),
        open_scorer(
            model_folder,
            scoring=EVALUATION,
            end_of_document_id=tokenizer.end_of_document_id,
            max_sequence_tokens=work.settings.max_sequence_tokens,
            report=work.report,
            look=work.run.stop.look,
        ) as scorer,
    ):
        for rows in _validation_rows(work.input_tables(SEQUENCES.name)):
            token_ids = [tokens.to_numpy().astype(np.int32, copy=False) for tokens in rows["token_ids"]]
            scores = scorer.score(token_ids, rows["sequence_id"].to_numpy())
            is_counted = ~rows["domain"].is_in(list(work.settings.excluded_domains))
            by_context.append(
                losses_by_context(
                    [ids for ids, counts in zip(token_ids, is_counted, strict=True) if counts],
                    -scores.token_logprobs_nats()[np.repeat(is_counted.to_numpy(), scores.num_scored_tokens)],
                    rule=rule,
                )
            )
            measured.append(
                rows.select("sequence_id", "domain").with_columns(
                    is_counted=is_counted,
                    num_scored_bytes=count_scored_bytes(token_ids, rule=rule, token_num_bytes=token_num_bytes),
                    logprob_nats=scores.logprob_nats,
                    num_scored_tokens=scores.num_scored_tokens,
                )
            )
    contexts = pl.concat(by_context).group_by("min_context").agg(pl.all().sum()).sort("min_context")
    return pl.concat(measured), contexts


def _mean_of(measured: Sequence[tuple[pl.DataFrame, pl.DataFrame]]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return what the models of a seed cost on the average, by sequence and by context."""
    held_out, by_context = measured[-1]
    if len(measured) == 1:
        return held_out, by_context
    mean_logprobs = np.mean([one["logprob_nats"].to_numpy() for one, _ in measured], axis=0)
    mean_nll = np.mean([one["nll_nats"].to_numpy() for _, one in measured], axis=0)
    return (
        held_out.with_columns(pl.Series("logprob_nats", mean_logprobs)),
        by_context.with_columns(pl.Series("nll_nats", mean_nll)),
    )


def _validation_rows(tables: Sequence[Path]) -> list[pl.DataFrame]:
    """Return the validation sequences of each corpus file that has any."""
    frames = (
        pl.scan_parquet(table, glob=False)
        .filter(pl.col("split") == VALIDATION)
        .select("sequence_id", "domain", "token_ids")
        .collect()
        for table in tables
    )
    return [frame for frame in frames if len(frame)]


def _cost(node: Node[Measuring], sizes: Sizes, seeds: Collection[str] | None) -> Cost:
    per_split = sizes.tokens_per_split(node.inputs[SEQUENCES.name])
    if per_split is None:
        return Cost()
    checkpoint = sizes.input_node(node, STUDENT_CHECKPOINT.name)
    num_models = len(node.seeds if seeds is None else seeds) * num_measured(checkpoint)
    return scoring_cost(
        checkpoint,
        sizes,
        num_tokens=per_split[VALIDATION] * num_models,
        dtype=EVALUATION.dtype,
    )


STUDENT_EVALUATION = Kind(
    name="student_evaluation",
    code_version="4",
    section="student",
    technologies=frozenset({"pytorch", "parquet"}),
    description="""Loss, perplexity and bits per byte of a student on the whole validation split, by domain.

The total leaves out `evaluation.excluded_domains`, and says so. What each sequence cost is stored beside it, in
sequence_losses.parquet; what tokens cost by how much of their own document stood before them, in
losses_by_context.parquet: a student that learns from its context loses less with more of it, which distilled logits are
said to spoil (arXiv 2509.01649).""",
    nodes=_nodes,
    make=_make,
    num_devices=lambda _: 1,
    pieces="seed",
    table=HELD_OUT,
    page=evaluation_page,
    cost=_cost,
    columns={
        "domain": "of the held-out texts; in the last row what the total is over, without evaluation.excluded_domains",
        "is_total": "whether it is the last row",
        "num_sequences": "held-out sequences",
        "num_scored_tokens": "tokens that the loss covers",
        "nll_nats": "sum of the negative log-probabilities",
        "nll_nats_per_token": "mean loss; compare it within one tokenizer only",
        "perplexity": "exp of the loss",
        "bits_per_byte": "nll_nats / ln 2 / bytes; comparable over tokenizers",
    },
)


def evaluation_key(student: str) -> str:
    """Return the key of a student's evaluations."""
    return key_of(STUDENT_EVALUATION.name, student)
