"""A teacher continues prompts: greedily, or by random numbers that belong to the sequence.

With torch, transformers' own `generate` runs the model, with its cache; which token comes next is chosen here.
Whatever a model's `generation_config.json` wishes for is left aside. With vLLM, points 2 and 3 are not so.

1. What is drawn for a sequence follows from (seed, sequence_id, place in the sequence) alone: one uniform number each,
   at which the cumulated probabilities are cut. Neither the batch nor the machine's state goes in.
2. The same sum is rounded in another way in a batch of another shape, and of two tokens that are equally likely a last
   bit decides. So the batches follow from the sequences alone: `block_of` of them at a time, by their length,
   `sequences_per_batch` in each; on a CPU each is computed by one thread. Then the same tokens come out whatever the
   parts, the threads and the interruptions; another `sequences_per_batch` is another result.
3. No padding: prompts of a batch begin together. Where they are not of one length, the model reads the shortest at once
   and the rest of the others token by token, in place of what it would choose.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from miniplm_assets.core.doors import explained_as
from miniplm_assets.core.errors import ModelError, ScoringError
from miniplm_assets.experiment import Decoding, Scoring
from miniplm_assets.lm.batching import longest_first
from miniplm_assets.lm.causality import require_causal
from miniplm_assets.lm.memory import give_memory_back, kept_memory
from miniplm_assets.lm.model_folder import load_model, read_config
from miniplm_assets.lm.next_token import BatchChoice, TokenChoice
from miniplm_assets.lm.scorer import check_model_length, position_limit, require_vllm
from miniplm_assets.lm.scores import TokenRule, check_sequences
from miniplm_assets.lm.torch_scorer import TorchScorer, threads_of_one

# Enough that most batches of a block hold prompts of one length, where most of a corpus is longer than a prompt.
BATCHES_PER_BLOCK: Final = 8


def block_of(decoding: Decoding) -> int:
    """Return how many sequences are put into batches together: from which on, the batches begin anew."""
    return BATCHES_PER_BLOCK * decoding.sequences_per_batch


class Generator(Protocol):
    """A loaded model, or several, that continue prompts. Any thread may ask at any time.

    Attributes:
        num_devices: how many it computes on, a part on each.
    """

    num_devices: int

    def continued(
        self, prompts: Sequence[NDArray[np.int32]], sequence_ids: NDArray[np.int64]
    ) -> list[NDArray[np.int32]]:
        """Return each prompt with what follows it, up to and with the end of the document, or to the full length.

        Args:
            prompts: token ids, in whole blocks but for the last of a corpus file. One that ends a document stays as it
                is.
            sequence_ids: of the sequences that they begin.

        Raises:
            ScoringError: naming the sequence whose prompt cannot be read, or whose log-probabilities are not finite.
        """

    def close(self) -> None:
        """Give back memory and processes, now."""


class TorchGenerator:
    """Continues prompts with a model that is in evaluation mode; a `Generator`."""

    num_devices = 1

    def __init__(
        self,
        model: Any,
        *,
        decoding: Decoding,
        choice: TokenChoice,
        begin_of_sequence_id: int | None = None,
        look: Callable[[], None] | None = None,
    ) -> None:
        """Take a model.

        Args:
            model: a causal language model of transformers, on its device.
            decoding: how many sequences make a batch.
            choice: how tokens are chosen, and when a sequence is finished.
            begin_of_sequence_id: the token that the model reads in front of every sequence, if any.
            look: asked after each batch, in the thread that asked; what it raises ends the generation.
        """
        from transformers import GenerationConfig

        embeddings = model.get_input_embeddings().weight
        self._model = model
        self._device = embeddings.device
        self._num_embeddings = int(embeddings.shape[0])
        self._decoding, self._choice = decoding, choice
        self._first = [] if begin_of_sequence_id is None else [begin_of_sequence_id]
        self._look = look
        self._lock = threading.Lock()
        self._is_closed = False
        self._threads = threads_of_one() if self._device.type == "cpu" else None
        # The model's own would be mixed into whatever is asked of it: its temperature, its penalties.
        model.generation_config = GenerationConfig(
            use_cache=True, max_length=choice.max_sequence_tokens + len(self._first)
        )

    def continued(
        self, prompts: Sequence[NDArray[np.int32]], sequence_ids: NDArray[np.int64]
    ) -> list[NDArray[np.int32]]:
        """Return each prompt with what follows it; see `Generator.continued`."""
        check_sequences(
            prompts,
            sequence_ids,
            vocab_size=self._num_embeddings,
            max_sequence_tokens=self._choice.max_sequence_tokens,
        )
        whole = list(prompts)
        places = list(self._batches(prompts))

        def continue_batch(members: NDArray[np.intp]) -> list[NDArray[np.int32]]:
            return self._continue_batch([prompts[member] for member in members], sequence_ids[members])

        done = map(continue_batch, places) if self._threads is None else self._threads.map(continue_batch, places)
        self._look_around()
        for members, written in zip(places, done, strict=True):
            for member, token_ids in zip(members, written, strict=True):
                whole[member] = token_ids
            self._look_around()
        return whole

    def _batches(self, prompts: Sequence[NDArray[np.int32]]) -> Iterator[NDArray[np.intp]]:
        block, size = block_of(self._decoding), self._decoding.sequences_per_batch
        for start in range(0, len(prompts), block):
            here = prompts[start : start + block]
            waiting = longest_first(np.array([len(token_ids) for token_ids in here], dtype=np.intp))
            waiting = waiting[[not self._choice.is_finished(here[place]) for place in waiting]] + start
            yield from (waiting[place : place + size] for place in range(0, len(waiting), size))

    def _continue_batch(
        self, prompts: Sequence[NDArray[np.int32]], sequence_ids: NDArray[np.int64]
    ) -> list[NDArray[np.int32]]:
        import torch
        from transformers import LogitsProcessorList, StoppingCriteriaList

        lengths = np.array([len(prompt) for prompt in prompts])
        given = np.zeros((len(prompts), lengths.max()), dtype=np.int64)
        for row, prompt in zip(given, prompts, strict=True):
            row[: len(prompt)] = prompt
        choice = BatchChoice(
            self._choice,
            prompts=given,
            lengths=lengths,
            sequence_ids=sequence_ids,
            num_first_tokens=len(self._first),
            device=self._device,
            check=self._check,
        )
        first = np.tile(np.array(self._first, dtype=np.int64), (len(prompts), 1))
        read = torch.from_numpy(np.concatenate([first, given[:, : lengths.min()]], axis=1)).to(self._device)
        with self._alone():
            try:
                written = self._model.generate(
                    read,
                    attention_mask=torch.ones_like(read),
                    logits_processor=LogitsProcessorList([choice.next_tokens]),
                    stopping_criteria=StoppingCriteriaList([choice.are_done]),
                )
            except torch.OutOfMemoryError:
                raise ScoringError(
                    f"{self._device} ran out of memory while {len(prompts):,} sequences of up to "
                    f"{self._choice.max_sequence_tokens:,} tokens were continued side by side; set the generation's "
                    "sequences_per_batch lower (what is stored by the larger one is then made again), or its dtype to "
                    "bfloat16"
                ) from None
            token_ids = written.cpu().numpy()[:, len(self._first) :].astype(np.int32)
            is_broken = choice.is_broken.cpu().numpy()
        if is_broken.any():
            raise ScoringError(
                f"sequence {sequence_ids[is_broken][0]}: what the teacher says of its next token is not finite; its "
                "weights hold NaN or infinity, or overflow in this dtype: try dtype float32"
            )
        return [self._choice.cut(row, length) for row, length in zip(token_ids, lengths, strict=True)]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Have the device alone: two batches side by side would only share an accelerator's memory."""
        if self._threads is not None:
            yield
            return
        with self._lock:
            yield

    def _check(self) -> None:
        if self._is_closed:
            raise ScoringError("the generation was stopped")

    def _look_around(self) -> None:
        self._check()
        if self._look is not None:
            self._look()

    def close(self) -> None:
        """Give the model's memory back; batches that are being computed end with the token that they are at."""
        self._is_closed = True
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        with self._lock:
            self._model = None
        give_memory_back()


@dataclass(frozen=True, kw_only=True)
class GeneratorSettings:
    """What a model needs to continue prompts, on whichever node; a `ModelSettings`.

    Attributes:
        model_folder: a causal language model as `save_pretrained` writes it, in safetensors.
        named: what messages call it.
        decoding: dtype, device, how tokens are chosen, and how many sequences make a batch.
        end_of_document_id: the token that ends what is written.
        begin_of_sequence_id: the token that the model reads in front of every sequence, if any.
        vocab_size: of the tokenizer; ids beyond it, which a model's embeddings may have, are never chosen.
        max_sequence_tokens: the full length, prompt and continuation together.
    """

    does: ClassVar[str] = "generator"
    hint: ClassVar[str] = "lower the generation's sequences_per_batch"

    model_folder: Path
    named: str
    decoding: Decoding
    end_of_document_id: int
    begin_of_sequence_id: int | None
    vocab_size: int
    max_sequence_tokens: int

    @property
    def scoring(self) -> Scoring:
        """Its device, and how many make one."""
        return self.decoding.scoring

    @contextmanager
    def open(
        self, report: Callable[[str], None]
    ) -> Iterator[Callable[[Sequence[NDArray[np.int32]], NDArray[np.int64]], list[NDArray[np.int32]]]]:
        """Load the model; give what continues prompts with it until the context ends."""
        with self.open_generator(report) as generator:
            yield generator.continued

    @contextmanager
    def open_generator(
        self, report: Callable[[str], None], look: Callable[[], None] | None = None
    ) -> Iterator[Generator]:
        """Load the model; it is closed when the context ends.

        Args:
            report: takes a line of progress.
            look: asked after each batch that this process computes, in the thread that asked; what it raises ends the
                generation.

        Raises:
            ModelError: if the model cannot be loaded, is too short, or what it says depends on what comes later; or the
                backend is not installed or does not start.
        """
        num_first_tokens = 0 if self.begin_of_sequence_id is None else 1
        check_model_length(self.model_folder, self.max_sequence_tokens, self.named, num_first_tokens=num_first_tokens)
        opened = self._in_vllm(report) if self.decoding.backend == "vllm" else self._in_torch(report, look)
        with kept_memory(), opened as generator:
            yield generator

    @property
    def _choice(self) -> TokenChoice:
        return TokenChoice(
            sampling=self.decoding.sampling,
            vocab_size=self.vocab_size,
            end_of_document_id=self.end_of_document_id,
            max_sequence_tokens=self.max_sequence_tokens,
        )

    @contextmanager
    def _in_vllm(self, report: Callable[[str], None]) -> Iterator[Generator]:
        require_vllm()
        from miniplm_assets.lm.vllm_generator import VllmGenerator

        config = read_config(self.model_folder).get_text_config()
        generator = VllmGenerator(
            self.model_folder,
            config,
            scoring=self.scoring,
            choice=self._choice,
            begin_of_sequence_id=self.begin_of_sequence_id,
            max_positions=position_limit(config),
            report=report,
        )
        with closing(generator):
            yield generator

    @contextmanager
    def _in_torch(self, report: Callable[[str], None], look: Callable[[], None] | None) -> Iterator[Generator]:
        model = load_model(self.model_folder, self.scoring, report)
        with explained_as(ModelError, f"{self.named}: cannot generate", "take a causal language model of text"):
            generator = TorchGenerator(
                model,
                decoding=self.decoding,
                choice=self._choice,
                begin_of_sequence_id=self.begin_of_sequence_id,
                look=look,
            )
        with closing(generator):
            rule = TokenRule(end_of_document_id=self.end_of_document_id, score_after_end_of_document=False)
            tokens = self.scoring.tokens_per_batch
            with closing(TorchScorer(model, rule=rule, tokens_per_batch=tokens, report=report, look=look)) as scorer:
                require_causal(
                    scorer,
                    named=self.named,
                    vocab_size=self.vocab_size,
                    end_of_document_id=self.end_of_document_id,
                    max_sequence_tokens=self.max_sequence_tokens,
                    dtype=self.decoding.dtype,
                )
            del model  # the generator gives it back when it is closed
            yield generator
