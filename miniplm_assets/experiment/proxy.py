"""What an experiment may say of a proxy: a small model that predicts the differences of most candidates."""

from typing import ClassVar, Literal

from pydantic import Field

from miniplm_assets.experiment.models import ShardPatterns
from miniplm_assets.experiment.settings import Settings


class ProxyTraining(Settings):
    """How a proxy learns from the reference's weights: AdamW, linear warm-up, cosine decay."""

    runtime_only: ClassVar[frozenset[str]] = frozenset({"sequences_per_device", "checkpoint_minutes"})

    token_budget: int = Field(
        ge=1, description="tokens to learn from; the scored ones are repeated where they are fewer"
    )
    sequences_per_step: int = Field(64, ge=1, description="of one update of the weights")
    peak_learning_rate: float = Field(1e-4, gt=0, description="of a model that knows its language already")
    final_learning_rate_share: float = Field(0.1, ge=0, le=1, description="of the peak, at the last step")
    warmup_share: float = Field(0.05, ge=0, lt=1, description="share of the steps that warm up")
    weight_decay: float = Field(0.01, ge=0, description="of matrices; norms and biases keep their size")
    gradient_clip: float = Field(1.0, gt=0, description="largest norm of the gradient of all parameters")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the matrix products; weights are float32")
    sequences_per_device: int | None = Field(None, ge=1, description="at once on a device; default: a whole step")
    checkpoint_minutes: float = Field(10.0, gt=0, description="at most this much work is lost to a crash")


class Proxy(Settings):
    """Teacher and reference score a share of the candidates; a small model that learns it predicts all others.

    The limit is not part of the proxy's fingerprint: to move it trains and predicts nothing again.
    """

    share: float = Field(
        gt=0, lt=1, description="of the candidates, chosen by a hash of the sequence id, that are scored"
    )
    held_out_share: float = Field(0.1, gt=0, lt=1, description="of the scored ones, that the proxy is judged by")
    min_rank_correlation: float = Field(
        0.5,
        ge=-1,
        le=1,
        description="a gate: Spearman of true and predicted differences on the held-out ones. Two references of 104M "
        "and of 500M parameters come to 0.84 (the paper)",
    )
    training: ProxyTraining
    shards: ShardPatterns = Field(
        ("*",),
        description="glob patterns of the corpus files to learn from; name some to keep the proxy as the corpus grows",
    )
