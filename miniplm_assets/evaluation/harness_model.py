"""A student as lm-evaluation-harness asks it: the harness's own models, given ours, and stopped between batches."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch  # noqa: TID253 - nobody imports this module before a task is evaluated
import transformers  # noqa: TID253 - as above
from lm_eval.api.model import TemplateLM  # noqa: TID253 - as above
from lm_eval.models.huggingface import HFLM  # noqa: TID253 - as above

from miniplm_assets.core.doors import explained_as
from miniplm_assets.core.errors import ModelError, TaskError
from miniplm_assets.experiment import Scoring, Tasks
from miniplm_assets.lm.memory import give_memory_back, kept_memory
from miniplm_assets.lm.model_folder import load_model
from miniplm_assets.lm.scorer import require_vllm

SECONDS_BETWEEN_REPORTS: Final = 15.0


class Requests:
    """What goes through a model for one task, told as it does.

    Attributes:
        named: the task.
        num_requests: questions with one of their answers, or windows of a text, so far.
        num_truncated: of those, longer than what the model reads, so that their beginning was left out.
        num_passed: of those, through the model.
    """

    def __init__(self, report: Callable[[str], None], look: Callable[[], None]) -> None:
        self._report, self._look = report, look
        self.begin("")

    def begin(self, named: str) -> None:
        """Count from nothing, for the next task."""
        self.named = named
        self.num_requests = self.num_truncated = self.num_passed = 0
        self._told = time.monotonic()

    def come(self, requests: Sequence[tuple[Any, list[int], list[int]]], max_tokens: int) -> None:
        """Take requests, before any of them is computed.

        Args:
            requests: each of its text, the tokens before, and the tokens that are asked for.
            max_tokens: that the model reads.

        Raises:
            TaskError: if what is asked for alone is longer than that.
        """
        self.num_requests += len(requests)
        for _, before, asked in requests:
            if len(asked) > max_tokens:
                raise TaskError(
                    f"task {self.named}: an answer of {len(asked):,} tokens is longer than the {max_tokens:,} that the "
                    "student has learnt to read (sequences.sequence_length); leave the task out"
                )
            self.num_truncated += len(before) + len(asked) > max_tokens + 1

    def passed(self, number: int) -> None:
        """Count what has gone through the model, tell it now and then, and look whether to stop."""
        self.num_passed += number
        if time.monotonic() - self._told >= SECONDS_BETWEEN_REPORTS:
            self._told = time.monotonic()
            self._report(f"task {self.named}: {self.num_passed:,} of {self.num_requests:,} requests")
        self._look()


class TorchStudent(HFLM):  # type: ignore[misc]  # the harness has no types
    """The harness's model on torch."""

    def __init__(self, model: Any, requests: Requests, **settings: Any) -> None:
        self.requests = requests
        super().__init__(pretrained=model, backend="causal", softmax_dtype="float32", **settings)

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
        """Return what the harness does, without its bar."""
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> Any:
        """Return what the harness does, without its bar."""
        return super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
        """Return what the harness does, without its bar."""
        return super().generate_until(requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(self, requests: Any, **settings: Any) -> Any:
        self.requests.come(requests, self.max_length)
        return super()._loglikelihood_tokens(requests, **(settings | {"disable_tqdm": True}))

    def _model_call(self, inps: torch.Tensor, *args: Any, **keywords: Any) -> torch.Tensor:
        logits: torch.Tensor = super()._model_call(inps, *args, **keywords)
        self.requests.passed(len(inps))
        return logits

    def _model_generate(self, context: torch.Tensor, *args: Any, **keywords: Any) -> torch.Tensor:
        written: torch.Tensor = super()._model_generate(context, *args, **keywords)
        self.requests.passed(len(context))
        return written


@contextmanager
def open_student(
    folder: Path,
    tasks: Tasks,
    *,
    max_tokens: int,
    end_of_document_id: int,
    report: Callable[[str], None],
    look: Callable[[], None],
) -> Iterator[tuple[TemplateLM, Requests]]:
    """Load a student for the harness; its memory is given back when the context ends.

    Args:
        folder: of its checkpoint, with its tokenizer.
        tasks: backend, dtype and size of the batches.
        max_tokens: that it reads at once: as many as it was trained on.
        end_of_document_id: what stands in front of a text that nothing stands before.
        report: takes a line of progress.
        look: asked after each batch; what it raises ends the evaluation.

    Raises:
        ModelError: if the model cannot be loaded, or vLLM is not installed.
    """
    requests = Requests(report, look)
    # Students learn from texts as they are, and an end of document stands before each.
    settings = {"prefix_token_id": end_of_document_id, "add_bos_token": False}
    if tasks.backend == "vllm":
        require_vllm()
        from miniplm_assets.evaluation.harness_vllm import open_vllm

        with open_vllm(folder, tasks, requests, max_tokens=max_tokens, **settings) as vllm:
            yield vllm, requests
        return
    scoring = Scoring(dtype=tasks.dtype)
    with kept_memory():
        model = load_model(folder, scoring, report)
        with explained_as(ModelError, f"{folder}: has no tokenizer that transformers can read", "train it again"):
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        student = TorchStudent(
            model,
            requests,
            tokenizer=tokenizer,
            batch_size=tasks.requests_per_batch,
            max_length=max_tokens,
            **settings,
        )
        try:
            yield student, requests
        finally:
            student._model = None
            del model, student
            give_memory_back()
