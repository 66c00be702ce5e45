"""`<selection>/score_agreement`: a sample scored in two ways, before a refined corpus is written; and its scores."""

from collections.abc import Iterator
from typing import Any

import polars as pl

from miniplm_assets.core.agreement import broken_limits, compare_scores, summarise
from miniplm_assets.core.recipe import key_of
from miniplm_assets.core.sampling import agreement_sample
from miniplm_assets.core.splits import CANDIDATE
from miniplm_assets.experiment import Agreement, Experiment
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.models import Who
from miniplm_assets.kinds.scores import (
    WHO,
    Pass,
    ScoredRows,
    max_sequence_tokens,
    rows_of,
    score_node,
    scored_by,
    scores_kinds,
)
from miniplm_assets.lineage.facts_page import in_words
from miniplm_assets.lineage.kind import ALL_FILES, Blueprint, Check, Kind, Node
from miniplm_assets.lineage.page import Page, Rows, amount, percent
from miniplm_assets.lineage.work import Work
from miniplm_assets.lm.score_shard import Choose
from miniplm_assets.storage.manifest import CheckOutcome
from miniplm_assets.storage.store import Draft, Result

NAME = "score_agreement"
AGREEMENT = "agreement.parquet"
DIFFERENCES, CUTOFF = "difference_scores", "selection_cutoff"

SCORES_AGREE = Check(
    "scores_agree",
    "A failure means that the second way of scoring gives other numbers, another order or another selection than the "
    "limits of `agreement` allow: one of the two is wrong, or too coarse.",
)


class SampledRows(ScoredRows):
    """A sample of the candidates.

    Attributes:
        num_random: of the whole corpus.
        num_around_cutoff: next to the cutoff.
        seed: of the random part.
    """

    num_random: int
    num_around_cutoff: int
    seed: int


def _score_nodes(blueprint: Blueprint, who: Who) -> Iterator[Node[SampledRows]]:
    experiment = blueprint.experiment
    for name, agreement in _agreements(experiment):
        model = scored_by(experiment, experiment.selections[name], who)
        settings = SampledRows(
            scoring=model[1].scoring.by(agreement.backend, agreement.dtype),
            max_sequence_tokens=max_sequence_tokens(experiment),
            num_random=agreement.num_random,
            num_around_cutoff=agreement.num_around_cutoff,
            seed=experiment.seed,
        )
        yield score_node(AGREEMENT_SCORES[who], name, who, model, settings, inputs=_selected(name))


def _agreements(experiment: Experiment) -> Iterator[tuple[str, Agreement]]:
    for name, selection in experiment.selections.items():
        if selection.agreement is not None:
            yield name, selection.agreement


def _selected(name: str) -> dict[str, str]:
    return {role: key_of(role, name) for role in (DIFFERENCES, CUTOFF)}


def _choose(work: Work[SampledRows]) -> Choose:
    settings = work.settings
    sample = _sample(work, settings.num_random, settings.num_around_cutoff, settings.seed)
    return rows_of(sample["sequence_id"])


def _sample(work: Work[Any], num_random: int, num_around_cutoff: int, seed: int) -> pl.DataFrame:
    """Return the candidates that are scored a second time: see `agreement_sample`."""
    columns = [
        "sequence_id", "num_scored_tokens", "teacher_logprob_nats", "reference_logprob_nats", "rank_difference",
    ]  # fmt: skip
    return agreement_sample(
        (pl.read_parquet(path, columns=columns, glob=False) for path in work.input_tables(DIFFERENCES)),
        cutoff_of(work),
        num_random=num_random,
        num_around_cutoff=num_around_cutoff,
        seed=seed,
    )


def cutoff_of(work: Work[Any]) -> dict[str, Any]:
    """Return the only row of a selection's cutoff, the input `selection_cutoff`."""
    [path] = work.input_tables(CUTOFF)
    return pl.read_parquet(path, glob=False).row(0, named=True)


def _num_tokens(settings: SampledRows, per_split: Any) -> float:
    num_sequences = settings.num_random + settings.num_around_cutoff
    return float(min(num_sequences * (settings.max_sequence_tokens - 1), per_split[CANDIDATE]))


AGREEMENT_SCORES = scores_kinds(
    Pass(
        prefix="agreement_",
        code_version="4",
        description="""One row for each candidate of a sample: its log-probability under the {who}, in another way.

`score_agreement` holds them against the first ones.""",
        nodes=_score_nodes,
        choose=_choose,
        num_tokens=_num_tokens,
        section="selection",
    )
)


class Agreeing(Settings):
    """What two ways of scoring are judged by.

    Attributes:
        agreement: the sample, and the limits.
        is_float32: whether both ways score both models in float32: then the limits are those of float32.
        seed: of the random part of the sample.
    """

    agreement: Agreement
    is_float32: bool
    seed: int


def _nodes(blueprint: Blueprint) -> Iterator[Node[Agreeing]]:
    experiment = blueprint.experiment
    for name, agreement in _agreements(experiment):
        first = [scored_by(experiment, experiment.selections[name], who)[1].scoring for who in WHO]
        second = [scoring.by(agreement.backend, agreement.dtype) for scoring in first]
        yield Node(
            kind=SCORE_AGREEMENT,
            names=(name,),
            inputs={
                **_selected(name),
                **{f"{who}_scores": key_of(AGREEMENT_SCORES[who].name, name) for who in WHO},
            },
            settings=Agreeing(
                agreement=agreement,
                is_float32={scoring.dtype for scoring in (*first, *second)} == {"float32"},
                seed=experiment.seed,
            ),
        )


def _make(work: Work[Agreeing]) -> Result:
    """Hold the second scores of a sample against the first."""
    agreement = work.settings.agreement

    def write(draft: Draft) -> None:
        sample = _sample(work, agreement.num_random, agreement.num_around_cutoff, work.settings.seed)
        teacher_scores, reference_scores = (
            pl.concat(pl.read_parquet(path, glob=False) for path in work.input_tables(f"{who}_scores")) for who in WHO
        )
        compared = compare_scores(
            sample, teacher_scores=teacher_scores, reference_scores=reference_scores, cutoff=cutoff_of(work)
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
        broken = list(broken_limits(random, agreement.limits(is_float32=work.settings.is_float32)))
        draft.checks.append(
            CheckOutcome(
                name=SCORES_AGREE.name,
                passed=not broken,
                description="; ".join(broken) or "both ways of scoring agree",
                facts=random,
            )
        )

    return work.make(write)


def _page(_work: Work[Agreeing], result: Result) -> Page:
    measures = result.facts["measures"]
    measure, *samples = measures[0]
    rows = [[in_words(row[measure]), *(row[sample] for sample in samples)] for row in measures]
    of_random = {row[measure]: row["random sample"] for row in measures}
    outcome = (
        f"{'; '.join(check.description for check in result.manifest.checks)}. Of {amount(of_random['num_sequences'])} "
        f"candidates drawn at random and scored again, {percent(of_random['flip_share'])} would be kept or dropped "
        "otherwise."
    )
    return Page(outcome={"outcome": outcome[0].upper() + outcome[1:], "measures": Rows((measure, *samples), rows)})


SCORE_AGREEMENT = Kind(
    name=NAME,
    code_version="2",
    section="selection",
    technologies=frozenset({"polars", "parquet"}),
    description="""A sample of the candidates scored in two ways, one row each; the refined corpus waits for its check.

A random part stands for the whole corpus; another part lies next to the cutoff, where selections flip.""",
    nodes=_nodes,
    make=_make,
    page=_page,
    table=ALL_FILES,
    checks=(SCORES_AGREE,),
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
