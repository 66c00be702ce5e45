"""The parent's side of a vLLM engine: how it is started, and the threads that wait for its answers.

Any number of threads may ask at once: their sequences are one queue to the engine, so that it does not run
empty between one part and the next, of the same corpus file or another.
"""

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from miniplm_assets.core.errors import ModelError, ScoringError
from miniplm_assets.experiment import Scoring
from miniplm_assets.experiment.scoring import BYTES_PER_VALUE
from miniplm_assets.lm.engine_process import EngineFailure, EngineProcess

# Loading tens of gigabytes from a network disk and compiling; vLLM itself gives up on its workers before.
START_SECONDS: Final = 1_800.0
# vLLM ends a step that takes longer than 300 seconds; several of those in a row without one finished sequence.
SILENCE_SECONDS: Final = 1_000.0
# Compiling takes half a minute at every start and then a seventh off each token's time: for a model that is
# smaller than this, scoring is over before that is won back.
EAGER_BELOW_BYTES: Final = 100_000_000
# On a CPU, where the cache of keys and values is not what is left over but what is asked for.
CPU_CACHED_SEQUENCES: Final = 4


class Answer(NamedTuple):
    """What the engine found out about the sequences of a part.

    Attributes:
        lengths: how many values it found of each.
        values: of all of them, end to end: float32 log-probabilities, or int32 token ids.
    """

    lengths: list[int]
    values: bytes


class VllmEngine:
    """A vLLM engine in a process of its own, with one model."""

    def __init__(
        self,
        model_folder: Path,
        config: Any,
        *,
        scoring: Scoring,
        task: Mapping[str, Any],
        max_read_tokens: int,
        max_positions: int | None,
        report: Callable[[str], None],
    ) -> None:
        """Start the engine.

        Args:
            model_folder: as `save_pretrained` writes it.
            config: the model's, of text.
            scoring: dtype, device and batch size.
            task: what it is for: JSON values for `vllm_engine`.
            max_read_tokens: the longest sequence, with the token in front of it where there is one.
            max_positions: of the model; None where it has no limit.
            report: takes a line of progress.

        Raises:
            ModelError: if it does not start; with vLLM's own reason.
        """
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        # What was asked of the engine and not answered yet, by number.
        self._waiting: dict[int, Future[Answer]] = {}
        self._num_asked = self._num_finished = 0
        num_bytes = sum(file.stat().st_size for file in model_folder.glob("*.safetensors"))
        is_eager = num_bytes < EAGER_BELOW_BYTES if scoring.compile is None else not scoring.compile
        settings = {
            "model_folder": str(model_folder),
            "dtype": scoring.dtype,
            "device": scoring.device,
            "tokens_per_batch": scoring.tokens_per_batch,
            "tensor_parallel_size": scoring.tensor_parallel_size,
            "max_read_tokens": max_read_tokens,
            "vocab_size": int(config.vocab_size),
            "is_eager": is_eager,
            "task": dict(task),
        }
        report(f"starting vLLM for {model_folder} ({scoring.dtype}, {'eager' if is_eager else 'compiled'})")
        started = time.monotonic()
        self._process = EngineProcess(
            "miniplm_assets.lm.vllm_engine",
            settings,
            environment=_environment(config, scoring, max_read_tokens, max_positions=max_positions, is_eager=is_eager),
        )
        try:
            self._process.receive(silence_seconds=START_SECONDS)
        except EngineFailure as failure:
            raise ModelError(f"{model_folder}: vLLM does not start: {failure}") from None
        except BaseException:  # an interrupt while it loads must not leave it behind
            self._process.end(patience_seconds=0)  # it does not listen yet
            raise
        report(f"vLLM is ready after {time.monotonic() - started:,.0f} s")

    @property
    def session(self) -> int:
        """The process group that holds the engine."""
        return self._process.session

    def ask(self, sequences: Sequence[NDArray[np.int32]], sequence_ids: NDArray[np.int64]) -> Answer:
        """Return what the engine finds out about sequences.

        Raises:
            ScoringError: saying how the engine failed.
        """
        answer: Future[Answer] = Future()
        with self._lock:
            number = next(self._numbers)
            self._waiting[number] = answer
            self._num_asked += len(sequences)
            if len(self._waiting) == 1:
                threading.Thread(target=self._listen, name="vllm-answers", daemon=True).start()
        # Not under the lock, which the listener needs: the engine takes this part when it is rid of another's answer.
        message = {
            "part": number,
            "lengths": [len(token_ids) for token_ids in sequences],
            "sequence_ids": sequence_ids.tolist(),
        }
        with contextlib.suppress(EngineFailure):  # the listener hears of it too, and knows why
            self._process.send(message, np.concatenate(sequences).astype(np.int32, copy=False).tobytes())
        return answer.result()

    def _listen(self) -> None:
        """Hand out the engine's answers until nobody waits for one; whatever ends this, those who wait hear of it."""
        try:
            while self._hand_out(self._process.receive(silence_seconds=SILENCE_SECONDS)):
                pass
        except BaseException as failure:  # noqa: BLE001 - nobody is behind this thread
            with self._lock:
                for answer in self._waiting.values():
                    answer.set_exception(self._failed(failure))
                self._waiting.clear()

    def _hand_out(self, message: Mapping[str, Any]) -> bool:
        """Take one message in; return whether somebody still waits."""
        if "done" not in message:
            with self._lock:
                self._num_finished += message["finished"]
            return True
        answer = Answer(message["lengths"], self._process.receive_bytes())
        with self._lock:
            self._waiting.pop(message["done"]).set_result(answer)
            if not self._waiting:
                self._num_asked = self._num_finished = 0
            return bool(self._waiting)

    def _failed(self, failure: BaseException) -> ScoringError:
        return ScoringError(
            f"after {self._num_finished:,} of {self._num_asked:,} sequences {failure}\n"
            "Parts that were finished before are kept; run again to go on from there."
        )

    def close(self) -> None:
        """End the engine and every process that it started."""
        self._process.end()


def _environment(
    config: Any, scoring: Scoring, max_read_tokens: int, *, max_positions: int | None, is_eager: bool
) -> dict[str, str]:
    """Return the engine's environment: this process's own, and behind it our choices where it makes none."""
    defaults = {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",  # the model is a folder; nothing else is needed
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_CPU_OMP_THREADS_BIND": _cores(scoring.tensor_parallel_size),
        "VLLM_CPU_KVCACHE_SPACE": str(_cache_gib(config, scoring.dtype, max_read_tokens)),
    }
    if is_eager:
        # vLLM would still compile the function that ranks tokens: 20 seconds for the first sequence.
        defaults["TORCH_COMPILE_DISABLE"] = "1"
    if max_positions is not None and max_read_tokens > max_positions:
        # vLLM counts the generated token as a position; no such position is ever computed.
        defaults["VLLM_ALLOW_LONG_MAX_MODEL_LEN"] = "1"
    return {**defaults, **os.environ}


def _cores(num_workers: int) -> str:
    """Return all cores, dealt out to the workers: on its own vLLM leaves one core idle for its scheduler."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    dealt = np.array_split(np.array(cores), num_workers)
    return "|".join(",".join(str(core) for core in share) for share in dealt)


def _cache_gib(config: Any, dtype: str, max_read_tokens: int) -> int:
    """Return GiB for the keys and values of a few sequences."""
    num_heads = getattr(config, "num_attention_heads", 1)
    head_size = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    num_kv_heads = getattr(config, "num_key_value_heads", None) or num_heads
    values_per_token = 2 * config.num_hidden_layers * num_kv_heads * head_size
    bytes_per_value = BYTES_PER_VALUE[dtype]
    num_bytes: int = values_per_token * bytes_per_value * CPU_CACHED_SEQUENCES * max_read_tokens
    return max(1, -(-num_bytes // 2**30))
