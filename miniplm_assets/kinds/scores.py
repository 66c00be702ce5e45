"""`<name>/teacher_scores`, `<name>/reference_scores`: the log-probability of sequences under a model.

Four passes differ only in which sequences they score and how: all of them, here; the pilot's share, before (`pilot`);
a sample a second time in another way (`agreement`); the band around a cutoff again, more exactly (`rescoring`). A pass
is a value that its own file holds.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Final, Generic, TypeVar

import polars as pl

from miniplm_assets.core.facts import model_tokens
from miniplm_assets.core.flops import scoring_flops
from miniplm_assets.core.recipe import key_of
from miniplm_assets.core.splits import CANDIDATE, VALIDATION
from miniplm_assets.experiment import Experiment, Scored, Scoring, Selection
from miniplm_assets.experiment.selections import DIFFERENCE
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.costs import scoring_cost
from miniplm_assets.kinds.engines import (
    MODEL,
    ShardInTheMaking,
    device_in_words,
    made_on_devices,
    num_devices_here,
    open_engine,
    pass_curves,
)
from miniplm_assets.kinds.models import Who, model_key, scored_models
from miniplm_assets.kinds.retokenised_sequences import text_scorer
from miniplm_assets.kinds.scores_page import scores_page
from miniplm_assets.kinds.sequences import SEQUENCES, packed_by
from miniplm_assets.kinds.tokenizer import TOKENIZER
from miniplm_assets.lineage.kind import Blueprint, Cost, Kind, Node, Section
from miniplm_assets.lineage.sizes import Sizes
from miniplm_assets.lineage.work import Work
from miniplm_assets.lm.device_time import DeviceTime
from miniplm_assets.lm.kept_tokens import too_many
from miniplm_assets.lm.part_threads import PartThreads
from miniplm_assets.lm.score_shard import TOKEN_LOGPROBS, Choose, ShardScores, mean_nll, merge_scores
from miniplm_assets.storage.store import Draft, Result
from miniplm_assets.storage.tables import SCORES as SCORES_TABLE
from miniplm_assets.training.objectives import objective_of

# As measured on the demo, compressed.
BYTES_PER_SCORE: Final = 20
# Of an id that is kept with its log-probability, with a vocabulary of some ten thousand; a small one takes less.
BYTES_PER_KEPT_TOKEN: Final = 3
# The gate before everything is scored.
PILOT: Final = "pilot"
# The role of the scores that a pass replaces some of.
EARLIER: Final = "scores"

WHO: Final[tuple[Who, Who]] = ("teacher", "reference")


class ScoredRows(Settings):
    """How sequences are scored, and in a subclass, which.

    Attributes:
        scoring: backend, dtype and the like.
        max_sequence_tokens: of the longest sequence; the sequences are an input.
    """

    runtime_only: ClassVar[frozenset[str]] = frozenset({"max_sequence_tokens"})

    scoring: Scoring
    max_sequence_tokens: int


R = TypeVar("R", bound=ScoredRows)


@dataclass(frozen=True, kw_only=True)
class Pass(Generic[R]):
    """Which sequences are scored, and what is said of it.

    Attributes:
        prefix: of the kinds' names: `<prefix>teacher_scores`, `<prefix>reference_scores`.
        code_version: of both kinds.
        description: in Markdown; {who} is teacher or reference.
        nodes: the assets that an experiment has of the pass, by who is scored.
        choose: gives what keeps the rows of a file's sequences that are scored; all are where absent.
        num_tokens: how many tokens it scores, of so many in each split; None where nobody knows before.
        num_spared: how many it leaves out that would be scored but for what spares it.
        spared_by: the setting that spares it those.
        section: what its assets are named after, where that is not the model.
        is_merged: whether the other sequences keep the scores that they have: those of the input `scores`.
        is_view: as in `Kind`.
    """

    prefix: str
    code_version: str
    description: str
    nodes: Callable[[Blueprint, Who], Iterable[Node[R]]]
    choose: Callable[[Work[R]], Choose] | None = None
    num_tokens: Callable[[R, Mapping[str, int]], float | None]
    num_spared: Callable[[R, Mapping[str, int]], float] = lambda _settings, _per_split: 0.0
    spared_by: str = ""
    section: Section | None = None
    is_merged: bool = False
    is_view: bool = False


def scores_kinds(one: Pass[R]) -> dict[Who, Kind[R]]:
    """Return the kinds of a pass: the scores under the teacher, and those under the reference."""
    return {who: _kind(one, who) for who in WHO}


def score_node(
    kind: Kind[R],
    name: str,
    who: Who,
    model: tuple[str, Scored],
    settings: R,
    *,
    inputs: Mapping[str, str] | None = None,
    gates: tuple[str, ...] = (),
) -> Node[R]:
    """Return a node of scores.

    Args:
        kind: of the pass.
        name: of the asset: the model's, or that of the selection that asks for the scores.
        who: is the model a teacher or a reference?
        model: its name and what the file says of it.
        settings: of the pass.
        inputs: beside model, sequences and tokenizer, or in the place of one of them.
        gates: what must pass first.
    """
    model_name, scored = model
    return Node(
        kind=kind,
        names=(name,),
        inputs={
            MODEL: model_key(who, model_name),
            **packed_by(scored.tokenizer),
            **(inputs or {}),
        },
        settings=settings,
        gates=gates,
    )


def max_sequence_tokens(experiment: Experiment) -> int:
    """Return the length of the longest sequence."""
    return experiment.sequences.sequence_length + 1


def scored_by(experiment: Experiment, selection: Selection, who: Who) -> tuple[str, Scored]:
    """Return the teacher or the reference that a selection ranks by: its name, and what the file says of it."""
    name = selection.models[who]
    return name, scored_models(experiment, who)[name]


def piloted(experiment: Experiment) -> dict[str, Selection]:
    """Return the selections that a pilot judges: those by a difference, where the experiment has a pilot."""
    selections = {} if experiment.pilot is None else experiment.selections
    return {name: selection for name, selection in selections.items() if selection.score == DIFFERENCE}


def rows_of(chosen: pl.Series) -> Choose:
    """Return what keeps the rows of some sequence ids, of a corpus file at a time."""
    in_order = chosen.sort()

    def choose(rows: pl.DataFrame) -> pl.DataFrame:
        if rows.is_empty():
            return rows
        # The ids of a file stand together: those of all the others need no look.
        first = in_order.search_sorted(rows["sequence_id"][0], side="left")
        stop = in_order.search_sorted(rows["sequence_id"][-1], side="right")
        return rows.filter(pl.col("sequence_id").is_in(in_order[first:stop].implode()))

    return choose


def _make(one: Pass[R], work: Work[R]) -> Result:
    """Score sequences of each corpus file under one model."""
    return made_on_devices(work, work.settings.scoring, partial(_score, one, work), add_means)


def _score(one: Pass[R], work: Work[R]) -> Result:
    scoring = work.settings.scoring
    sequences = work.input_pieces(SEQUENCES.name)
    earlier = work.input_pieces(EARLIER) if one.is_merged else {}
    choose = None if one.choose is None else one.choose(work)
    with open_engine(work, scoring, work.settings.max_sequence_tokens) as scorer, pass_curves(work) as curves:
        device_time = DeviceTime(scorer.num_devices)
        texts = text_scorer(work, scorer, scoring, work.settings.max_sequence_tokens)

        def begin(shard: str, draft: Draft) -> ShardInTheMaking:
            draft.made_by["device"] = device_in_words(scoring)
            scores = ShardScores(
                sequences[shard].file(SEQUENCES.table or ""),
                shard=shard,
                scorer=scorer,
                device_time=device_time,
                sequences_per_part=scoring.sequences_per_part,
                work=draft.work,
                folder=draft.path,
                report=work.report,
                choose=choose,
                keeps_token_logprobs=scoring.keep_token_logprobs,
                keep_tokens=scoring.keep_tokens,
                texts=texts,
            )
            merge = None
            if one.is_merged:
                merge = partial(merge_scores, earlier[shard].file(SCORES_TABLE), draft.path / SCORES_TABLE)
            return ShardInTheMaking(scores, draft, scoring.tensor_parallel_size, curves, merge)

        with PartThreads(scorer.num_devices) as threads:
            return work.make_in_parts(begin, threads, add_means)


def add_means(draft: Draft) -> None:
    """Say how well the model predicts each split: mean NLL in nats a token."""
    for split, domains in draft.facts["by_split_and_domain"].items():
        draft.facts[f"{split}_nll_nats_per_token"] = mean_nll(domains, excluded_domains=())


def _cost(one: Pass[R], node: Node[R], sizes: Sizes, shards: Collection[str] | None) -> Cost:
    per_split = sizes.tokens_per_split(node.inputs[SEQUENCES.name], shards)
    num_tokens = None if per_split is None else one.num_tokens(node.settings, per_split)
    if per_split is None or num_tokens is None:
        return Cost()
    model, dtype, keep = sizes.input_node(node, MODEL), node.settings.scoring.dtype, node.settings.scoring.keep_tokens
    kept_bytes = 0 if keep is None else round(num_tokens) * keep.number * BYTES_PER_KEPT_TOKEN
    cost = scoring_cost(
        model,
        sizes,
        num_tokens=round(num_tokens),
        dtype=dtype,
        num_bytes=round(num_tokens) // (node.settings.max_sequence_tokens - 1) * BYTES_PER_SCORE + kept_bytes,
    )
    num_spared = round(one.num_spared(node.settings, per_split))
    if not num_spared:
        return cost
    spared = scoring_cost(model, sizes, num_tokens=num_spared, dtype=dtype)
    return replace(cost, spared_flops=spared.flops, spared_by=one.spared_by)


def _spent_flops(facts: Mapping[str, Any], num_parameters: int | None) -> int | None:
    return None if num_parameters is None else scoring_flops(num_parameters, model_tokens(facts))


def _problems(node: Node[R], sizes: Sizes) -> Iterator[str]:
    """Say why not as many ids can be kept as the settings ask for."""
    keep = node.settings.scoring.keep_tokens
    vocab_size = sizes.vocab_size(node.inputs[TOKENIZER.name])
    if keep is not None and keep.method == "top_k" and keep.number > vocab_size:
        yield too_many(keep.number, vocab_size)


def _kind(one: Pass[R], who: Who) -> Kind[R]:
    return Kind(
        name=f"{one.prefix}{who}_scores",
        code_version=one.code_version,
        section=one.section or who,
        technologies=frozenset({"pytorch", "parquet"}),
        description=one.description.format(who=who),
        nodes=lambda blueprint: one.nodes(blueprint, who),
        make=partial(_make, one),
        pieces="shard",
        needs_ray=lambda settings: settings.scoring.engine == "ray",
        num_devices=lambda settings: num_devices_here(settings.scoring),
        table=SCORES_TABLE,
        is_view=one.is_view,
        cost=partial(_cost, one),
        spent_flops=_spent_flops,
        page=scores_page,
        problems=_problems,
        columns={
            "sequence_id": "of the sequence",
            "logprob_nats": "sum of log p(token | the tokens before it), at most 0",
            "num_scored_tokens": "how many tokens that sum covers",
            TOKEN_LOGPROBS.name: "of every scored token, in float16",
            "sampled_token_ids": "drawn from the model's distribution, so many for every scored token",
            "sampled_logprobs_nats": "of each of these, in float16",
            "top_token_ids": "the most likely ones, so many for every scored token",
            "top_logprobs_nats": "of each of these, in float16",
        },
    )


def _nodes(blueprint: Blueprint, who: Who) -> Iterator[Node[ScoredRows]]:
    experiment = blueprint.experiment
    for name, scored in scored_models(experiment, who).items():
        if is_spared(experiment, who, name):
            continue
        yield score_node(
            SCORES[who],
            name,
            who,
            (name, scored),
            ScoredRows(scoring=scored.scoring, max_sequence_tokens=max_sequence_tokens(experiment)),
            gates=tuple(
                key_of(PILOT, selection)
                for selection, chosen in piloted(experiment).items()
                if scored_by(experiment, chosen, who)[0] == name and not chosen.spares(who)
            ),
        )


def is_spared(experiment: Experiment, who: Who, name: str) -> bool:
    """Say whether a model need not score everything: all selections by it ask for less, and no student's objective."""
    using = {key: one for key, one in experiment.selections.items() if one.models.get(who) == name}
    are_spared = [one.spares(who) or experiment.is_retokenised(key, who) for key, one in using.items()]
    objectives = (student.objective for student in experiment.students.values())
    needed = {asset for objective in objectives for asset in objective_of(objective).inputs(objective).values()}
    return bool(using) and all(are_spared) and (SCORES[who].name, name) not in needed


SCORES = scores_kinds(
    Pass(
        prefix="",
        code_version="5",
        description="""One row for each sequence: the sum of its tokens' log-probabilities under the {who}, in nats.

Candidates and validation sequences are scored; the splits that a model learnt from never are.""",
        nodes=_nodes,
        num_tokens=lambda _, per_split: per_split[CANDIDATE] + per_split[VALIDATION],
        is_view=True,
    )
)


def scores_key(who: Who, name: str) -> str:
    """Return the key of the scores of everything under a teacher or reference."""
    return key_of(SCORES[who].name, name)
