"""What an experiment may say of scoring: how, where, and the gates before and after."""

from typing import Any, ClassVar, Final, Literal

from pydantic import Field, model_validator

from miniplm_assets.experiment.settings import Settings

Backend = Literal["torch", "vllm"]
Dtype = Literal["float32", "bfloat16", "float16"]
BYTES_PER_VALUE: Final[dict[str, int]] = {"float32": 4, "bfloat16": 2, "float16": 2}


class KeepTokens(Settings):
    """Tokens of the model's own distribution that are kept for each scored token: what sparse_kd learns from."""

    method: Literal["sampled", "top_k"] = Field(
        "sampled",
        description="sampled: drawn with replacement by their probability; top_k: the most likely ones, which leave "
        "the rest of the distribution out",
    )
    number: int = Field(12, ge=1, description="of ids for each scored token; each takes about 3 bytes of disk")
    seed: int = Field(0, ge=0, lt=2**63, description="of the draws, with the sequence and the place in it")

    @model_validator(mode="after")
    def _seed_only_where_drawn(self) -> "KeepTokens":
        if self.method == "top_k" and self.seed != 0:
            raise ValueError("seed needs method sampled; top_k draws nothing, so leave it out")
        return self


class Scoring(Settings):
    """How the sequences are scored. The backend and the dtype are part of a score's fingerprint."""

    runtime_only: ClassVar[frozenset[str]] = frozenset(
        {"device", "tokens_per_batch", "sequences_per_part", "tensor_parallel_size", "compile", "engine", "num_workers"}
    )

    backend: Backend = Field("torch", description="what runs the model; vllm needs an extra, and is for accelerators")
    dtype: Dtype = Field("float32", description="of the weights and activations; the published scores are of float16")
    begin_of_sequence: Literal["model", "none"] = Field(
        "model",
        description="model: read the token that the model's own tokenizer puts in front of every text, as it learnt "
        "them, where it puts one; a model that is trained here learns without. none: read nothing in front",
    )
    score_after_end_of_document: bool = Field(False, description="as published, the token after one has no loss")
    keep_token_logprobs: bool = Field(
        False, description="keep the log-probability of every scored token too, in float16: 2 bytes a token of disk"
    )
    keep_tokens: KeepTokens | None = Field(
        None, description="keep ids of the model's own distribution too, for students with objective sparse_kd"
    )
    device: str = Field("auto", description="a torch device; auto takes the first accelerator, else the CPU")
    tokens_per_batch: int = Field(16_384, ge=1, description="at once on a device, padding included")
    sequences_per_part: int = Field(
        4_096,
        ge=1,
        description="put away together; a crash loses one part a device, and one more",
    )
    tensor_parallel_size: int = Field(1, ge=1, description="devices for one model; vllm only")
    compile: bool | None = Field(
        None, description="let vLLM compile the model at start-up; default: where the model is large enough to repay it"
    )

    engine: Literal["local", "ray"] = Field(
        "local", description="this process on one device, or actors on a Ray cluster, on this machine or many"
    )
    num_workers: int | None = Field(
        None, ge=1, description="scorers on the Ray cluster; default: one a device, or one a node where there is none"
    )

    @model_validator(mode="after")
    def _workers_only_with_ray(self) -> "Scoring":
        if self.engine == "local" and self.num_workers is not None:
            raise ValueError("num_workers needs engine ray; the local engine is one scorer")
        return self

    @model_validator(mode="after")
    def _some_only_with_vllm(self) -> "Scoring":
        if self.backend == "torch" and self.tensor_parallel_size > 1:
            raise ValueError(
                f"tensor_parallel_size {self.tensor_parallel_size} needs backend vllm; torch scores on one device"
            )
        if self.backend == "torch" and self.compile is not None:
            raise ValueError("compile needs backend vllm; torch runs the model as it is")
        return self

    @model_validator(mode="after")
    def _keeps_tokens_only_with_torch(self) -> "Scoring":
        if self.backend == "vllm" and self.keep_tokens is not None:
            raise ValueError(
                "keep_tokens needs backend torch; vllm gives the log-probabilities of a few likely tokens, not the "
                "whole distribution that ids are drawn from. Set backend: torch, or leave keep_tokens out"
            )
        return self

    def by(self, backend: Backend | None, dtype: Dtype | None) -> "Scoring":
        """Return the same scoring by another backend or in another dtype; None leaves either as it is."""
        changes: dict[str, Any] = {"keep_token_logprobs": False, "keep_tokens": None}
        if dtype is not None:
            changes["dtype"] = dtype
        if backend is not None and backend != self.backend:
            changes |= {"backend": backend, "device": "auto", "tensor_parallel_size": 1, "compile": None}
        return Scoring.model_validate(self.model_dump() | changes)


class OtherScoring(Settings):
    """A second way to score: what it does not name is as the first."""

    backend: Backend | None = Field(None, description="default: that of the first")
    dtype: Dtype | None = Field(None, description="default: that of the first")

    @model_validator(mode="after")
    def _names_something(self) -> "OtherScoring":
        if self.backend is None and self.dtype is None:
            raise ValueError("give backend, dtype or both: what the second scoring does in another way")
        return self


COARSE_LIMITS: Final = {
    "max_mean_difference_nats_per_token": 0.02,
    "max_difference_nats_per_token": 0.2,
    "min_rank_correlation": 0.98,
    "max_flip_share": 0.02,
}
FLOAT32_LIMITS: Final = {
    "max_mean_difference_nats_per_token": 1e-4,
    "max_difference_nats_per_token": 1e-3,
    "min_rank_correlation": 0.9999,
    "max_flip_share": 0.002,
}


class Agreement(OtherScoring):
    """A gate before the refined corpus: a sample is scored a second time, in another way, and must agree.

    The limits are not part of the sample's fingerprint: to move one scores nothing again.
    """

    num_random: int = Field(512, ge=16, description="candidates of the whole corpus; the limits hold for these")
    num_around_cutoff: int = Field(512, ge=0, description="candidates next to the cutoff, where selections flip")
    max_mean_difference_nats_per_token: float | None = Field(
        None,
        gt=0,
        description="default: 0.02, since bfloat16 rounds a logit to 1 in 256, which a sequence averages to some "
        "thousandths of a nat, and more is another computation: other weights, other tokens, another mask. Of float32 "
        "and float32 1e-4, which each backend keeps to of float64",
    )
    max_difference_nats_per_token: float | None = Field(
        None,
        gt=0,
        description="of the worst sequence; default: 0.2, a tenth of what tells kept from dropped text in the paper. "
        "Of float32 and float32 1e-3",
    )
    min_rank_correlation: float | None = Field(
        None,
        ge=-1,
        le=1,
        description="Spearman; default: 0.98, since references of 104M and 200M parameters differ more (0.84 to 0.88). "
        "Of float32 and float32 0.9999",
    )
    max_flip_share: float | None = Field(
        None,
        ge=0,
        le=1,
        description="whose selection would change; default: 0.02, since another size of reference changes 10 to 20 in "
        "100 (the paper). Of float32 and float32 0.002, one in the default sample",
    )

    def limits(self, *, is_float32: bool) -> dict[str, float]:
        """Return the limits: those that are named, else those of float32 against float32, or of anything coarser."""
        defaults = FLOAT32_LIMITS if is_float32 else COARSE_LIMITS
        named = {name: getattr(self, name) for name in defaults}
        return {name: default if named[name] is None else named[name] for name, default in defaults.items()}


class Rescoring(OtherScoring):
    """A second pass: the candidates around another selection's cutoff are scored again, more exactly."""

    around: str = Field(description="the selection of the first pass: same teacher, reference, amount and ranking")
    within_nats: float = Field(gt=0, description="distance from the cutoff, in the unit of rank_by")


class Pilot(Settings):
    """A pilot before the whole corpus is scored: a share of the candidates, and a verdict.

    The limits are not part of the scores' fingerprint: to move one scores nothing again.
    """

    share: float = Field(gt=0, lt=1, description="of the candidates, chosen by a hash of the sequence id")
    max_share_below_zero: float = Field(
        0.5,
        ge=0,
        le=1,
        description="of sequences that the teacher finds harder than the reference; beyond half it is the weaker model",
    )
    min_spread_nats_per_token: float = Field(
        0.05, ge=0, description="standard deviation of the differences; less is near the rounding of bfloat16"
    )
    max_rank_correlation_with_one_model: float = Field(
        0.95,
        ge=0,
        le=1,
        description="Spearman of the differences with either model's own losses; beyond it that model ranks alone, as "
        "the 4B teacher of the paper's ablation",
    )
