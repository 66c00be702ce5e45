"""How fast this machine is with a model of some shape: measured in a second or two, before anything is run.

A small model is timed itself, with random weights on random tokens: what it costs to start its many small products
is most of its time. A large one is not built; it takes its FLOPs at a share of the rate of one large product.
"""

import json
import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from miniplm_assets.core.flops import scoring_flops, training_flops
from miniplm_assets.experiment import Scoring
from miniplm_assets.lm.scores import TokenRule

if TYPE_CHECKING:
    import torch

# Of the rate of one large product, what a large model sustains: 0.83 is measured for scoring on a CPU, 0.4 to 0.6 is
# usual for training on a GPU.
LARGE_MODEL_SHARE: Final = 0.6
# Beyond it nothing but products counts.
LARGEST_TIMED_PARAMETERS: Final = 50_000_000
# Products of a CPU fill its cores at this size, those of an accelerator at the larger one.
CPU_PRODUCT_SIZE: Final = 1_024
ACCELERATOR_PRODUCT_SIZE: Final = 8_192
# Of one timed step, by its FLOPs at the rate of a product; a small model takes some times as long.
TIMED_SECONDS: Final = 0.2
NUM_TIMED: Final = 5
# Of all tries together: a busy machine is not kept busy for long.
ENOUGH_SECONDS: Final = 1.0
# Logits, their gradients and softmax of a step that is timed.
LARGEST_LOGITS_BYTES: Final = 1 << 28
# A thread of a CPU scores 2,048 tokens at once; two rounds show how it goes.
SCORED_TOKENS_PER_THREAD: Final = 4_096
TOKENS_PER_BATCH: Final = Scoring().tokens_per_batch


@dataclass(frozen=True, kw_only=True)
class ModelPass:
    """Tokens that go through a model.

    Attributes:
        num_parameters: of the model.
        num_tokens: that go through it.
        is_training: forward, backward and a step of the optimiser; else forward alone.
        dtype: that it computes in.
        architecture: `model_type` and its settings, as JSON; None for a model that others trained.
        vocab_size: number of ids of its tokenizer; only an architecture asks for it.
        max_sequence_tokens: of the longest sequence.
        sequences_at_once: in a training step on one device.
    """

    num_parameters: int
    num_tokens: int
    is_training: bool = False
    dtype: str = "float32"
    architecture: str | None = None
    vocab_size: int = 1
    max_sequence_tokens: int
    sequences_at_once: int = 1

    @property
    def flops(self) -> int:
        """Floating-point operations of it."""
        return self.flops_of(self.num_tokens)

    def flops_of(self, num_tokens: int) -> int:
        """Return those of so many tokens."""
        return (training_flops if self.is_training else scoring_flops)(self.num_parameters, num_tokens)


class DeviceSpeed:
    """The speed of the device that this process would take, measured when it is first asked for."""

    def __init__(self) -> None:
        self._flops_per_second = cache(_product_flops_per_second)
        self._seconds_per_token = cache(self._measure)

    def seconds(self, one: ModelPass) -> float:
        """Return how long a pass would take here."""
        shape = (one.architecture, one.num_parameters, one.vocab_size, one.max_sequence_tokens)
        return one.num_tokens * self._seconds_per_token(*shape, one.is_training, one.dtype, one.sequences_at_once)

    def describe(self) -> str:
        """Return what was measured, in words."""
        import torch

        device = _device()
        rate = f"{self._flops_per_second('float32') / 1e9:,.0f} GFLOPs a second in one float32 product"
        if device.type == "cpu":
            return f"this machine's CPU ({torch.get_num_threads()} threads, {rate})"
        return f"this machine's {torch.cuda.get_device_name(device) if device.type == 'cuda' else device.type} ({rate})"

    def _measure(
        self,
        architecture: str | None,
        num_parameters: int,
        vocab_size: int,
        max_sequence_tokens: int,
        is_training: bool,
        dtype: str,
        sequences_at_once: int,
    ) -> float:
        one = ModelPass(
            num_parameters=num_parameters,
            num_tokens=1,
            is_training=is_training,
            dtype=dtype,
            vocab_size=vocab_size,
            max_sequence_tokens=max_sequence_tokens,
        )
        rate = self._flops_per_second(dtype)
        num_sequences = min(
            sequences_at_once if is_training else math.inf,
            TIMED_SECONDS * rate // one.flops_of(max_sequence_tokens),
            LARGEST_LOGITS_BYTES // (4 * vocab_size * max_sequence_tokens),
        )
        if architecture is None or num_parameters > LARGEST_TIMED_PARAMETERS or num_sequences < 1:
            return one.flops / (LARGE_MODEL_SHARE * rate)
        timed = _time_training if is_training else _time_scoring
        return timed(json.loads(architecture), one, int(num_sequences))


def _device() -> "torch.device":
    import torch

    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def _least_seconds(run: Callable[[], object], device: "torch.device") -> float:
    """Return how long something takes where nobody else wants the device: the least of some tries."""
    import torch

    taken: list[float] = []
    while len(taken) < NUM_TIMED and (len(taken) < 2 or sum(taken) < ENOUGH_SECONDS):
        start = time.perf_counter()
        run()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        taken.append(time.perf_counter() - start)
    return min(taken[1:])  # the first one is warm-up


def _product_flops_per_second(dtype: str) -> float:
    import torch

    device = _device()
    size = CPU_PRODUCT_SIZE if device.type == "cpu" else ACCELERATOR_PRODUCT_SIZE
    factor = torch.rand(size, size, device=device).to(getattr(torch, dtype))  # of ones, a GPU is faster
    return 2 * size**3 / _least_seconds(lambda: factor @ factor, device)


def _build(architecture: dict[str, Any], one: ModelPass, dtype: str) -> Any:
    import torch

    from miniplm_assets.lm.architectures import build_model

    model = build_model(
        architecture,
        vocab_size=one.vocab_size,
        end_of_document_id=0,
        max_sequence_tokens=one.max_sequence_tokens,
        seed=0,
    )
    return model.to(device=_device(), dtype=getattr(torch, dtype))


def _time_training(architecture: dict[str, Any], one: ModelPass, num_sequences: int) -> float:
    """Return the seconds a token of a step of the optimiser."""
    import torch

    model, device = _build(architecture, one, "float32").train(), _device()
    optimizer = torch.optim.AdamW(model.parameters())
    token_ids = torch.randint(one.vocab_size, (num_sequences, one.max_sequence_tokens), device=device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=one.dtype == "bfloat16"):
            logits = model(input_ids=token_ids[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), token_ids[:, 1:].flatten())
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return _least_seconds(step, device) / token_ids.numel()


def _time_scoring(architecture: dict[str, Any], one: ModelPass, num_sequences: int) -> float:
    """Return the seconds a token of scoring, as it is done here."""
    import torch

    from miniplm_assets.lm.torch_scorer import TorchScorer

    model, device = _build(architecture, one, one.dtype).eval(), _device()
    num_tokens = SCORED_TOKENS_PER_THREAD * torch.get_num_threads()
    num_sequences = min(num_sequences, -(-num_tokens // one.max_sequence_tokens))
    random = np.random.default_rng(0)
    sequences = list(random.integers(one.vocab_size, size=(num_sequences, one.max_sequence_tokens), dtype=np.int32))
    rule = TokenRule(end_of_document_id=0, score_after_end_of_document=True)
    # To begin and to end takes long beside so few tokens, and is not timed.
    with closing(TorchScorer(model, rule=rule, tokens_per_batch=TOKENS_PER_BATCH, report=lambda _: None)) as scorer:
        seconds = _least_seconds(lambda: scorer.score(sequences, np.arange(num_sequences)), device)
    return seconds / (num_sequences * one.max_sequence_tokens)
