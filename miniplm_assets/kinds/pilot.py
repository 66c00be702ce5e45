"""`<selection>/pilot`: a verdict on a share of the candidates, before the whole corpus is scored; and its scores."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import polars as pl

from miniplm_assets.core.errors import ScoringError
from miniplm_assets.core.facts import model_tokens
from miniplm_assets.core.pilot import judge_pilot, reasons_against
from miniplm_assets.core.recipe import key_of
from miniplm_assets.core.sampling import with_share
from miniplm_assets.core.splits import CANDIDATE, VALIDATION
from miniplm_assets.evaluation.plots import plot_domain_shares
from miniplm_assets.experiment import Pilot
from miniplm_assets.experiment.selections import PER_BYTE
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.models import Who, scored_models
from miniplm_assets.kinds.parameters import SelectionParameters, parameters_of
from miniplm_assets.kinds.scored_bytes import SCORED_BYTES
from miniplm_assets.kinds.scores import PILOT as NAME
from miniplm_assets.kinds.scores import (
    WHO,
    Pass,
    ScoredRows,
    max_sequence_tokens,
    piloted,
    score_node,
    scored_by,
    scores_kinds,
)
from miniplm_assets.kinds.sequences import SEQUENCES, sequences_key
from miniplm_assets.kinds.tokenizer import TOKENIZER
from miniplm_assets.lineage.kind import ALL_FILES, Blueprint, Check, Kind, Node
from miniplm_assets.lineage.sizes import Sizes
from miniplm_assets.lineage.work import Work
from miniplm_assets.lm.score_shard import Choose, mean_nll
from miniplm_assets.storage.manifest import CheckOutcome
from miniplm_assets.storage.store import Draft, Result

DOMAINS = "domains.parquet"
# A standard deviation or a rank correlation of fewer says nothing.
MIN_SEQUENCES = 30

PILOT_SAYS_GO = Check(
    "pilot_says_go",
    "A failure means that the pilot speaks against scoring the whole corpus with these two models.",
)

TEACHER_IS_AHEAD_OF_STUDENTS = Check(
    "teacher_is_ahead_of_students",
    "A failure names students that are stored already and predict held-out text as well as the teacher does that of "
    "the pilot: what it finds easy is then nothing that they lack.",
    is_blocking=False,
)


class PilotRows(ScoredRows):
    """A share of the candidates.

    Attributes:
        share: of them, by a hash of the sequence id.
        seed: of the hash.
    """

    share: float
    seed: int


def _score_nodes(blueprint: Blueprint, who: Who) -> Iterator[Node[PilotRows]]:
    experiment = blueprint.experiment
    if experiment.pilot is None:
        return
    for name, scored in scored_models(experiment, who).items():
        settings = PilotRows(
            scoring=scored.scoring.by(None, None),
            max_sequence_tokens=max_sequence_tokens(experiment),
            share=experiment.pilot.share,
            seed=experiment.seed,
        )
        yield score_node(PILOT_SCORES[who], name, who, (name, scored), settings)


def _choose(work: Work[PilotRows]) -> Choose:
    return partial(_pilot_share, share=work.settings.share, seed=work.settings.seed)


def _pilot_share(rows: pl.DataFrame, *, share: float, seed: int) -> pl.DataFrame:
    return with_share(rows.filter(pl.col("split") == CANDIDATE), share=share, seed=seed)


PILOT_SCORES = scores_kinds(
    Pass(
        prefix="pilot_",
        code_version="4",
        description="One row for each candidate of the pilot: its log-probability under the {who}, in nats.",
        nodes=_score_nodes,
        choose=_choose,
        num_tokens=lambda settings, per_split: per_split[CANDIDATE] * settings.share,
    )
)


class Judging(Settings):
    """What a pilot is judged by.

    Attributes:
        selection: how the selection would rank, and how much keep.
        pilot: the share, and the limits.
    """

    selection: SelectionParameters
    pilot: Pilot


def _nodes(blueprint: Blueprint) -> Iterator[Node[Judging]]:
    experiment = blueprint.experiment
    if experiment.pilot is None:
        return
    for name, selection in piloted(experiment).items():
        scores = {f"{who}_scores": key_of(PILOT_SCORES[who].name, model) for who, model in selection.models.items()}
        _, teacher = scored_by(experiment, selection, "teacher")
        is_per_byte = selection.rank_by == PER_BYTE
        scored_bytes = {SCORED_BYTES.name: key_of(SCORED_BYTES.name, name)} if is_per_byte else {}
        yield Node(
            kind=PILOT,
            names=(name,),
            inputs={SEQUENCES.name: sequences_key(teacher.tokenizer), **scores, **scored_bytes},
            settings=Judging(selection=parameters_of(experiment, selection), pilot=experiment.pilot),
        )


def _make(work: Work[Judging]) -> Result:
    """Judge by a share of the candidates whether scoring them all is worth it."""
    pilot = work.settings.pilot

    def write(draft: Draft) -> None:
        teacher, reference = (
            pl.concat(pl.read_parquet(path, glob=False) for path in work.input_tables(f"{who}_scores")) for who in WHO
        )
        candidates = (
            pl.scan_parquet(work.input_tables(SEQUENCES.name), glob=False)
            .select("sequence_id", "domain", "num_tokens")
            .join(teacher.lazy().select("sequence_id"), on="sequence_id", how="semi", maintain_order="left")
            .collect()
        )
        if len(candidates) < MIN_SEQUENCES:
            raise ScoringError(
                f"pilot.share {pilot.share:g} is {len(candidates):,} candidates of this corpus, and fewer than "
                f"{MIN_SEQUENCES} say nothing; raise it, or leave the pilot out"
            )
        is_per_byte = SCORED_BYTES.name in work.node.inputs
        measures = judge_pilot(
            candidates,
            teacher_scores=teacher,
            reference_scores=reference,
            **work.settings.selection.model_dump(),
            share=pilot.share,
            scored_bytes=pl.read_parquet(work.input_tables(SCORED_BYTES.name), glob=False) if is_per_byte else None,
        )
        domains = pl.DataFrame(measures.pop("domains"))
        domains.write_parquet(draft.path / DOMAINS)
        (draft.path / "domain_shares.png").write_bytes(plot_domain_shares(domains))
        against = list(reasons_against(measures, pilot.model_dump()))
        verdict = "**Go.** Nothing that the pilot measures speaks against scoring the whole corpus."
        if against:
            verdict = "**No go.** " + "; ".join(against) + "."
        draft.facts = {
            "verdict": verdict,
            **measures,
            "whole_corpus": _cost_of_the_whole(work),
            "domains": domains.to_dicts(),
        }
        draft.checks.append(
            CheckOutcome(
                name=PILOT_SAYS_GO.name,
                passed=not against,
                description="; ".join(against),
                facts={name: measures[name] for name in ("num_sequences", "share_below_zero", "spread_nats_per_token")},
            )
        )

    result = work.make(write)
    work.tally.checks.append(_teacher_is_ahead(work))
    told = list(_outlooks(work))
    if told:
        work.tally.notes["what the students can tell"] = "\n\n".join(told)
    return result


def _outlooks(work: Work[Judging]) -> Iterator[str]:
    """Say what the comparisons that are planned will be able to tell, by what is stored at the time of the run."""
    sizes = Sizes(work.pipeline, work.run.snapshot(), work.fingerprints)
    for node in work.pipeline.graph.values():
        if node.kind.outlook is not None:
            yield from node.kind.outlook(node, sizes)


def _teacher_is_ahead(work: Work[Judging]) -> CheckOutcome:
    """Hold the teacher's loss on the pilot against the held-out losses of the students that are stored by now.

    Neither has seen the text, and both are drawn from the same corpus by hashes.
    """
    role = "teacher_scores"
    tokenizer = work.input_node(role).inputs[TOKENIZER.name]
    domains = work.input(role).facts["by_split_and_domain"][CANDIDATE]
    evaluations = [node for node in work.pipeline.graph.values() if node.kind.name == "student_evaluation"]
    num_held_against, ahead = 0, []
    for node in evaluations:
        if node.inputs[TOKENIZER.name] != tokenizer:  # in other tokens, a loss is another quantity
            continue
        teacher_nll = mean_nll(domains, excluded_domains=node.settings.excluded_domains)
        for seed, recipe in work.fingerprints.pieces(node.key).items():
            stored = work.pipeline.store.find(recipe)
            if stored is None or teacher_nll is None:
                continue
            num_held_against += 1
            student_nll = stored.facts["nll_nats_per_token"]
            if student_nll <= teacher_nll:
                ahead.append(
                    f"{node.names[0]}, seed {seed}: {student_nll:.3f} nats a token, the teacher {teacher_nll:.3f}"
                )
    return CheckOutcome(
        name=TEACHER_IS_AHEAD_OF_STUDENTS.name,
        passed=not ahead,
        is_warning=True,
        description="take a stronger teacher, or train it for longer; as good as it are: " + "; ".join(ahead)
        if ahead
        else "",
        facts={"num_students": num_held_against},
    )


def _cost_of_the_whole(work: Work[Judging]) -> list[dict[str, Any]]:
    """Return what scoring everything would take, by what the pilot took.

    Loading the model is not counted; on a Ray cluster, that of the first actor is not.
    """
    per_split = work.input(SEQUENCES.name).facts["tokens_per_split"]
    num_tokens = per_split[CANDIDATE] + per_split[VALIDATION]
    rows = []
    for who in WHO:
        shards = work.input_pieces(f"{who}_scores").values()
        seconds = sum(shard.manifest.seconds for shard in shards)
        device_seconds = sum(shard.facts["device_seconds"] for shard in shards)
        scored = sum(model_tokens(shard.facts) for shard in shards)
        rows.append(
            {
                "scores": who,
                "tokens": num_tokens,
                "tokens a second": scored / seconds,
                "device hours": num_tokens * device_seconds / scored / 3600,
            }
        )
    return rows


PILOT = Kind(
    name=NAME,
    code_version="3",
    section="selection",
    technologies=frozenset({"polars", "matplotlib"}),
    description="""A verdict on a share of the candidates, before the whole corpus is scored, which waits for its check.

How far the differences spread, how many are below zero, whether one model ranks alone, what the selection would do to
the domains, and what scoring everything would cost.""",
    nodes=_nodes,
    make=_make,
    table=ALL_FILES,
    checks=(PILOT_SAYS_GO, TEACHER_IS_AHEAD_OF_STUDENTS),
    columns={
        "domain": "of the candidates",
        "share_of_candidate_tokens": "in the pilot",
        "share_of_kept_tokens": "of what the pilot would keep",
        "token_share_change": "after - before",
    },
)
