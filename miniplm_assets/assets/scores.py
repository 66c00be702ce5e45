"""Stage `scores`: the log-probability of every sequence under each teacher and reference."""

from contextlib import ExitStack
from functools import cache

from miniplm_assets.assets.build import Kind
from miniplm_assets.assets.step import Made, Step
from miniplm_assets.corpus.tokenizer import load_tokenizer
from miniplm_assets.experiment import Experiment, Scored
from miniplm_assets.lm.score_shard import mean_nll, score_shard
from miniplm_assets.lm.scorer import Scorer, open_scorer
from miniplm_assets.storage.store import Draft
from miniplm_assets.storage.tables import SEQUENCES

GROUP = "scores"


def make_scores(step: Step) -> Made:
    """Score the candidate and validation sequences of each corpus file under one model."""
    scored = _scored(step.pipeline.experiment, step.node.key)
    sequences = step.input_shards("sequences")

    with ExitStack() as stack:

        @cache
        def scorer() -> Scorer:
            """Load the model once, and only when there is something to score."""
            tokenizer = load_tokenizer(step.input("tokenizer").verified_folder())
            return stack.enter_context(
                open_scorer(
                    step.input("model").verified_folder(),
                    scoring=scored.scoring,
                    end_of_document_id=tokenizer.end_of_document_id,
                    max_sequence_tokens=step.pipeline.experiment.sequences.sequence_length + 1,
                    report=step.report,
                )
            )

        def write(shard: str, draft: Draft) -> None:
            draft.facts = score_shard(
                sequences[shard].file(SEQUENCES),
                shard=shard,
                open_scorer=scorer,
                sequences_per_part=scored.scoring.sequences_per_part,
                work=draft.work,
                folder=draft.path,
                report=step.report,
            )

        return step.make_by_shard(write, _add_means)


def _scored(experiment: Experiment, key: str) -> Scored:
    step, _, name = key.partition("/")
    return (experiment.teachers if step == "teacher_scores" else experiment.references)[name]


def _add_means(draft: Draft) -> None:
    """Say how well the model predicts each split: mean NLL in nats a token."""
    for split, domains in draft.facts["by_split_and_domain"].items():
        draft.facts[f"{split}_nll_nats_per_token"] = mean_nll(domains, excluded_domains=())


def scores_kind(who: str) -> Kind:
    """Return the kind of `teacher_scores` or `reference_scores`."""
    return Kind(
        group=GROUP,
        technologies=frozenset({"pytorch", "parquet"}),
        description=f"""One row a sequence: the sum of the log-probabilities of its tokens under the {who}, in nats.

Candidates and validation sequences are scored; the splits that a model learnt from never are.""",
        make=make_scores,
        uses_device=True,
        columns={
            "sequence_id": "of the sequence",
            "logprob_nats": "sum of log p(token | the tokens before it), at most 0",
            "num_scored_tokens": "how many tokens that sum covers",
        },
    )
