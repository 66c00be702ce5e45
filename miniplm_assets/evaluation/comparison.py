"""Students side by side: who learned more from the same tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from miniplm_assets.core.curves import tokens_saved_factor, tokens_to_loss
from miniplm_assets.core.errors import TrainingError
from miniplm_assets.core.flops import training_flops
from miniplm_assets.evaluation.held_out import ALL_DOMAINS

SCHEMA = {
    "student": pl.String,
    "corpus": pl.String,
    "num_parameters": pl.Int64,
    "num_tokens": pl.Int64,
    "held_out_nll_nats_per_token": pl.Float64,
    "bits_per_byte": pl.Float64,
    "tokens_to_baseline_loss": pl.Float64,
    "tokens_saved_factor": pl.Float64,
    "training_flops": pl.Float64,
}


@dataclass(frozen=True, kw_only=True)
class SelectionRecord:
    """How a refined corpus came about.

    Attributes:
        name: of the selection.
        kept_share: kept share of the candidate sequences, in (0, 1].
        teacher_nll_nats_per_token: held-out loss of its teacher.
        reference_nll_nats_per_token: held-out loss of its reference.
        domain_shift: domain, share_of_candidate_tokens, share_of_kept_tokens.
    """

    name: str
    kept_share: float
    teacher_nll_nats_per_token: float
    reference_nll_nats_per_token: float
    domain_shift: pl.DataFrame


@dataclass(frozen=True, kw_only=True)
class StudentRecord:
    """What is known of a trained student.

    Attributes:
        name: of the student.
        corpus: ``candidates`` or ``refined_corpus/<selection>``.
        tokenizer: its name; losses per token are compared within one tokenizer only.
        num_parameters: of the student.
        num_epochs: how often it went through its corpus.
        training_log: as `train_language_model` writes it.
        held_out: as `held_out_table` returns it.
        selection: where its corpus is a refined one.
    """

    name: str
    corpus: str
    tokenizer: str
    num_parameters: int
    num_epochs: float
    training_log: pl.DataFrame
    held_out: pl.DataFrame
    selection: SelectionRecord | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens that it was trained on."""
        return int(self.training_log["num_tokens"][-1])

    @property
    def curve(self) -> pl.DataFrame:
        """num_tokens and held_out_nll_nats_per_token of every evaluation during the training."""
        measured = self.training_log.filter(pl.col("held_out_nll_nats_per_token").is_not_null())
        return measured.select("num_tokens", "held_out_nll_nats_per_token")

    def overall(self, column: str) -> float:
        """Return a value of the held-out table over all domains."""
        return float(self.held_out.filter(domain=ALL_DOMAINS)[column].item())


def comparison_table(students: Sequence[StudentRecord], *, baseline: str) -> pl.DataFrame:
    """Put students side by side, the baseline first, then by held-out bits per byte.

    Args:
        students: all of them.
        baseline: name of the student that the others are held against.

    Returns:
        A row a student, columns as in `SCHEMA`. tokens_to_baseline_loss: tokens after which its held-out loss
        first reached the baseline's final one; null where it never did, or has another tokenizer.
        tokens_saved_factor: the baseline's tokens by those.

    Raises:
        TrainingError: if there is no student of the baseline's name.
    """
    base = find_student(students, baseline)
    rows = []
    for student in students:
        needed = tokens_to_baseline_loss(student, base)
        rows.append(
            {
                "student": student.name,
                "corpus": student.corpus,
                "num_parameters": student.num_parameters,
                "num_tokens": student.num_tokens,
                "held_out_nll_nats_per_token": student.overall("nll_nats_per_token"),
                "bits_per_byte": student.overall("bits_per_byte"),
                "tokens_to_baseline_loss": needed,
                "tokens_saved_factor": tokens_saved_factor(
                    baseline_tokens=base.num_tokens, tokens_to_baseline_loss=needed
                ),
                # float: 6 N D of a real model does not fit into 64 bits
                "training_flops": float(training_flops(student.num_parameters, student.num_tokens)),
            }
        )
    table = pl.DataFrame(rows, schema=SCHEMA)
    return table.sort(pl.col("student") != baseline, "bits_per_byte", "student")


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


def tokens_to_baseline_loss(student: StudentRecord, baseline: StudentRecord) -> float | None:
    """Return the tokens after which a student reached the baseline's final held-out loss during its training."""
    if student.tokenizer != baseline.tokenizer:
        return None
    return tokens_to_loss(
        student.curve["num_tokens"].to_list(),
        student.curve["held_out_nll_nats_per_token"].to_list(),
        target_nats_per_token=float(baseline.curve["held_out_nll_nats_per_token"][-1]),
    )
