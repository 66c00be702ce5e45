"""Stage `scores`: the log-probability of sequences under each teacher and reference.

Four assets differ only in which sequences they score and how: all of them; the pilot's share, before; a sample a
second time in another way, to see whether both agree; and the band around a cutoff again, more exactly.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from miniplm_assets.assets.build import Kind
from miniplm_assets.assets.step import Made, Step
from miniplm_assets.core.sampling import agreement_sample, with_share
from miniplm_assets.core.splits import CANDIDATE
from miniplm_assets.corpus.tokenizer import load_tokenizer
from miniplm_assets.experiment import Experiment, OtherScoring, Scoring
from miniplm_assets.lineage.graph import Node, scored_model
from miniplm_assets.lm.ray_workers import RayWorkers, ScorerSettings
from miniplm_assets.lm.score_shard import TOKEN_LOGPROBS, mean_nll, merge_scores, part_threads, score_shard
from miniplm_assets.lm.scorer import Scorer, Scores, open_scorer
from miniplm_assets.storage.store import Draft
from miniplm_assets.storage.tables import SCORES, SEQUENCES

GROUP, SELECTION = "scores", "selection"

Choose = Callable[[pl.DataFrame], pl.DataFrame]


@dataclass(frozen=True)
class _Pass:
    """Which sequences are scored, and how.

    Attributes:
        scoring: backend, dtype and the like.
        prepare: gives what keeps the rows of a file's sequences that are scored; all are where absent.
        is_merged: whether the other sequences keep the scores that they have.
    """

    scoring: Scoring
    prepare: Callable[[], Choose] | None = None
    is_merged: bool = False


def make_scores(step: Step) -> Made:
    """Score sequences of each corpus file under one model."""
    scored = _pass(step)
    sequences = step.input_shards("sequences")
    earlier = step.input_shards("scores") if scored.is_merged else {}

    is_stored = step.is_stored
    choose = None if is_stored or scored.prepare is None else scored.prepare()
    # Nobody connects to a cluster, or loads a model, to find that everything is stored.
    open_engine = _local_scorer if is_stored or scored.scoring.engine == "local" else _ray_workers
    with open_engine(step, scored.scoring) as scorer, part_threads(scorer.num_devices) as threads:

        def write(shard: str, draft: Draft) -> None:
            draft.facts = score_shard(
                sequences[shard].file(SEQUENCES),
                shard=shard,
                scorer=scorer,
                threads=threads,
                sequences_per_part=scored.scoring.sequences_per_part,
                work=draft.work,
                folder=draft.path,
                report=step.report,
                choose=choose,
                keeps_token_logprobs=scored.scoring.keep_token_logprobs,
            )
            if scored.is_merged:
                merge_scores(earlier[shard].file(SCORES), draft.path / SCORES)

        return step.make_by_shard(write, _add_means, workers=scorer)


class _LocalScorer:
    """A scorer in this process, whose model is loaded once, and only when there is something to score."""

    num_devices = 1

    def __init__(self, open_scorer: Callable[[], Scorer]) -> None:
        self._open_scorer = open_scorer
        self._lock = threading.Lock()
        self._scorer: Scorer | None = None

    def score(self, sequences: Sequence[NDArray[np.int32]], sequence_ids: NDArray[np.int64]) -> Scores:
        with self._lock:
            if self._scorer is None:
                self._scorer = self._open_scorer()
        return self._scorer.score(sequences, sequence_ids)

    def close(self) -> None:
        if self._scorer is not None:
            self._scorer.close()


@contextmanager
def _local_scorer(step: Step, scoring: Scoring) -> Iterator[Scorer]:
    with ExitStack() as stack:

        def load() -> Scorer:
            return stack.enter_context(open_scorer(**_scorer_arguments(step, scoring), report=step.report))

        yield _LocalScorer(lambda: step.in_own_thread(load))


@contextmanager
def _ray_workers(step: Step, scoring: Scoring) -> Iterator[Scorer]:
    step.connect_ray()
    settings = ScorerSettings(**_scorer_arguments(step, scoring))
    with closing(RayWorkers(settings, num_workers=scoring.num_workers, report=step.report)) as workers:
        workers.wait_for_one()
        yield workers


def _scorer_arguments(step: Step, scoring: Scoring) -> dict[str, Any]:
    return {
        "model_folder": step.input("model").verified_folder(),
        "scoring": scoring,
        "end_of_document_id": load_tokenizer(step.input("tokenizer").verified_folder()).end_of_document_id,
        "max_sequence_tokens": step.pipeline.experiment.sequences.sequence_length + 1,
    }


def _pass(step: Step) -> _Pass:
    settings = step.node.settings
    scoring = _scoring(step.pipeline.experiment, step.node)
    match step.node.step.partition("_")[0]:
        case "pilot":
            return _Pass(scoring, lambda: partial(_pilot_share, share=settings["share"], seed=settings["seed"]))
        case "second":
            return _Pass(scoring, lambda: partial(_rows_of, second_sample(step)["sequence_id"]))
        case "rescored":
            return _Pass(scoring, lambda: partial(_rows_of, _band(step)), is_merged=True)
        case _:
            return _Pass(scoring)


def _scoring(experiment: Experiment, node: Node) -> Scoring:
    first = scored_model(experiment, node).scoring
    selection = experiment.selections.get(node.name)
    other: OtherScoring
    match node.step.partition("_")[0]:
        case "pilot":
            return first.by(None, None)
        case "second" if selection and selection.agreement:
            other = selection.agreement
        case "rescored" if selection and selection.rescoring:
            other = selection.rescoring
        case _:
            return first
    return first.by(other.backend, other.dtype)


def _pilot_share(rows: pl.DataFrame, *, share: float, seed: int) -> pl.DataFrame:
    return with_share(rows.filter(pl.col("split") == CANDIDATE), share=share, seed=seed)


def _rows_of(chosen: pl.Series, rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(pl.col("sequence_id").is_in(chosen.implode()))


def second_sample(step: Step) -> pl.DataFrame:
    """Return the candidates that are scored a second time: see `agreement_sample`."""
    agreement = step.pipeline.experiment.selections[step.node.name].agreement
    assert agreement is not None  # else there were no such asset
    columns = [
        "sequence_id", "num_scored_tokens", "teacher_logprob_nats", "reference_logprob_nats", "rank_difference",
    ]  # fmt: skip
    return agreement_sample(
        (pl.read_parquet(path, columns=columns) for path in step.input_tables("difference_scores")),
        cutoff_of(step),
        num_random=agreement.num_random,
        num_around_cutoff=agreement.num_around_cutoff,
        seed=step.pipeline.experiment.seed,
    )


def _band(step: Step) -> pl.Series:
    cutoff, within = cutoff_of(step)["cutoff_difference"], step.node.settings["within_nats"]
    chosen = [
        pl.scan_parquet(path)
        .filter((pl.col("rank_difference") - cutoff).abs() <= within)
        .select("sequence_id")
        .collect()["sequence_id"]
        for path in step.input_tables("difference_scores")
    ]
    band = pl.concat(chosen)
    step.report(f"{step.node.key}: {len(band):,} candidates within {within:g} nats of the cutoff {cutoff:.4f}")
    return band


def cutoff_of(step: Step) -> dict[str, Any]:
    """Return the only row of the selection's cutoff."""
    return pl.read_parquet(step.input_tables("selection_cutoff")).row(0, named=True)


def _add_means(draft: Draft) -> None:
    """Say how well the model predicts each split: mean NLL in nats a token."""
    for split, domains in draft.facts["by_split_and_domain"].items():
        draft.facts[f"{split}_nll_nats_per_token"] = mean_nll(domains, excluded_domains=())


DESCRIPTIONS = {
    "": """One row a sequence: the sum of the log-probabilities of its tokens under the {who}, in nats.

Candidates and validation sequences are scored; the splits that a model learnt from never are.""",
    "pilot": "One row for each candidate of the pilot: its log-probability under the {who}, in nats.",
    "second": """One row for each candidate of a sample: its log-probability under the {who}, scored in another way.

`score_agreement` holds them against the first ones.""",
    "rescored": """One row a sequence: its log-probability under the {who}, in nats, around a cutoff scored again.

The other sequences keep the scores of the first pass.""",
}


def scores_kind(experiment: Experiment, node: Node) -> Kind:
    """Return the kind of `teacher_scores`, `pilot_reference_scores` and the like."""
    which, who, _ = f"_{node.step}".rsplit("_", 2)
    columns = {
        "sequence_id": "of the sequence",
        "logprob_nats": "sum of log p(token | the tokens before it), at most 0",
        "num_scored_tokens": "how many tokens that sum covers",
    }
    if node.settings["keep_token_logprobs"]:
        columns[TOKEN_LOGPROBS.name] = "of every scored token, in float16"
    is_on_ray = _scoring(experiment, node).engine == "ray"
    return Kind(
        # What is scored because of a cutoff belongs to the selection that the cutoff is of.
        group=SELECTION if which.strip("_") in ("second", "rescored") else GROUP,
        technologies=frozenset({"pytorch", "parquet"}),
        description=DESCRIPTIONS[which.strip("_")].format(who=who),
        make=make_scores,
        uses_device=not is_on_ray,
        uses_ray=is_on_ray,
        columns=columns,
    )
