"""What an experiment may say of the loss that a student is trained with."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from miniplm_assets.experiment.settings import Settings


class CrossEntropy(Settings):
    """The cross-entropy of the text: plain pre-training, and MiniPLM's on a refined corpus."""

    type: Literal["cross_entropy"] = "cross_entropy"


class TeacherBeside(Settings):
    """An objective with a teacher that runs beside the student."""

    # What the teacher is, its input says.
    runtime_only: ClassVar[frozenset[str]] = frozenset({"teacher"})

    teacher: str = Field(description="a teacher of this file, with the student's tokenizer")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the teacher's weights and activations")


class FromScores(Settings):
    """An objective that reads what is stored of each of the candidates' own tokens, and runs no model itself."""


class VanillaKd(TeacherBeside):
    """Cross-entropy, and a divergence from the whole distribution of a teacher."""

    type: Literal["vanilla_kd"]
    weight: float = Field(0.5, gt=0, le=1, description="of the divergence; the rest is the cross-entropy's")
    temperature: float = Field(1.0, gt=0, description="of both soft-maxes in the divergence")
    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = Field(
        "forward_kl", description="of the student from the teacher: KL(p || q) as published, KL(q || p), Jensen-Shannon"
    )


class MiniLlm(TeacherBeside):
    """Cross-entropy of the first part of a sequence, and the reverse KL of what the student continues it with."""

    type: Literal["minillm"]
    num_sampled_tokens: int = Field(
        256, ge=1, description="at most, in place of the last ones of a sequence; fewer than sequences.sequence_length"
    )
    teacher_mix: float = Field(0.2, ge=0, lt=1, description="share of the teacher in what tokens are drawn from")
    length_normalised: bool = Field(True, description="whether rewards are means over later tokens, or their sums")
    pretraining_weight: float = Field(1.0, ge=0, description="of the cross-entropy; that of the reverse KL is 1")


class TokenSelection(FromScores):
    """The cross-entropy of the tokens whose difference of teacher and reference is highest."""

    # What the scores are, the inputs say.
    runtime_only: ClassVar[frozenset[str]] = frozenset({"teacher", "reference"})

    type: Literal["token_selection"]
    teacher: str = Field(description="a teacher of this file that keeps the log-probabilities of tokens")
    reference: str = Field(description="a reference of this file that keeps them")
    keep_fraction: float = Field(
        0.6, gt=0, le=1, description="of the predicted tokens of the whole corpus that is learned from; RHO-1 took 0.6"
    )


class SparseKd(FromScores):
    """Cross-entropy, and the forward KL from what a teacher's scores keep of its distribution."""

    # What the teacher's scores are, the input says.
    runtime_only: ClassVar[frozenset[str]] = frozenset({"teacher"})

    type: Literal["sparse_kd"]
    teacher: str = Field(
        description="a teacher of this file, with the student's tokenizer, and keep_tokens in its scoring"
    )
    weight: float = Field(0.5, gt=0, le=1, description="of the divergence; the rest is the cross-entropy's")


# One line an objective; told apart by `type`.
Objective = Annotated[CrossEntropy | VanillaKd | MiniLlm | SparseKd | TokenSelection, Field(discriminator="type")]
