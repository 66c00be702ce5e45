"""`<selection>/proxy_model`: a small model that learns the differences of a share of the candidates; and their scores.

It begins with the reference's weights, and is asked for the difference of all other candidates (`proxy_differences`),
once it has shown on some that it did not learn from that it orders them alike (`proxy_agreement`). Such is MiniPLM_prx
of arXiv 2410.17215: 9e18 FLOPs in place of 2e20.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final, Literal

import numpy as np
import polars as pl

from miniplm_assets.core.errors import ScoringError
from miniplm_assets.core.flops import scoring_flops
from miniplm_assets.core.recipe import key_of
from miniplm_assets.core.sampling import hash_fractions
from miniplm_assets.core.splits import CANDIDATE, VALIDATION
from miniplm_assets.corpus.tokenizer import load_tokenizer
from miniplm_assets.experiment import Experiment, Proxy, ProxyTraining, Scoring
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.costs import regression_cost
from miniplm_assets.kinds.engines import begin_of_sequence_id
from miniplm_assets.kinds.models import Who, model_key
from miniplm_assets.kinds.partial_scores import PartialRows, gates_of, partial_kinds, whole_of
from miniplm_assets.kinds.scores import WHO, Pass, max_sequence_tokens, score_node, scored_by
from miniplm_assets.kinds.sequences import SEQUENCES, packed_by
from miniplm_assets.kinds.tokenizer import TOKENIZER
from miniplm_assets.lineage.kind import Blueprint, Cost, Kind, Node
from miniplm_assets.lineage.sizes import Sizes
from miniplm_assets.lineage.work import Work
from miniplm_assets.lm.score_shard import Choose
from miniplm_assets.lm.scores import TokenRule
from miniplm_assets.storage.curves import EventFile, curves_folder
from miniplm_assets.storage.store import Draft, Result
from miniplm_assets.storage.tables import SCORES as SCORES_TABLE
from miniplm_assets.training.train import TRAINING_LOG

NAME: Final = "proxy_model"
# Beside the weights: what the held-out sequences have, and what is predicted of them.
HELD_OUT: Final = "held_out.parquet"
# The role of the model that the proxy begins as. Not that of a model which is run.
REFERENCE: Final = "reference_model"
# A rank correlation of fewer says nothing, as of a pilot.
MIN_SEQUENCES: Final = 30


def proxies(experiment: Experiment) -> Iterator[tuple[str, Proxy]]:
    """Go through the selections that have a proxy."""
    for name, selection in experiment.selections.items():
        if selection.proxy is not None:
            yield name, selection.proxy


class SampledShare(PartialRows):
    """A share of the candidates, and the validation sequences.

    Attributes:
        share: of the candidates, by a hash of the sequence id.
        seed: of the hash.
    """

    share: float
    seed: int


def _score_nodes(blueprint: Blueprint, who: Who) -> Iterator[Node[SampledShare]]:
    experiment = blueprint.experiment
    for name, proxy in proxies(experiment):
        model = scored_by(experiment, experiment.selections[name], who)
        whole = whole_of(experiment, who, model[0])
        settings = SampledShare(
            scoring=model[1].scoring,
            max_sequence_tokens=max_sequence_tokens(experiment),
            whole=whole,
            share=proxy.share,
            seed=experiment.seed,
        )
        yield score_node(SAMPLED[who], name, who, model, settings, gates=gates_of(experiment, name, whole))


def _choose(work: Work[SampledShare]) -> Choose:
    share, seed = work.settings.share, work.settings.seed

    def choose(rows: pl.DataFrame) -> pl.DataFrame:
        is_in_share = pl.Series(hash_fractions(rows["sequence_id"].to_numpy(), seed=seed) < share, dtype=pl.Boolean)
        return rows.filter((pl.col("split") == VALIDATION) | is_in_share)

    return choose


def _num_tokens(settings: SampledShare, per_split: Any) -> float | None:
    return None if settings.whole is not None else per_split[CANDIDATE] * settings.share + per_split[VALIDATION]


SAMPLED = partial_kinds(
    Pass(
        prefix="sampled_",
        code_version="1",
        description="""One row for each candidate that a proxy learns from: its log-probability under the {who}.

In nats. Validation sequences are scored too, on which the {who} is judged.""",
        nodes=_score_nodes,
        choose=_choose,
        num_tokens=_num_tokens,
        num_spared=lambda settings, per_split: per_split[CANDIDATE] * (1 - settings.share),
        spared_by="proxy",
        section="selection",
        is_view=True,
    )
)


class Learning(Settings):
    """How a proxy learns; from what, its inputs say.

    Attributes:
        training: budget, schedule and optimiser.
        held_out_share: of the scored sequences that it is judged by.
        seed: of that share, by a hash, and of the order.
        begin_of_sequence: as the reference reads.
        score_after_end_of_document: as the reference scores.
        device: a torch device, or auto.
        tokens_per_batch: padded tokens at once where it predicts.
        share: of the candidates that are scored; for the cost alone: the scores are an input.
        max_sequence_tokens: of the longest sequence; the sequences are an input.
    """

    runtime_only: ClassVar[frozenset[str]] = frozenset({"device", "tokens_per_batch", "share", "max_sequence_tokens"})

    training: ProxyTraining
    held_out_share: float
    seed: int
    begin_of_sequence: Literal["model", "none"]
    score_after_end_of_document: bool
    device: str
    tokens_per_batch: int
    share: float
    max_sequence_tokens: int

    @property
    def scoring(self) -> Scoring:
        """How it reads sequences: as the reference does."""
        return Scoring(
            begin_of_sequence=self.begin_of_sequence,
            score_after_end_of_document=self.score_after_end_of_document,
            device=self.device,
            tokens_per_batch=self.tokens_per_batch,
        )


def _nodes(blueprint: Blueprint) -> Iterator[Node[Learning]]:
    experiment = blueprint.experiment
    for name, proxy in proxies(experiment):
        reference_name, reference = scored_by(experiment, experiment.selections[name], "reference")
        yield Node(
            kind=PROXY_MODEL,
            names=(name,),
            inputs={
                REFERENCE: model_key("reference", reference_name),
                **packed_by(reference.tokenizer),
                **sampled_scores(name),
            },
            settings=Learning(
                training=proxy.training,
                held_out_share=proxy.held_out_share,
                seed=experiment.seed,
                begin_of_sequence=reference.scoring.begin_of_sequence,
                score_after_end_of_document=reference.scoring.score_after_end_of_document,
                # A device of vLLM is not for torch to take.
                device=reference.scoring.device if reference.scoring.backend == "torch" else "auto",
                tokens_per_batch=reference.scoring.tokens_per_batch,
                share=proxy.share,
                max_sequence_tokens=max_sequence_tokens(experiment),
            ),
            shards=proxy.shards,
        )


def sampled_scores(name: str) -> dict[str, str]:
    """Return the scores that the proxy of a selection learns from, by role."""
    return {f"{who}_scores": key_of(SAMPLED[who].name, name) for who in WHO}


def _make(work: Work[Learning]) -> Result:
    """Train the proxy, and predict what it has not learnt from."""

    def write(draft: Draft) -> None:
        from miniplm_assets.training.regression_trainer import RegressionJob, train_regression
        from miniplm_assets.training.token_file import write_token_file

        settings = work.settings
        differences = _differences(work)
        tokenizer = load_tokenizer(work.input(TOKENIZER.name).verified_folder())
        tokens = write_token_file(
            draft.work / "tokens",
            sequence_files=work.input_tables(SEQUENCES.name),
            split=CANDIDATE,
            vocab_size=tokenizer.vocab_size,
            data_fingerprint=draft.recipe.fingerprint,
            report=work.report,
            sequence_ids=differences["sequence_id"].to_numpy(),
        )
        ids = np.asarray(tokens.sequence_ids)
        places = np.searchsorted(differences["sequence_id"].to_numpy(), ids)
        is_held_out = hash_fractions(ids, seed=settings.seed + 1) < settings.held_out_share
        _require_enough(work, int(is_held_out.sum()), int((~is_held_out).sum()))
        job = RegressionJob(
            name=work.node.key,
            model_folder=work.input(REFERENCE).verified_folder(),
            training=settings.training,
            rule=TokenRule(
                end_of_document_id=tokenizer.end_of_document_id,
                score_after_end_of_document=settings.score_after_end_of_document,
                begin_of_sequence_id=begin_of_sequence_id(work, REFERENCE, settings.scoring),
            ),
            tokens=tokens,
            values=differences["difference_nats_per_token"].to_numpy()[places],
            is_held_out=is_held_out,
            seed=settings.seed,
            fingerprint=draft.recipe.fingerprint,
            device=settings.device,
            tokens_per_batch=settings.tokens_per_batch,
        )
        folder = curves_folder(work.pipeline.store.root, draft.recipe)
        with work.run.device(), EventFile(folder, work.report) as curves:
            draft.facts = train_regression(
                job, work=draft.work, target=draft.path, report=work.report, stop=work.run.stop, curves=curves
            )

    return work.make(write)


def _differences(work: Work[Learning]) -> pl.DataFrame:
    """Return sequence_id (rising) and difference_nats_per_token of the scored candidates in which a token is scored.

    Raises:
        ScoringError: if a sequence was scored by one model alone, or over other tokens by the other.
    """
    sequences = work.input_pieces(SEQUENCES.name)
    teacher, reference = (work.input_pieces(f"{who}_scores") for who in WHO)
    parts = []
    for shard, of_shard in sequences.items():
        split = pl.scan_parquet(of_shard.file(SEQUENCES.table or ""), glob=False).select("sequence_id", "split")
        scores = (pl.read_parquet(one[shard].file(SCORES_TABLE), glob=False) for one in (teacher, reference))
        both = next(scores).join(next(scores), on="sequence_id", how="full", coalesce=True, validate="1:1")
        unpaired = both.filter(pl.col("num_scored_tokens").eq_missing(pl.col("num_scored_tokens_right")).not_())
        if not unpaired.is_empty():
            raise ScoringError(
                f"{work.node.key}: sequence {unpaired['sequence_id'][0]} of {shard} was scored over "
                f"{unpaired['num_scored_tokens'][0]} tokens by the teacher and over "
                f"{unpaired['num_scored_tokens_right'][0]} by the reference; materialise both scores again"
            )
        difference = (pl.col("logprob_nats") - pl.col("logprob_nats_right")) / pl.col("num_scored_tokens")
        parts.append(
            both.filter(pl.col("num_scored_tokens") > 0)
            .join(split.filter(pl.col("split") == CANDIDATE).collect(), on="sequence_id", how="semi")
            .select("sequence_id", difference_nats_per_token=difference)
        )
    differences = pl.concat(parts).sort("sequence_id")
    wrong = differences.filter(pl.col("difference_nats_per_token").is_finite().not_())
    if not wrong.is_empty():
        raise ScoringError(
            f"{work.node.key}: the difference of sequence {wrong['sequence_id'][0]} is not finite; delete the scores "
            "of both models, and score in float32"
        )
    return differences


def _require_enough(work: Work[Learning], num_held_out: int, num_learnt: int) -> None:
    if min(num_held_out, num_learnt) < MIN_SEQUENCES:
        raise ScoringError(
            f"{work.node.key}: {num_held_out + num_learnt:,} candidates are scored, {num_learnt:,} of them to learn "
            f"from and {num_held_out:,} to be judged by, and fewer than {MIN_SEQUENCES} say nothing; raise proxy.share "
            f"(now {work.settings.share:g}) or change proxy.held_out_share (now {work.settings.held_out_share:g})"
        )


def _spent_flops(facts: Mapping[str, Any], _: int | None) -> int:
    predicting = scoring_flops(facts["num_parameters"], facts["num_held_out_tokens"])
    return int(facts["training_flops"]) + predicting


def _cost(node: Node[Learning], sizes: Sizes, _pieces: Any) -> Cost:
    settings = node.settings
    per_split = sizes.tokens_per_split(node.inputs[SEQUENCES.name])
    scored = 0.0 if per_split is None else per_split[CANDIDATE] * settings.share
    return regression_cost(
        sizes.input_node(node, REFERENCE),
        sizes,
        training=settings.training,
        num_held_out_tokens=round(scored * settings.held_out_share),
    )


PROXY_MODEL = Kind(
    name=NAME,
    code_version="1",
    section="selection",
    technologies=frozenset({"pytorch", "huggingface"}),
    description="""A small model that has learnt the difference of teacher and reference, in nats a token.

The reference with a linear head on the mean of its last hidden states, in safetensors; its training log; and what it
predicts of the held-out sequences.""",
    nodes=_nodes,
    make=_make,
    num_devices=lambda _: 1,
    table=TRAINING_LOG,
    columns={
        "step": "optimiser steps so far",
        "num_tokens": "tokens of the sequences trained on so far",
        "training_error": "mean squared error since the row before, as a share of the variance",
        "learning_rate": "of the step",
        "seconds": "since training began",
    },
    cost=_cost,
    spent_flops=_spent_flops,
)
