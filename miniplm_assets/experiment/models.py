"""What an experiment may say of tokenizers and models: where they come from, or how they are trained here."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from miniplm_assets.experiment.scoring import Scoring
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.experiment.sources import CommitHash


class HubTokenizer(Settings):
    """A tokenizer on the Hugging Face hub."""

    source: Literal["hub"]
    id: str = Field(description="such as Qwen/Qwen1.5-1.8B")
    revision: CommitHash


class FolderTokenizer(Settings):
    """A tokenizer in a folder, as `save_pretrained` writes it. Its content counts, not its place."""

    runtime_only: ClassVar[frozenset[str]] = frozenset({"path"})

    source: Literal["folder"]
    path: str = Field(description="the folder")


Seed = Annotated[int, Field(ge=0, lt=2**63)]
Owners = Annotated[
    tuple[Annotated[str, Field(pattern=r"^(team:.+|[^@\s]+@[^@\s]+)$")], ...],
    Field(description="who answers for it, shown in the UI: e-mail addresses, or team:<name>"),
]
ShardPatterns = Annotated[
    tuple[str, ...],
    Field(
        min_length=1,
        description="glob patterns of the corpus files to learn from; name some to keep what was learnt as the corpus "
        "grows",
    ),
]


class TrainedTokenizer(Settings):
    """A byte-level BPE tokenizer, trained here on the reference split. What its shards hold is an input of it."""

    runtime_only: ClassVar[frozenset[str]] = frozenset({"shards"})

    source: Literal["trained"]
    vocab_size: int = Field(ge=257, description="256 bytes, the end-of-document token, and merges")
    shards: ShardPatterns = ("*",)


TokenizerSource = Annotated[HubTokenizer | FolderTokenizer | TrainedTokenizer, Field(discriminator="source")]


# Those of transformers, but for neptune, whose callback breaks; TensorBoard's files are written in any case.
Reporter = Literal[
    "azure_ml",
    "clearml",
    "codecarbon",
    "comet_ml",
    "dagshub",
    "dvclive",
    "flyte",
    "kubeflow",
    "mlflow",
    "swanlab",
    "trackio",
    "wandb",
]


class Training(Settings):
    """How a model is trained from scratch: AdamW, linear warm-up, cosine decay."""

    runtime_only: ClassVar[frozenset[str]] = frozenset(
        {
            "sequences_per_device",
            "gradient_checkpointing",
            "compile",
            "num_processes",
            "num_nodes",
            "parallelism",
            "max_loss_rise_nats_per_token",
            "checkpoint_minutes",
            "reporters",
        }
    )
    reporting_only: ClassVar[frozenset[str]] = frozenset({"num_evaluations", "num_held_out_sequences"})

    token_budget: int = Field(ge=1, description="tokens to train on; the data is repeated where it holds fewer")
    sequences_per_step: int = Field(512, ge=1, description="of one update of the weights")
    peak_learning_rate: float = Field(6e-4, gt=0, description="at the end of the warm-up")
    final_learning_rate_share: float = Field(0.1, ge=0, le=1, description="of the peak, at the last step")
    warmup_share: float = Field(0.02, ge=0, lt=1, description="share of the steps that warm up")
    beta1: float = Field(0.9, ge=0, lt=1, description="of AdamW: decay of the mean of the gradients")
    beta2: float = Field(0.98, ge=0, lt=1, description="of AdamW: decay of the mean of their squares")
    epsilon: float = Field(1e-6, gt=0, description="of AdamW: added to the divisor")
    weight_decay: float = Field(0.01, ge=0, description="of matrices, decoupled: times the learning rate")
    decay_norms_and_biases: bool = Field(
        False, description="weight decay on all parameters, as published; else norms and biases keep their size"
    )
    gradient_clip: float = Field(1.0, gt=0, description="largest norm of the gradient of all parameters")
    loss_mean_over: Literal["tokens", "sequences"] = Field(
        "tokens",
        description="of a step: each token weighs the same; or each sequence, by its tokens' mean, as published",
    )
    later_epochs: Literal["reshuffled", "repeated"] = Field(
        "reshuffled", description="order of the data after its first time: another one; or the same, as published"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32",
        description="of the matrix products; weights are float32 in each. float16 as published, its loss scaled; it "
        "needs an accelerator",
    )
    num_evaluations: int = Field(20, ge=1, description="held-out losses along the way, the last one at the end")
    num_held_out_sequences: int = Field(512, ge=1, description="validation sequences for those, chosen by seed")
    sequences_per_device: int | None = Field(
        None, ge=1, description="at once on a device; default: its share of a step"
    )
    gradient_checkpointing: bool = Field(
        False,
        description="compute a layer again for its gradient in place of keeping it: less memory, a third more time",
    )
    compile: bool = Field(
        False, description="let torch compile the layers: a minute at the start, less time and memory for each step"
    )
    num_processes: int = Field(
        1, ge=1, description="that share each step, a device for each; on a CPU they share the cores"
    )
    num_nodes: int = Field(
        1,
        ge=1,
        description="of the Ray cluster that RAY_ADDRESS names, among which the processes are dealt out; 1: this "
        "machine",
    )
    parallelism: Literal["ddp", "fsdp"] = Field(
        "ddp", description="of those: the whole model on each device; or a part of it, gathered where it is computed"
    )
    checkpoint_minutes: float = Field(10.0, gt=0, description="at most this much work is lost to a crash")
    max_loss_rise_nats_per_token: float | None = Field(
        None,
        gt=0,
        description="of a step above the median of the 100 before it: more ends the training, as a loss that is not "
        "finite does; the checkpoint before is kept",
    )
    reporters: tuple[Reporter, ...] = Field(
        (), description="who is told of the losses beside TensorBoard, by transformers; each is set up by its own means"
    )

    @model_validator(mode="after")
    def _a_sequence_for_each_process(self) -> Self:
        if self.num_processes > self.sequences_per_step:
            raise ValueError(
                f"num_processes is {self.num_processes}, but a step has {self.sequences_per_step} sequences to share; "
                "lower num_processes, or raise sequences_per_step"
            )
        if self.num_processes % self.num_nodes:
            raise ValueError(
                f"num_processes is {self.num_processes}, of which {self.num_nodes} nodes cannot have as many each; set "
                "it to a multiple of num_nodes"
            )
        if self.parallelism == "fsdp" and self.dtype == "float16":
            raise ValueError("parallelism fsdp scales no loss, which dtype float16 needs; set dtype to bfloat16")
        return self

    @property
    def num_devices_here(self) -> int:
        """How many devices of this machine it takes; 0 where it runs on other ones."""
        return self.num_processes if self.num_nodes == 1 else 0


class LastCheckpoints(Settings):
    """The last states of a training, over which losses are averaged: less of chance is in them than in the last one."""

    number: int = Field(ge=2, description="of them, the end among them")
    apart: float = Field(0.02, gt=0, lt=1, description="share of the steps between two of them")

    @model_validator(mode="after")
    def _within_the_training(self) -> "LastCheckpoints":
        if (self.number - 1) * self.apart >= 1:
            raise ValueError(f"{self.number} states {self.apart:g} of the steps apart begin before the training does")
        return self


class StudentTraining(Training):
    """How a student is trained: on a number of tokens, or on as many as cost what another student costs."""

    # What the other student costs follows from its settings, which the student's own say.
    runtime_only: ClassVar[frozenset[str]] = Training.runtime_only | {"same_flops_as"}

    token_budget: int | None = Field(  # type: ignore[assignment]
        None, ge=1, description="tokens to train on; the data is repeated where it holds fewer"
    )
    same_flops_as: str | None = Field(
        None, description="in place of a token budget: the student whose training FLOPs this one may use"
    )
    last_checkpoints: LastCheckpoints | None = Field(
        None, description="whose held-out losses are averaged; their weights are stored. Default: the last one alone"
    )

    @model_validator(mode="after")
    def _one_measure(self) -> "StudentTraining":
        if (self.token_budget is None) == (self.same_flops_as is None):
            raise ValueError("give token_budget or same_flops_as, and only one of them")
        return self

    def on(self, token_budget: int) -> Training:
        """Return the same training on a number of tokens."""
        settings = self.model_dump(exclude={"same_flops_as", "last_checkpoints"})
        return Training.model_validate(settings | {"token_budget": token_budget})


class HubModel(Settings):
    """A causal language model on the Hugging Face hub."""

    runtime_only: ClassVar[frozenset[str]] = frozenset({"num_parameters"})

    source: Literal["hub"]
    id: str = Field(description="such as Qwen/Qwen1.5-1.8B")
    revision: CommitHash
    num_parameters: int | None = Field(None, ge=1, description="for plans only, until the model is here")


class FolderModel(Settings):
    """A causal language model in a folder, as `save_pretrained` writes it. Its content counts, not its place."""

    runtime_only: ClassVar[frozenset[str]] = frozenset({"path"})

    source: Literal["folder"]
    path: str = Field(description="the folder")


class TrainedModel(Settings):
    """A causal language model, trained here from scratch. What its shards hold is an input of it."""

    runtime_only: ClassVar[frozenset[str]] = frozenset({"shards"})

    source: Literal["trained"]
    architecture: str = Field(description="of architectures")
    training: Training
    shards: ShardPatterns = ("*",)


ModelSource = Annotated[HubModel | FolderModel | TrainedModel, Field(discriminator="source")]


class Scored(Settings):
    """A model that scores the corpus: a teacher or a reference."""

    model: ModelSource = Field(description="where it is from")
    tokenizer: str = Field(description="of tokenizers: the one that it has learnt with")
    scoring: Scoring = Scoring()
    owners: Owners = ()
