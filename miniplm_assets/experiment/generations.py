"""What an experiment may say of a corpus that a teacher writes: SeqKD's, which a student then learns from."""

from typing import ClassVar, Final, Literal

from pydantic import Field, ValidationError, model_validator

from miniplm_assets.experiment.models import Owners, Seed
from miniplm_assets.experiment.scoring import Backend, Dtype, Scoring
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.experiment.student_check import CANDIDATES, selection_of

ONLY_SAMPLED: Final = ("temperature", "top_k", "top_p", "seed")


class Sampling(Settings):
    """How the next token is chosen. As published: the likeliest one."""

    do_sample: bool = Field(False, description="draw each token; else take the likeliest")
    temperature: float = Field(1.0, gt=0, description="of the softmax that is drawn from")
    top_k: int | None = Field(None, ge=1, description="draw from that many of the likeliest alone")
    top_p: float | None = Field(
        None, gt=0, le=1, description="draw from the likeliest alone that together have this probability"
    )
    seed: Seed | None = Field(None, description="of what is drawn; default: the experiment's one")

    @model_validator(mode="after")
    def _greedy_draws_nothing(self) -> "Sampling":
        defaults = type(self).model_fields
        given = [name for name in ONLY_SAMPLED if getattr(self, name) != defaults[name].default]
        if given and not self.do_sample:
            raise ValueError(
                f"{', '.join(given)}: without do_sample the likeliest token is taken, whatever this says; "
                "set do_sample: true, or leave it out"
            )
        return self


class Decoding(Settings):
    """How a teacher continues prompts. What other tokens could come from is part of the fingerprint."""

    runtime_only: ClassVar[frozenset[str]] = frozenset(
        {"device", "sequences_per_part", "tensor_parallel_size", "engine", "num_workers"}
    )

    sampling: Sampling = Sampling()
    backend: Backend = Field(
        "torch", description="vllm is the faster one on an accelerator, and its text not the same from run to run"
    )
    dtype: Dtype = Field("float32", description="of the teacher's weights and activations")
    begin_of_sequence: Literal["model", "none"] = Field(
        "model",
        description="as in scoring: read the token that the teacher's own tokenizer puts in front of every text",
    )
    sequences_per_batch: int = Field(
        64,
        ge=1,
        description="continued side by side. In the fingerprint, since the shape of a batch decides how sums are "
        "rounded, and of two tokens that are as likely as each other, which one is taken",
    )
    device: str = Field("auto", description="a torch device; auto takes the first accelerator, else the CPU")
    sequences_per_part: int = Field(
        1_024, ge=1, description="put away together, in whole blocks of 8 batches; a crash loses two parts at most"
    )
    tensor_parallel_size: int = Field(1, ge=1, description="devices for one model; vllm only")
    engine: Literal["local", "ray"] = Field(
        "local", description="this process on one device, or actors on a Ray cluster, on this machine or many"
    )
    num_workers: int | None = Field(None, ge=1, description="models on the Ray cluster; default: as in scoring")

    @property
    def scoring(self) -> Scoring:
        """The same as far as it is said of scoring, too: where the model runs, and what it reads."""
        return Scoring(**{name: getattr(self, name) for name in Decoding.model_fields.keys() & Scoring.model_fields})

    @model_validator(mode="after")
    def _goes_together_as_in_scoring(self) -> "Decoding":
        try:
            _ = self.scoring
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
        return self


class Generation(Decoding):
    """A corpus that a teacher writes: it continues the first part of each sequence of another one."""

    teacher: str = Field(description="a teacher of this file; the corpus is in the tokens of its tokenizer")
    corpus: str = Field(CANDIDATES, description="what is continued: candidates, or refined_corpus/<selection>")
    prompt_tokens: int | None = Field(
        None, ge=1, description="that are kept of each sequence; default: three quarters of sequences.sequence_length"
    )
    prompt_has_loss: bool = Field(
        True, description="students learn from the prompts too; else from what the teacher wrote alone"
    )
    owners: Owners = ()

    @property
    def selection(self) -> str | None:
        """The selection whose refined corpus is continued, or None for the candidates."""
        return selection_of(self.corpus)

    @property
    def decoding(self) -> Decoding:
        """How it is continued, without what and by whom."""
        return Decoding(**{name: getattr(self, name) for name in Decoding.model_fields})

    def num_prompt_tokens(self, sequence_length: int) -> int:
        """Return how many tokens are kept of each sequence: as published, three quarters of a full one."""
        return sequence_length * 3 // 4 if self.prompt_tokens is None else self.prompt_tokens
