"""What an experiment may say of tasks: which of lm-evaluation-harness's, and of those made of the held-out text."""

from typing import ClassVar, Final, Literal

from pydantic import Field, model_validator

from miniplm_assets.experiment.scoring import Backend
from miniplm_assets.experiment.settings import Settings

# The nine of the paper (section 3.1), all of them zero-shot, as lm-evaluation-harness names them.
PAPER: Final = "paper"
PAPER_TASKS: Final = (
    "hellaswag",
    "lambada_openai",
    "winogrande",
    "openbookqa",
    "arc_easy",
    "arc_challenge",
    "piqa",
    "social_iqa",
    "storycloze_2018",
)
# Made of the validation split; they need no network.
HELD_OUT_CLOZE: Final = "held_out_cloze"
HELD_OUT_BITS: Final = "held_out_bits_per_byte"
HELD_OUT_TASKS: Final = (HELD_OUT_CLOZE, HELD_OUT_BITS)


class Cloze(Settings):
    """How tasks are made of held-out documents: a piece of each, and how it goes on."""

    num_documents: int = Field(500, ge=1, description="drawn from the validation split, or all where there are fewer")
    context_characters: int = Field(200, ge=1, description="of a document that a model reads")
    continuation_characters: int = Field(80, ge=1, description="that it tells from those of three other documents")


class Tasks(Settings):
    """Tasks that every student is evaluated on, with each of its seeds."""

    runtime_only: ClassVar[frozenset[str]] = frozenset({"folder", "requests_per_batch"})

    names: tuple[str, ...] = Field(
        min_length=1,
        description=f"tasks, groups and tags of lm-evaluation-harness or of your folder; {PAPER}: the nine of the "
        f"paper; {', '.join(HELD_OUT_TASKS)}: made of the validation split",
    )
    num_fewshot: int = Field(0, ge=0, description="examples in front of each question")
    limit: int | None = Field(None, ge=1, description="of each task, the first so many documents; default: all")
    folder: str | None = Field(
        None,
        min_length=1,
        description="task files (YAML) of your own, and the data and the Python files that they name",
    )
    backend: Backend = Field("torch", description="what runs the students")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of the weights and activations")
    requests_per_batch: int = Field(16, ge=1, description="questions, each with one of its answers, at once")
    held_out: Cloze = Cloze()

    @model_validator(mode="after")
    def _each_once(self) -> "Tasks":
        all_names = self.all_names
        twice = sorted({name for name in all_names if all_names.count(name) > 1})
        if twice:
            raise ValueError(
                f"names: {', '.join(twice)} named twice ({PAPER} stands for its nine); name each task once"
            )
        return self

    @property
    def all_names(self) -> tuple[str, ...]:
        """The names, with those that `paper` stands for."""
        return tuple(inner for name in self.names for inner in (PAPER_TASKS if name == PAPER else (name,)))

    @property
    def held_out_names(self) -> tuple[str, ...]:
        """Those of tasks that are made of the validation split."""
        return tuple(name for name in self.all_names if name in HELD_OUT_TASKS)
