"""The two gates: a pilot before the corpus is scored, and an agreement check before a refined corpus is written."""

from typing import Any

import polars as pl

from miniplm_assets.assets.build import Check, Kind
from miniplm_assets.assets.scores import GROUP, SELECTION, cutoff_of, second_sample
from miniplm_assets.assets.step import Made, Step
from miniplm_assets.core.agreement import broken_limits, compare_scores, summarise
from miniplm_assets.core.errors import ScoringError
from miniplm_assets.core.facts import model_tokens
from miniplm_assets.core.pilot import judge_pilot, reasons_against
from miniplm_assets.core.splits import CANDIDATE, VALIDATION
from miniplm_assets.evaluation.plots import plot_domain_shares
from miniplm_assets.lineage.graph import scored_model
from miniplm_assets.storage.manifest import CheckOutcome
from miniplm_assets.storage.store import Draft

AGREEMENT = "agreement.parquet"
DOMAINS = "domains.parquet"
# A standard deviation or a rank correlation of fewer says nothing.
MIN_PILOT_SEQUENCES = 30

SCORES_AGREE = Check(
    "scores_agree",
    "A failure means that the second way of scoring gives other numbers, another order or another selection than the "
    "limits of `agreement` allow: one of the two is wrong, or too coarse.",
)
PILOT_SAYS_GO = Check(
    "pilot_says_go",
    "A failure means that the pilot speaks against scoring the whole corpus with these two models.",
)


def make_score_agreement(step: Step) -> Made:
    """Hold the second scores of a sample against the first."""
    agreement = step.pipeline.experiment.selections[step.node.name].agreement
    assert agreement is not None  # else there were no such asset

    def write(draft: Draft) -> None:
        compared = compare_scores(
            second_sample(step),
            teacher_scores=pl.read_parquet(step.input_tables("teacher_scores")),
            reference_scores=pl.read_parquet(step.input_tables("reference_scores")),
            cutoff=cutoff_of(step),
        )
        compared.write_parquet(draft.path / AGREEMENT)
        random = summarise(compared.filter("is_random"))
        around = summarise(compared.filter("is_around_cutoff")) if compared["is_around_cutoff"].any() else None
        draft.facts = {
            "measures": [
                {"measure": name, "random sample": value, **({"around the cutoff": around[name]} if around else {})}
                for name, value in random.items()
            ]
        }
        broken = list(broken_limits(random, agreement.model_dump()))
        draft.checks.append(
            CheckOutcome(
                name=SCORES_AGREE.name,
                passed=not broken,
                description="; ".join(broken) or "both ways of scoring agree",
                facts=random,
            )
        )

    return step.make(write)


def make_pilot(step: Step) -> Made:
    """Judge by a share of the candidates whether scoring them all is worth it."""
    pilot = step.pipeline.experiment.pilot
    assert pilot is not None  # else there were no such asset

    def write(draft: Draft) -> None:
        teacher, reference = (
            pl.read_parquet(step.input_tables(role)) for role in ("teacher_scores", "reference_scores")
        )
        candidates = (
            pl.scan_parquet(step.input_tables("sequences"))
            .filter(pl.col("sequence_id").is_in(teacher["sequence_id"].implode()))
            .select("sequence_id", "domain", "num_tokens")
            .collect()
        )
        if len(candidates) < MIN_PILOT_SEQUENCES:
            raise ScoringError(
                f"pilot.share {pilot.share:g} is {len(candidates):,} candidates of this corpus, and fewer than "
                f"{MIN_PILOT_SEQUENCES} say nothing; raise it, or leave the pilot out"
            )
        measures = judge_pilot(
            candidates,
            teacher_scores=teacher,
            reference_scores=reference,
            rank_by=step.node.settings["rank_by"],
            keep_fraction=step.node.settings["keep_fraction"],
            token_budget=step.node.settings["token_budget"],
            share=pilot.share,
        )
        domains = pl.DataFrame(measures.pop("domains"))
        domains.write_parquet(draft.path / DOMAINS)
        (draft.path / "domain_shares.png").write_bytes(
            plot_domain_shares(domains, selection=f"{step.node.name} (pilot)")
        )
        against = list(reasons_against(measures, pilot.model_dump()))
        cost = _cost_of_the_whole(step)
        verdict = "**Go.** Nothing that the pilot measures speaks against scoring the whole corpus."
        if against:
            verdict = "**No go.** " + "; ".join(against) + "."
        draft.facts = {"verdict": verdict, **measures, "whole_corpus": cost, "domains": domains.to_dicts()}
        draft.checks.append(
            CheckOutcome(
                name=PILOT_SAYS_GO.name,
                passed=not against,
                description="; ".join(against),
                facts={name: measures[name] for name in ("num_sequences", "share_below_zero", "spread_nats_per_token")},
            )
        )
        step.report(f"{step.node.key}: {verdict}")

    return step.make(write)


def _cost_of_the_whole(step: Step) -> list[dict[str, Any]]:
    """Return what scoring everything would take, by what the pilot took.

    Loading the model is not counted; on a Ray cluster, that of the first actor is not.
    """
    per_split = step.input("sequences").facts["tokens_per_split"]
    num_tokens = per_split[CANDIDATE] + per_split[VALIDATION]
    rows = []
    for role in ("teacher_scores", "reference_scores"):
        shards = step.input_shards(role).values()
        seconds = sum(shard.manifest.seconds for shard in shards)
        scored = sum(model_tokens(shard.facts) for shard in shards)
        scoring = scored_model(step.pipeline.experiment, step.pipeline.graph[step.node.inputs[role]]).scoring
        rows.append(
            {
                "scores": step.node.inputs[role].removeprefix("pilot_"),
                "tokens": num_tokens,
                "tokens a second": scored / seconds,
                "device hours": num_tokens * seconds * scoring.tensor_parallel_size / scored / 3600,
            }
        )
    return rows


SCORE_AGREEMENT_KIND = Kind(
    group=SELECTION,
    technologies=frozenset({"polars", "parquet"}),
    description="""A sample of the candidates scored in two ways, one row each; the refined corpus waits for its check.

A random part stands for the whole corpus; another part lies next to the cutoff, where selections flip.""",
    make=make_score_agreement,
    checks=[SCORES_AGREE],
    columns={
        "sequence_id": "of the candidate",
        "num_scored_tokens": "tokens that the sums cover",
        "teacher_logprob_nats": "the first score",
        "reference_logprob_nats": "the first score",
        "rank_difference": "by the first scores, in the unit that ranks",
        "is_kept": "by the first scores",
        "is_random": "whether it is of the random part",
        "is_around_cutoff": "whether it is of the part next to the cutoff",
        "second_teacher_logprob_nats": "the second score",
        "second_reference_logprob_nats": "the second score",
        "second_rank_difference": "by the second scores",
        "teacher_error_nats_per_token": "second - first",
        "reference_error_nats_per_token": "second - first",
        "would_flip": "whether the second scores lie on the other side of the cutoff",
    },
)
PILOT_KIND = Kind(
    group=GROUP,
    technologies=frozenset({"polars", "matplotlib"}),
    description="""A verdict on a share of the candidates, before the whole corpus is scored, which waits for its check.

How far the differences spread, how many are below zero, whether one model ranks alone, what the selection would do to
the domains, and what scoring everything would cost.""",
    make=make_pilot,
    checks=[PILOT_SAYS_GO],
    columns={
        "domain": "of the candidates",
        "share_of_candidate_tokens": "in the pilot",
        "share_of_kept_tokens": "of what the pilot would keep",
        "token_share_change": "after - before",
    },
)
