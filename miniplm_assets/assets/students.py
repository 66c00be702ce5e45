"""Stage `students`: models trained on the candidates or on a refined corpus, and their held-out losses."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from miniplm_assets.assets.build import Kind
from miniplm_assets.assets.step import Made, Step
from miniplm_assets.assets.training import train
from miniplm_assets.core.splits import CANDIDATE, VALIDATION
from miniplm_assets.corpus.tokenizer import load_tokenizer
from miniplm_assets.evaluation.held_out import ALL_DOMAINS, count_scored_bytes, held_out_table
from miniplm_assets.experiment import Scoring
from miniplm_assets.lm.scorer import open_scorer
from miniplm_assets.lm.scores import TokenRule
from miniplm_assets.storage.store import Draft

GROUP = "students"
HELD_OUT = "held_out.parquet"
# Students are measured in float32 whatever they were trained in, and as they were trained: without a loss after an
# end-of-document token.
EVALUATION = Scoring()


def make_student_checkpoint(step: Step) -> Made:
    """Train a student on the text that its recipe names."""
    experiment = step.pipeline.experiment
    student = experiment.students[step.node.name]

    def write(draft: Draft) -> None:
        is_refined = student.selection is not None
        train(
            step,
            draft,
            architecture=experiment.architectures[student.architecture],
            training=student.training,
            sequence_files=step.input_tables("refined_corpus" if is_refined else "sequences"),
            split=None if is_refined else CANDIDATE,
        )

    return step.make(write)


def make_student_evaluation(step: Step) -> Made:
    """Measure a student on the validation split."""

    def write(draft: Draft) -> None:
        tokenizer = load_tokenizer(step.input("tokenizer").verified_folder())
        rule = TokenRule(
            end_of_document_id=tokenizer.end_of_document_id,
            score_after_end_of_document=EVALUATION.score_after_end_of_document,
        )
        with open_scorer(
            step.input("student_checkpoint").verified_folder(),
            scoring=EVALUATION,
            end_of_document_id=tokenizer.end_of_document_id,
            max_sequence_tokens=step.pipeline.experiment.sequences.sequence_length + 1,
            report=step.report,
        ) as scorer:
            measured = []
            for rows in _validation_rows(step.input_tables("sequences")):
                token_ids = [tokens.to_numpy().astype(np.int32, copy=False) for tokens in rows["token_ids"]]
                scores = scorer.score(token_ids, rows["sequence_id"].to_numpy())
                measured.append(
                    rows.select("sequence_id", "domain").with_columns(
                        num_scored_bytes=count_scored_bytes(
                            token_ids, rule=rule, token_num_bytes=tokenizer.token_num_bytes.astype(np.int64)
                        ),
                        logprob_nats=scores.logprob_nats,
                        num_scored_tokens=scores.num_scored_tokens,
                    )
                )
        held_out = pl.concat(measured)
        table = held_out_table(
            held_out.select("sequence_id", "domain", "num_scored_bytes"),
            held_out.select("sequence_id", "logprob_nats", "num_scored_tokens"),
            excluded_domains=step.pipeline.experiment.evaluation.excluded_domains,
        )
        table.write_parquet(draft.path / HELD_OUT)
        draft.facts = table.filter(domain=ALL_DOMAINS).drop("domain").row(0, named=True) | {
            "by_domain": table.drop("num_sequences", "nll_nats").to_dicts()
        }

    return step.make(write)


def _validation_rows(tables: Sequence[Path]) -> list[pl.DataFrame]:
    """Return the validation sequences of each corpus file that has any."""
    frames = (
        pl.scan_parquet(table)
        .filter(pl.col("split") == VALIDATION)
        .select("sequence_id", "domain", "token_ids")
        .collect()
        for table in tables
    )
    return [frame for frame in frames if len(frame)]


STUDENT_CHECKPOINT_KIND = Kind(
    group=GROUP,
    technologies=frozenset({"pytorch", "huggingface"}),
    description="""A student: weights in safetensors with its tokenizer and its training log beside them.

`AutoModelForCausalLM.from_pretrained(<folder>)` loads it. It learns from the candidates (no KD) or from a refined
corpus (MiniPLM), with the same seed and the same number of tokens.""",
    make=make_student_checkpoint,
    uses_device=True,
    columns={
        "step": "optimiser steps so far",
        "num_tokens": "tokens of the sequences trained on so far",
        "training_nll_nats_per_token": "mean loss since the row before",
        "held_out_nll_nats_per_token": "on a fixed sample of the validation split; empty where it was not measured",
        "learning_rate": "of the step",
        "seconds": "since training began",
    },
)
STUDENT_EVALUATION_KIND = Kind(
    group=GROUP,
    technologies=frozenset({"pytorch", "parquet"}),
    description="Loss, perplexity and bits per byte of a student on the whole validation split, by domain.",
    make=make_student_evaluation,
    uses_device=True,
    columns={
        "domain": "of the held-out texts; the last row is over all but those that evaluation.excluded_domains names",
        "num_sequences": "held-out sequences",
        "num_scored_tokens": "tokens that the loss covers",
        "nll_nats": "sum of the negative log-probabilities",
        "nll_nats_per_token": "mean loss; compare it within one tokenizer only",
        "perplexity": "exp of the loss",
        "bits_per_byte": "nll_nats / ln 2 / bytes; comparable over tokenizers",
    },
)
