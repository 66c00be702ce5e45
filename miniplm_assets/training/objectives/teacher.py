"""A teacher that runs beside a student: its hidden states for a batch, and its logits a chunk at a time."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from miniplm_assets.core.errors import TrainingError
from miniplm_assets.experiment.objectives import TeacherBeside
from miniplm_assets.experiment.scoring import Scoring
from miniplm_assets.lm.model_folder import load_model
from miniplm_assets.lm.output_head import computed_whole, find_plain_head
from miniplm_assets.training.objectives.objective import Setting
from miniplm_assets.training.objectives.sampling import Reader

if TYPE_CHECKING:
    import torch

# Its role among the inputs.
TEACHER: Final = "teacher"


class Teacher:
    """A frozen model on the device of its student.

    Attributes:
        num_parameters: of it.
    """

    def __init__(self, settings: TeacherBeside, setting: Setting) -> None:
        """Load it.

        Args:
            settings: dtype of its weights and activations.
            setting: its input `teacher`, the student's device, and the tokenizer's ids: logits beyond are padding.

        Raises:
            ModelError: if it cannot be loaded.
            TrainingError: if it knows fewer ids than the tokenizer has.
        """
        teacher, vocab_size = setting.inputs[TEACHER], setting.vocab_size
        assert teacher.folder is not None, "the input of a teacher is a model"
        # One that is spread need not fit a device.
        scoring = Scoring(dtype=settings.dtype, device="cpu" if setting.sharding else str(setting.device))
        self._model: Any = load_model(teacher.folder, scoring, setting.report)
        self._model.requires_grad_(False)
        self._first, self._vocab_size = teacher.begin_of_sequence_id, vocab_size
        num_ids = self._model.get_output_embeddings().weight.shape[0]
        if num_ids < vocab_size:
            raise TrainingError(
                f"{teacher.folder}: the teacher knows {num_ids:,} token ids, the tokenizer has {vocab_size:,}; name "
                "the tokenizer that belongs to the teacher"
            )
        self._head = find_plain_head(self._model)
        if self._head is None:
            setting.report(f"the teacher {teacher.folder}: {computed_whole(self._model)}")
        self.num_parameters = sum(parameter.numel() for parameter in self._model.parameters())
        if setting.sharding is not None:
            setting.sharding.shard_frozen(self._model)
            if self._head is not None:  # what moved to the device is what it is now
                head = self._model.get_output_embeddings()
                self._head = replace(self._head, weight=head.weight, bias=head.bias)

    def reader(self) -> Reader:
        """Return what reads the texts of a batch a token at a time, nothing of them as yet."""
        return Reader(self._model, vocab_size=self._vocab_size, begin_of_sequence_id=self._first, keeps_dtype=True)

    def states(self, input_ids: "torch.Tensor", positions: "torch.Tensor") -> "torch.Tensor":
        """Return what `logits` takes: a row for each position, on the device.

        Args:
            input_ids: int64 of shape (sequences, width).
            positions: int64 of shape (num_predicted,), places in the flattened inputs.
        """
        import torch

        with torch.no_grad(), torch.autocast(input_ids.device.type, enabled=False):
            if self._first is not None:
                first = torch.full_like(input_ids[:, :1], self._first)
                input_ids = torch.cat([first, input_ids], dim=1)
            if self._head is None:
                states = self._model(input_ids=input_ids, use_cache=False).logits
            else:
                states = self._head.body(input_ids=input_ids, use_cache=False)[0]
            if self._first is not None:
                states = states[:, 1:]
            return torch.flatten(states, 0, 1).index_select(0, positions)

    def logits(self, states: "torch.Tensor") -> "torch.Tensor":
        """Return the logits of the tokenizer's ids, in the teacher's dtype, a tensor of its own."""
        import torch

        with torch.no_grad(), torch.autocast(states.device.type, enabled=False):
            if self._head is None:
                return states[:, : self._vocab_size].clone()
            logits = torch.mm(states.to(self._head.weight.dtype), self._head.weight[: self._vocab_size].T)
            if self._head.bias is not None:
                logits += self._head.bias[: self._vocab_size]
            return logits


def teacher_input(settings: TeacherBeside) -> Mapping[str, tuple[str, str]]:
    """Return what an objective with a teacher needs beside the sequences; see `ObjectiveKind.inputs`."""
    return {TEACHER: ("teacher_model", settings.teacher)}


def log_softmax_(logits: "torch.Tensor", temperature: float = 1.0) -> "torch.Tensor":
    """Turn logits, float32 of shape (tokens, vocab_size), into log softmax(logits / temperature) in place."""
    if temperature != 1:
        logits /= temperature
    logits -= logits.amax(dim=1, keepdim=True)
    return logits.sub_(logits.exp().sum(dim=1, keepdim=True).log_())
