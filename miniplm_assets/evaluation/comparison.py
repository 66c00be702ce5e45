"""Students side by side: who learned more from the same tokens."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import polars as pl

from miniplm_assets.core.curves import tokens_saved_factor, tokens_to_loss
from miniplm_assets.core.errors import TrainingError

SCHEMA = {
    "student": pl.String,
    "baseline": pl.String,
    "seed": pl.Int64,
    "corpus": pl.String,
    "num_parameters": pl.Int64,
    "num_tokens": pl.Int64,
    "validation_nll_nats_per_token": pl.Float64,
    "bits_per_byte": pl.Float64,
    "sample_nll_nats_per_token": pl.Float64,
    "tokens_to_baseline_loss": pl.Float64,
    "tokens_saved_factor": pl.Float64,
    "training_flops": pl.Float64,
    "in_context_gain": pl.Float64,
}


@dataclass(frozen=True, kw_only=True)
class SelectionRecord:
    """How a refined corpus came about.

    Attributes:
        name: of the selection.
        is_control: whether it is made by chance, or to fail: nothing is then advised.
        kept_share: kept share of the candidate sequences, in (0, 1].
        teacher_nll_nats_per_token: held-out loss of its teacher; None where it asks none.
        reference_nll_nats_per_token: held-out loss of its reference; None where it asks none.
        domain_shift: domain, share_of_candidate_tokens, share_of_kept_tokens.
    """

    name: str
    kept_share: float
    teacher_nll_nats_per_token: float | None
    reference_nll_nats_per_token: float | None
    domain_shift: pl.DataFrame
    is_control: bool = False


@dataclass(frozen=True, kw_only=True)
class StudentRun:
    """A student as one of its seeds made it.

    Attributes:
        seed: of its weights and of the order of its sequences.
        num_epochs: how often it went through its corpus.
        measured_by: num_evaluations and num_held_out_sequences that its losses along the way were measured by.
        training_flops: what training it took.
        training_log: as `train_language_model` writes it.
        held_out_log: the losses along the way, by domain, as it writes them.
        held_out: as `held_out_table` returns it.
        groups: nll_nats, num_scored_tokens and num_scored_bytes of the held-out sequences that count, by group; see
            `core.resampling`.
        in_context_gain: nats a token by which long contexts lower its loss; None where it was not measured.
    """

    seed: int
    num_epochs: float
    measured_by: Mapping[str, int]
    training_flops: int
    training_log: pl.DataFrame
    held_out_log: pl.DataFrame
    held_out: pl.DataFrame
    groups: pl.DataFrame
    in_context_gain: float | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens that it was trained on."""
        return int(self.training_log["num_tokens"][-1])

    def curve(self, excluded_domains: Collection[str]) -> pl.DataFrame:
        """Return num_tokens and held_out_nll_nats_per_token of every evaluation along the way.

        Raises:
            TrainingError: if no domain is left to measure on.
        """
        counted = self.held_out_log.filter(
            ~pl.col("domain").is_in(list(excluded_domains)), pl.col("num_scored_tokens") > 0
        )
        if counted.is_empty():
            raise TrainingError(
                f"seed {self.seed}: no held-out sequence of the losses along the way is left, since "
                f"evaluation.excluded_domains leaves out {', '.join(sorted(excluded_domains)) or 'nothing'}; exclude "
                "fewer domains, or raise training.num_held_out_sequences"
            )
        return (
            counted.group_by("num_tokens")
            .agg(held_out_nll_nats_per_token=pl.col("nll_nats").sum() / pl.col("num_scored_tokens").sum())
            .sort("num_tokens")
        )

    def overall(self, column: str) -> float:
        """Return a value of the held-out table over all domains that count."""
        return float(self.held_out.filter("is_total")[column].item())

    @property
    def total_is_over(self) -> str:
        """What the totals are over: all domains, or all but some."""
        return str(self.held_out.filter("is_total")["domain"].item())


@dataclass(frozen=True, kw_only=True)
class StudentRecord:
    """What is known of a trained student.

    Attributes:
        name: of the student.
        corpus: ``candidates`` or ``refined_corpus/<selection>``.
        tokenizer: its name; losses per token are compared within one tokenizer only.
        num_parameters: of the student.
        runs: one for each of its seeds, at least one.
        selection: where its corpus is a refined one.
        is_retokenised: whether the models of that selection have another tokenizer, so that their losses per token are
            not to be compared with its own.
        made_with: what beside corpus and seed made it, by setting: its architecture, training and objective.
    """

    name: str
    corpus: str
    tokenizer: str
    num_parameters: int
    runs: tuple[StudentRun, ...]
    selection: SelectionRecord | None = None
    is_retokenised: bool = False
    made_with: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        """Tokens that it was trained on, the mean over its seeds, which differ by less than a step."""
        return round(fmean(run.num_tokens for run in self.runs))

    @property
    def num_epochs(self) -> float:
        """How often it went through its corpus."""
        return self.runs[0].num_epochs

    def mean(self, column: str) -> float:
        """Return the mean over its seeds of a value of the held-out table, over all domains that count."""
        return fmean(run.overall(column) for run in self.runs)

    def final_curve_loss(self, excluded_domains: Collection[str]) -> float:
        """Return the mean over its seeds of the last loss along the way, in nats a token: that of the sample."""
        return fmean(float(run.curve(excluded_domains)["held_out_nll_nats_per_token"][-1]) for run in self.runs)

    @property
    def nll_over_all_domains(self) -> float:
        """Its loss over all held-out text in nats a token, also of what the totals leave out."""
        nats, tokens = self.held_out.select(pl.col("nll_nats", "num_scored_tokens").sum()).row(0)
        return float(nats) / float(tokens)

    @property
    def held_out(self) -> pl.DataFrame:
        """Return domain, nll_nats and num_scored_tokens of all its seeds, added up; without the totals."""
        tables = pl.concat(
            run.held_out.filter(~pl.col("is_total")).select("domain", "nll_nats", "num_scored_tokens")
            for run in self.runs
        )
        return tables.group_by("domain", maintain_order=True).agg(pl.all().sum())


def comparison_table(
    students: Sequence[StudentRecord], *, baseline: str | None, excluded_domains: Collection[str] = ()
) -> pl.DataFrame:
    """Put students side by side, the baseline first, then by the mean of their held-out bits per byte.

    Args:
        students: all of them.
        baseline: name of the student that the others are held against; None where they are held against none.
        excluded_domains: left out of the losses along the way, as they are of the totals.

    Returns:
        One row for each student and seed, columns as in `SCHEMA`. validation_nll_nats_per_token and bits_per_byte: of
        the whole validation split. sample_nll_nats_per_token: at the end of the losses along the way, on a sample of
        it. tokens_to_baseline_loss: tokens after which that loss first reached the baseline's final one (the mean of
        its seeds); null where it never did, or has another tokenizer, or is held against none. tokens_saved_factor:
        the baseline's tokens by those.

    Raises:
        TrainingError: if there is no student of the baseline's name.
    """
    base = None if baseline is None else find_student(students, baseline)
    rows = []
    for student in sorted(students, key=lambda one: (one is not base, one.mean("bits_per_byte"), one.name)):
        for run in sorted(student.runs, key=lambda one: one.seed):
            needed = None if base is None else tokens_to_baseline_loss(student, run, base, excluded_domains)
            factor = base and tokens_saved_factor(baseline_tokens=base.num_tokens, tokens_to_baseline_loss=needed)
            rows.append(
                {
                    "student": student.name,
                    "baseline": baseline,
                    "seed": run.seed,
                    "corpus": student.corpus,
                    "num_parameters": student.num_parameters,
                    "num_tokens": run.num_tokens,
                    "validation_nll_nats_per_token": run.overall("nll_nats_per_token"),
                    "bits_per_byte": run.overall("bits_per_byte"),
                    "sample_nll_nats_per_token": run.curve(excluded_domains)["held_out_nll_nats_per_token"][-1],
                    "tokens_to_baseline_loss": needed,
                    "tokens_saved_factor": factor,
                    "training_flops": float(run.training_flops),  # that of a real model does not fit into 64 bits
                    "in_context_gain": run.in_context_gain,
                }
            )
    return pl.DataFrame(rows, schema=SCHEMA)


def find_student(students: Sequence[StudentRecord], name: str) -> StudentRecord:
    """Return the student of a name.

    Raises:
        TrainingError: if there is none.
    """
    for student in students:
        if student.name == name:
            return student
    known = ", ".join(student.name for student in students)
    raise TrainingError(f"baseline '{name}' is none of the trained students ({known})")


def tokens_to_baseline_loss(
    student: StudentRecord, run: StudentRun, baseline: StudentRecord, excluded_domains: Collection[str]
) -> float | None:
    """Return the tokens after which a run of a student reached the baseline's final held-out loss along the way."""
    if student.tokenizer != baseline.tokenizer:
        return None
    return tokens_along(run.curve(excluded_domains), baseline.final_curve_loss(excluded_domains))


def tokens_along(curve: pl.DataFrame, target_nats_per_token: float) -> float | None:
    """Return the tokens after which a curve, as `StudentRun.curve` returns it, first reached a loss; None: never."""
    return tokens_to_loss(
        curve["num_tokens"].to_list(),
        curve["held_out_nll_nats_per_token"].to_list(),
        target_nats_per_token=target_nats_per_token,
    )


def by_baseline(baselines: Mapping[str, str | None]) -> dict[str, list[str]]:
    """Return the students to compare by their baseline, which comes first.

    Args:
        baselines: of each student, by its name; None where it names none.
    """
    groups: dict[str, list[str]] = {}
    for name, baseline in baselines.items():
        if baseline is not None:
            groups.setdefault(baseline, [baseline]).append(name)
    return groups


def unmeasured(students: Iterable[StudentRecord], asked: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """Say which runs were measured less along the way than is asked for now.

    Args:
        students: as they are stored.
        asked: of each, by name, the settings that `StudentRun.measured_by` holds.
    """
    for student in students:
        for run in student.runs:
            less = [
                f"{setting} {run.measured_by[setting]}, where {number} is asked for now"
                for setting, number in asked[student.name].items()
                if run.measured_by[setting] < number
            ]
            if less:
                yield (
                    f"{student.name}, seed {run.seed}, was measured along the way by {' and '.join(less)}; delete its "
                    "stored result to train it again."
                )
