"""The process that holds the vLLM engine: token ids in, log-probabilities of every token out, or what follows them.

Run by `vllm_process` only, as `python -m`. vLLM starts its workers by spawn, which imports this module
again under another name: hence the guard at the end.

To score, a sequence t_0 .. t_n goes in as the prompt t_0 .. t_(n-1), and the log-probability of t_n is asked of the
one token that is generated behind it. So a sequence may be one longer than the model has positions, as in
training, and no position is computed for nothing. To generate, a prompt goes in as it is; see `vllm_choice`.
"""

import json
import multiprocessing
import os
import threading
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from miniplm_assets.experiment.scoring import BYTES_PER_VALUE
from miniplm_assets.lm.engine_process import Sender, how_it_ended, serve

# Of the device's memory, for the prompt's logits and log-probabilities, which vLLM's own profile does not count.
LOGPROBS_MEMORY_SHARE: Final = 0.1
# vLLM's own share without ours: 0.92 is its default.
ENGINE_MEMORY_SHARE: Final = 0.92 - LOGPROBS_MEMORY_SHARE
# Fewer tokens a step than this leave any device idle, however little memory there is.
MIN_BATCHED_TOKENS: Final = 64
MAX_SEQUENCES_IN_FLIGHT: Final = 256
# A process that has ended shows its status a moment after its connections are closed, or after another thread asked.
STATUS_SECONDS: Final = 2.0
STATUS_POLL_SECONDS: Final = 0.01


def max_batched_tokens(
    *,
    tokens_per_batch: int,
    max_read_tokens: int,
    vocab_size: int,
    bytes_per_weight: int,
    memory_bytes: int,
    is_cpu: bool,
) -> int:
    """Return how many tokens vLLM may schedule in one step.

    Prompt log-probabilities hold, for each scheduled token, the logits in the model's dtype and their
    log-softmax in float32: 6 bytes an entry of the vocabulary in bfloat16, 8 in float32.

    Args:
        tokens_per_batch: what the user asks for at most.
        max_read_tokens: the longest sequence, with the token in front of it where there is one.
        vocab_size: entries of the vocabulary.
        bytes_per_weight: of the model's dtype.
        memory_bytes: of the device.
        is_cpu: more than one sequence at once makes a CPU slower, so that one is the limit there.
    """
    fitting = int(memory_bytes * LOGPROBS_MEMORY_SHARE) // (vocab_size * (bytes_per_weight + 4))
    wanted = min(tokens_per_batch, max_read_tokens) if is_cpu else tokens_per_batch
    return max(MIN_BATCHED_TOKENS, min(wanted, fitting))


def _open_engine(settings: dict[str, Any]) -> Any:
    from vllm import LLM
    from vllm.platforms import current_platform

    device = current_platform.device_type
    if settings["device"] not in ("auto", device):
        raise ValueError(
            f"scoring.device is '{settings['device']}', but this build of vLLM runs on '{device}'; set it to auto and "
            "choose among several by CUDA_VISIBLE_DEVICES"
        )
    if settings["task"]["does"] == "score":
        num_batched_tokens = max_batched_tokens(
            tokens_per_batch=settings["tokens_per_batch"],
            max_read_tokens=settings["max_read_tokens"],
            vocab_size=settings["vocab_size"],
            bytes_per_weight=BYTES_PER_VALUE[settings["dtype"]],
            memory_bytes=current_platform.get_device_total_memory(),
            is_cpu=current_platform.is_cpu(),
        )
        # Graphs are for single generated tokens; nearly all that runs here is prompts.
        own: dict[str, Any] = {"compilation_config": {"cudagraph_mode": "NONE"}}
    else:
        num_batched_tokens = max(settings["tokens_per_batch"], settings["max_read_tokens"])
        own = {
            "logits_processors": ["miniplm_assets.lm.vllm_choice:ChosenTokens"],
            "additional_config": {"miniplm": settings["task"]},
            # A token is drawn at its place in the sequence, so that those before it must be known.
            "async_scheduling": False,
        }
    return LLM(
        model=settings["model_folder"],
        dtype=settings["dtype"],
        seed=0,
        skip_tokenizer_init=True,
        trust_remote_code=False,
        enable_prefix_caching=False,
        enable_chunked_prefill=True,
        max_model_len=settings["max_read_tokens"],
        max_num_batched_tokens=num_batched_tokens,
        max_num_seqs=min(num_batched_tokens, MAX_SEQUENCES_IN_FLIGHT),
        gpu_memory_utilization=ENGINE_MEMORY_SHARE,
        tensor_parallel_size=settings["tensor_parallel_size"],
        enforce_eager=settings["is_eager"],
        disable_log_stats=True,
        **own,
    )


class _Scoring:
    """Log-probabilities of the tokens of a sequence."""

    def request(self, token_ids: NDArray[np.int32], _sequence_id: int) -> tuple[list[int], dict[str, Any]]:
        """Return the prompt, and what is asked of it."""
        last = {"max_tokens": 1, "prompt_logprobs": 0, "logprob_token_ids": [int(token_ids[-1])], "flat_logprobs": True}
        return token_ids[:-1].tolist(), last

    def found(self, output: Any, token_ids: NDArray[np.int32]) -> NDArray[Any]:
        """Return log p(t_1) .. log p(t_n) of shape (num_tokens - 1,)."""
        of_prompt, of_last = output.prompt_logprobs, output.outputs[0].logprobs
        if of_prompt.token_ids != token_ids[1:-1].tolist():
            raise ValueError(
                f"vLLM returned log-probabilities of other tokens for a sequence of {len(token_ids)} tokens"
            )
        place = of_last.token_ids.index(int(token_ids[-1]))
        return np.array([*of_prompt.logprobs, of_last.logprobs[place]], dtype=np.float32)


class _Generating:
    """What follows a prompt, to the end of the document or to the full length."""

    def __init__(self, task: dict[str, Any]) -> None:
        self._end_of_document_id = int(task["choice"]["end_of_document_id"])
        self._longest = int(task["choice"]["max_sequence_tokens"]) + int(task["num_first_tokens"])

    def request(self, token_ids: NDArray[np.int32], sequence_id: int) -> tuple[list[int], dict[str, Any]]:
        """Return the prompt, and what is asked of it."""
        return token_ids.tolist(), {
            "max_tokens": self._longest - len(token_ids),
            "stop_token_ids": [self._end_of_document_id],
            "extra_args": {"sequence_id": sequence_id},
        }

    def found(self, output: Any, _token_ids: NDArray[np.int32]) -> NDArray[Any]:
        """Return the tokens that were written."""
        return np.array(output.outputs[0].token_ids, dtype=np.int32)


@dataclass
class _Part:
    """Sequences that were asked for together, and what was found so far, by place."""

    sequences: list[NDArray[np.int32]]
    found: dict[int, NDArray[Any]] = field(default_factory=dict)


class _Work:
    """The parts that the engine works on: the sequences of all of them are one queue to it."""

    def __init__(self, engine: Any, task: _Scoring | _Generating, sender: Sender) -> None:
        self._engine, self._task = engine, task
        self._sender = sender
        self._parts: dict[int, _Part] = {}
        # By vLLM's request, the part that it is of and its place there.
        self._places: dict[str, tuple[int, int]] = {}

    @property
    def is_waiting(self) -> bool:
        """Whether a sequence has not been finished."""
        return bool(self._places)

    def add(self, number: int, sequences: list[NDArray[np.int32]], sequence_ids: list[int]) -> None:
        """Put a part's sequences behind those that wait."""
        from vllm import SamplingParams, TokensPrompt

        asked = [self._task.request(*one) for one in zip(sequences, sequence_ids, strict=True)]
        prompts = [TokensPrompt(prompt_token_ids=token_ids) for token_ids, _ in asked]
        parameters = [SamplingParams(temperature=0.0, detokenize=False, ignore_eos=True, **own) for _, own in asked]
        requests = self._engine.enqueue(prompts, parameters, use_tqdm=False)
        for place, request in enumerate(requests):
            # vLLM hands out "<number>-<random>", and puts the number alone on the answer.
            self._places[request.partition("-")[0]] = number, place
        self._parts[number] = _Part(sequences)

    def step(self) -> None:
        """Let the engine take a step; tell the parent what was finished: a silent engine is a hung one."""
        outputs = [output for output in self._engine.llm_engine.step() if output.finished]
        if outputs:
            self._sender.send({"finished": len(outputs)})
        for output in outputs:
            number, place = self._places.pop(output.request_id)
            part = self._parts[number]
            part.found[place] = self._task.found(output, part.sequences[place])
            if len(part.found) == len(part.sequences):
                del self._parts[number]
                found = [part.found[place] for place in range(len(part.sequences))]
                lengths = [len(one) for one in found]
                self._sender.send({"done": number, "lengths": lengths}, np.concatenate(found).tobytes())


def answer(connection: Connection, settings: dict[str, Any]) -> None:
    """Load the model, then do what is asked until the parent says the end."""
    engine = _open_engine(settings)
    sender, is_ending = Sender(connection), threading.Event()
    children = multiprocessing.active_children()
    threading.Thread(target=_watch, args=(children, sender, is_ending), daemon=True).start()
    sender.send({"ready": True})
    task = _Scoring() if settings["task"]["does"] == "score" else _Generating(settings["task"])
    work = _Work(engine, task, sender)
    while True:
        # Between two steps only a look; where there is nothing to do, a rest until a message comes.
        while connection.poll(0 if work.is_waiting else None):
            message = json.loads(connection.recv_bytes())
            if "end" in message:
                is_ending.set()
                engine.llm_engine.engine_core.shutdown()
                return
            token_ids = np.frombuffer(connection.recv_bytes(), dtype=np.int32)
            sequences = np.split(token_ids, np.cumsum(message["lengths"])[:-1])
            work.add(message["part"], sequences, message["sequence_ids"])
        try:
            work.step()
        except Exception:
            if lost := _lost(children):  # which vLLM calls an issue of its core
                raise ChildProcessError(lost) from None
            raise


def _watch(children: list[BaseProcess], sender: Sender, is_ending: threading.Event) -> None:
    # vLLM waits for ever on an engine that was killed between two calls.
    wait([child.sentinel for child in children])
    if not is_ending.is_set():
        sender.send({"failed": _lost(children)})


def _lost(children: list[BaseProcess]) -> str:
    """Say which of vLLM's processes are gone, and how."""
    gone = [child for child in children if wait([child.sentinel], timeout=0)]
    return ", ".join(f"vLLM's process {child.name} is gone ({how_it_ended(_status(child))})" for child in gone)


def _status(child: BaseProcess) -> int | None:
    """Return the exit status. The system tells it once: who asks beside vLLM's own thread has to wait for its note."""
    deadline = time.monotonic() + STATUS_SECONDS
    while (status := child.exitcode) is None and time.monotonic() < deadline:
        time.sleep(STATUS_POLL_SECONDS)
    return status


if __name__ == "__main__":
    serve(answer)
    os._exit(0)  # vLLM's engine is gone; what it leaves to exit handlers can only hang
