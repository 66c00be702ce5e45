"""`<student>/<text>/text_evaluation`: what a student costs on a text beside the corpus, for each of its seeds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from miniplm_assets.core.recipe import key_of
from miniplm_assets.corpus.tokenizer import load_tokenizer
from miniplm_assets.evaluation.held_out import held_out_table
from miniplm_assets.evaluation.text_losses import text_losses
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.evaluation_text import EVALUATION_TEXT, text_key
from miniplm_assets.kinds.student_checkpoint import (
    STUDENT_CHECKPOINT,
    checkpoint_key,
    measured_folders,
    seeds_of,
)
from miniplm_assets.kinds.student_evaluation import EVALUATION
from miniplm_assets.kinds.tokenizer import TOKENIZER, tokenizer_key
from miniplm_assets.lineage.kind import Blueprint, Kind, Node
from miniplm_assets.lineage.work import Work
from miniplm_assets.lm.scorer import open_scorer
from miniplm_assets.lm.scores import TokenRule
from miniplm_assets.lm.text_scores import TextScorer
from miniplm_assets.storage.store import Draft, Result

TOTALS: Final = "by_domain.parquet"
# What each document cost: for intervals, and to hold two students against each other document by document.
DOCUMENT_LOSSES: Final = "document_losses.parquet"


class Reading(Settings):
    """How a student reads a text.

    Attributes:
        max_tokens: of a window; as many as it was trained with.
    """

    max_tokens: int


def _nodes(blueprint: Blueprint) -> Iterator[Node[Reading]]:
    experiment = blueprint.experiment
    for name, student in experiment.students.items():
        for text in experiment.evaluation.texts:
            yield Node(
                kind=TEXT_EVALUATION,
                names=(name, text),
                inputs={
                    STUDENT_CHECKPOINT.name: checkpoint_key(name),
                    TOKENIZER.name: tokenizer_key(student.tokenizer),
                    EVALUATION_TEXT.name: text_key(text),
                },
                settings=Reading(max_tokens=experiment.sequences.sequence_length + 1),
                seeds=seeds_of(experiment, student),
            )


def _make(work: Work[Reading]) -> Result:
    """Measure a student on a text."""
    checkpoints = work.input_pieces(STUDENT_CHECKPOINT.name)
    [documents_file] = work.input_tables(EVALUATION_TEXT.name)
    documents = pl.read_parquet(documents_file, glob=False)
    tokenizer = load_tokenizer(work.input(TOKENIZER.name).verified_folder())
    end_of_document_id = tokenizer.end_of_document_id
    rule = TokenRule(
        end_of_document_id=end_of_document_id, score_after_end_of_document=EVALUATION.score_after_end_of_document
    )

    def measure(model_folder: Path) -> pl.DataFrame:
        with (
            work.run.device(),
            open_scorer(
                model_folder,
                scoring=EVALUATION,
                end_of_document_id=end_of_document_id,
                max_sequence_tokens=work.settings.max_tokens,
                report=work.report,
                look=work.run.stop.look,
            ) as scorer,
        ):
            asked = TextScorer(scorer, rule=rule, max_tokens=work.settings.max_tokens)
            return text_losses(documents, asked, tokenizer, work.report)

    def write(seed: str, draft: Draft) -> None:
        measured = [measure(folder) for folder in measured_folders(checkpoints[seed])]
        nll_nats = np.mean([one["nll_nats"].to_numpy() for one in measured], axis=0)
        losses = measured[-1].with_columns(pl.Series("nll_nats", nll_nats))
        losses.write_parquet(draft.path / DOCUMENT_LOSSES)
        by_id = losses.rename({"document_id": "sequence_id"}).with_columns(logprob_nats=-pl.col("nll_nats"))
        table = held_out_table(
            by_id.select("sequence_id", "domain", "num_scored_bytes"),
            by_id.select("sequence_id", "logprob_nats", "num_scored_tokens"),
        ).rename({"num_sequences": "num_documents"})
        table.write_parquet(draft.path / TOTALS)
        draft.facts = {
            **table.filter("is_total").drop("domain", "is_total").row(0, named=True),
            "num_scored_bytes": int(losses["num_scored_bytes"].sum()),
            "by_domain": table.filter(~pl.col("is_total")).drop("is_total", "nll_nats").to_dicts(),
        }

    return work.make_pieces(write)


TEXT_EVALUATION = Kind(
    name="text_evaluation",
    code_version="1",
    section="student",
    technologies=frozenset({"pytorch", "parquet"}),
    description="""Loss, perplexity and bits per byte of a student on a text beside the corpus, by domain.

Every token but the first of a document is asked for once; documents longer than what the student was trained with are
read in windows that overlap by half.""",
    nodes=_nodes,
    make=_make,
    num_devices=lambda _: 1,
    name_columns=("student", "evaluated_text"),
    pieces="seed",
    table=TOTALS,
    columns={
        "domain": "of the documents; in the last row all of them",
        "is_total": "whether it is the last row",
        "num_documents": "that were measured",
        "num_scored_tokens": "tokens that the loss covers",
        "nll_nats": "sum of the negative log-probabilities",
        "nll_nats_per_token": "mean loss; compare it within one tokenizer only",
        "perplexity": "exp of the loss",
        "bits_per_byte": "nll_nats / ln 2 / bytes; comparable over tokenizers",
    },
)


def text_evaluation_key(student: str, text: str) -> str:
    """Return the key of a student's losses on a text."""
    return key_of(TEXT_EVALUATION.name, student, text)
