"""Scoring with a transformers model in this process: body, then the output layer in tiles.

On an accelerator nothing waits between batches: which tokens are scored follows from the tokens alone, and
the log-probabilities are fetched once, at the end, so that it computes while the next batch is laid out and
copied. On a CPU each batch is computed by one thread, and as many batches at once as there are threads: as
fast as all threads on one batch, and the same bytes whatever their number, which decides where torch's loops
are cut and thereby how their ends are rounded.
"""

import gc
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from miniplm_assets.core.errors import ScoringError
from miniplm_assets.lm.batching import Batch, batches, fill_batch, longest_first, pad
from miniplm_assets.lm.blocked_logprobs import blocked_logprobs, tile_shape
from miniplm_assets.lm.kept_tokens import ScoredTokens, TokenKeeper
from miniplm_assets.lm.modes import evaluation_mode
from miniplm_assets.lm.output_head import PlainHead, computed_whole, find_plain_head
from miniplm_assets.lm.scores import KeptTokens, Scores, TokenRule, check_sequences, sum_by_sequence

if TYPE_CHECKING:
    import torch

# What goes through the output layer at once on a CPU: its weights are fetched once for all of it. More gains nothing,
# and holds up the other threads at the end of a part.
CPU_TOKENS_PER_BATCH: Final = 2_048
# What goes through the body at once: the layers' activations stay in a core's cache.
CPU_TOKENS_IN_BODY: Final = 1_024
# Where the logits must exist whole, this many bytes of them at once, for each thread of a CPU.
WHOLE_LOGITS_BYTES: Final = 1 << 28

logger = logging.getLogger(__name__)


class SentBatch(NamedTuple):
    """A batch on its device; see `Batch`."""

    input_ids: "torch.Tensor"
    positions: "torch.Tensor"
    targets: "torch.Tensor"


class ScoredBatch(NamedTuple):
    """What a batch gives, on its device: log-probabilities, whose they are, and what is kept of the distributions."""

    logprobs: "torch.Tensor"
    owners: NDArray[np.intp]
    kept: ScoredTokens | None = None


class TorchScorer:
    """Scores sequences with a model that is in evaluation mode; a `Scorer`."""

    num_devices = 1

    def __init__(
        self,
        model: Any,
        *,
        rule: TokenRule,
        tokens_per_batch: int,
        report: Callable[[str], None],
        look: Callable[[], None] | None = None,
        max_sequence_tokens: int | None = None,
        keeper: TokenKeeper | None = None,
    ) -> None:
        embeddings = model.get_input_embeddings().weight
        self._model = model
        self._device = embeddings.device
        self._vocab_size = int(embeddings.shape[0])
        self._rule = rule
        self._report = report
        self._look = look
        self._max_sequence_tokens = max_sequence_tokens
        self._keeper = keeper
        self._head = find_plain_head(model)
        self._tokens_per_batch = tokens_per_batch
        self._threads: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._is_closed = False
        if self._device.type == "cpu":
            self._tokens_per_batch = min(tokens_per_batch, CPU_TOKENS_PER_BATCH)
            self._threads = threads_of_one()
        if self._head is None:
            report(computed_whole(model))
            self._tokens_per_batch = min(self._tokens_per_batch, WHOLE_LOGITS_BYTES // (4 * self._vocab_size))

    def score(self, sequences: Sequence[NDArray[np.int32]], sequence_ids: NDArray[np.int64]) -> Scores:
        """Return the scores of sequences, in the order given; see `Scorer.score`."""
        check_sequences(
            sequences, sequence_ids, vocab_size=self._vocab_size, max_sequence_tokens=self._max_sequence_tokens
        )
        sequences = self._rule.read(sequences)
        lengths = np.array([len(token_ids) for token_ids in sequences], dtype=np.intp)
        waiting = longest_first(lengths)
        waiting = waiting[lengths[waiting] > 1]  # a lone token is predicted by nothing
        self._look_around()
        if self._threads is not None:
            scored = list(self._side_by_side(sequences, sequence_ids, waiting, lengths))
            logprobs, kept = self._fetched(scored)
        else:
            with self._lock:  # two parts side by side would only share the device's memory
                scored = list(self._one_after_another(sequences, sequence_ids, waiting, lengths))
                logprobs, kept = self._fetched(scored)  # while the device's memory is this part's alone
        owners = [np.empty(0, np.intp), *(one.owners for one in scored)]
        return sum_by_sequence(logprobs, np.concatenate(owners), sequence_ids, kept)

    def _fetched(self, scored: Sequence[ScoredBatch]) -> tuple[NDArray[np.float32], KeptTokens | None]:
        import torch

        kept = None
        if self._keeper is not None:
            kept = self._keeper.fetch([one.kept for one in scored if one.kept is not None])
        logprobs = torch.cat([one.logprobs for one in scored]).cpu().numpy() if scored else np.empty(0, np.float32)
        return logprobs, kept

    def _side_by_side(
        self,
        sequences: Sequence[NDArray[np.int32]],
        sequence_ids: NDArray[np.int64],
        waiting: NDArray[np.intp],
        lengths: NDArray[np.intp],
    ) -> Iterator[ScoredBatch]:
        """Return what each batch gives; a thread a batch."""
        assert self._threads is not None

        def score(members: NDArray[np.intp]) -> ScoredBatch:
            in_body = batches(members, lengths, tokens_per_batch=CPU_TOKENS_IN_BODY)
            return self._scored([pad(sequences, some, self._rule) for some in in_body], sequence_ids)

        for scored in self._threads.map(score, batches(waiting, lengths, tokens_per_batch=self._tokens_per_batch)):
            self._look_around()
            yield scored

    def _one_after_another(
        self,
        sequences: Sequence[NDArray[np.int32]],
        sequence_ids: NDArray[np.int64],
        waiting: NDArray[np.intp],
        lengths: NDArray[np.intp],
    ) -> Iterator[ScoredBatch]:
        """Return the same on an accelerator, in smaller batches from where its memory was too small."""
        import torch

        while len(waiting):
            self._look_around()
            members = fill_batch(waiting, lengths, tokens_per_batch=self._tokens_per_batch)
            batch = pad(sequences, members, self._rule)
            try:
                scored = self._scored([batch], sequence_ids)
            except torch.OutOfMemoryError:
                is_full = True
            else:
                is_full = False
            if is_full:  # outside of the handler, whose traceback keeps the batch's memory alive
                self._halve(batch, sequence_ids[members[0]])
                continue
            yield scored
            waiting = waiting[len(members) :]

    def _scored(self, in_body: Sequence[Batch], sequence_ids: NDArray[np.int64]) -> ScoredBatch:
        """Return what batches give that share one pass through the output layer."""
        import torch

        sent = [
            SentBatch(*(self._send(values) for values in (batch.input_ids, batch.positions, batch.targets)))
            for batch in in_body
        ]
        owners = np.concatenate([batch.owners for batch in in_body])
        with torch.no_grad():
            if self._keeper is not None:
                places = np.concatenate([batch.positions % batch.input_ids.shape[1] for batch in in_body])
                uniforms = self._keeper.uniforms(sequence_ids[owners], places - self._rule.num_first_tokens)
                kept = self._with_kept(self._keeper, sent, uniforms)
                return ScoredBatch(kept.logprobs, owners, kept)
            if self._head is None:
                logprobs = torch.cat([_whole_logprobs(self._model, batch) for batch in sent])
            else:
                logprobs = _tiled_logprobs(self._head, sent)
        return ScoredBatch(logprobs, owners)

    def _with_kept(
        self, keeper: TokenKeeper, sent: Sequence[SentBatch], uniforms: NDArray[np.float64] | None
    ) -> ScoredTokens:
        import torch

        if self._head is None:
            states = torch.cat([_whole_logits(self._model, batch) for batch in sent])
        else:
            states = _scored_hidden(self._head, sent)
        return keeper.score(states, self._head, torch.cat([batch.targets for batch in sent]), uniforms)

    def _send(self, values: NDArray[np.int64]) -> "torch.Tensor":
        import torch

        tensor = torch.from_numpy(values)
        if self._device.type != "cuda":
            return tensor.to(self._device)
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def _halve(self, batch: Batch, sequence_id: np.int64) -> None:
        import torch

        num_sequences, num_inputs = batch.input_ids.shape
        if num_sequences == 1:
            raise ScoringError(
                f"sequence {sequence_id} ({num_inputs + 1:,} tokens) alone does not fit into the memory of "
                f"{self._device}; use scoring.dtype bfloat16, a larger device, or tensor_parallel_size with vllm"
            )
        self._tokens_per_batch = num_sequences * num_inputs // 2
        gc.collect()
        torch.accelerator.empty_cache()
        self._report(
            f"{self._device} ran out of memory at {num_sequences * num_inputs:,} tokens a batch; going on with "
            f"{self._tokens_per_batch:,} (set scoring.tokens_per_batch to begin there)"
        )

    def _look_around(self) -> None:
        if self._is_closed:
            raise ScoringError("scoring was stopped")
        if self._look is not None:
            self._look()

    def close(self) -> None:
        """Let go of the model, after the batches that are being computed."""
        self._is_closed = True
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        with self._lock:  # after the batch that is being computed
            self._model = self._head = None


def threads_of_one() -> ThreadPoolExecutor:
    """Return as many threads as torch has, each of which computes alone."""
    import torch

    num_threads = torch.get_num_threads()
    threads = ThreadPoolExecutor(num_threads, "score", initializer=_compute_alone)
    all_started = threading.Barrier(num_threads + 1)
    for _ in range(num_threads):
        threads.submit(all_started.wait)
    all_started.wait()
    torch.set_num_threads(num_threads)  # again the default of threads to come, which the others have changed
    return threads


def _compute_alone() -> None:
    import torch

    torch.get_num_threads()  # when a thread first asks for its number, it is given the default in place of its own
    torch.set_num_threads(1)


def _tiled_logprobs(head: PlainHead, in_body: Sequence[SentBatch]) -> "torch.Tensor":
    import torch

    hidden = _scored_hidden(head, in_body)
    targets = torch.cat([batch.targets for batch in in_body])
    return blocked_logprobs(hidden, head.weight, head.bias, targets, tile=tile_shape(hidden.device.type))


def _scored_hidden(head: PlainHead, in_body: Sequence[SentBatch]) -> "torch.Tensor":
    """Return what the output layer is given, of the positions whose next token is scored."""
    import torch

    def of_batch(batch: SentBatch) -> "torch.Tensor":
        hidden: torch.Tensor = head.body(input_ids=batch.input_ids, use_cache=False)[0]
        return hidden.flatten(0, 1).index_select(0, batch.positions).to(head.weight.dtype)

    return torch.cat([of_batch(batch) for batch in in_body])


def _whole_logits(model: Any, batch: SentBatch) -> "torch.Tensor":
    logits: torch.Tensor = model(input_ids=batch.input_ids, use_cache=False).logits
    return logits.flatten(0, 1).index_select(0, batch.positions)


def _whole_logprobs(model: Any, batch: SentBatch) -> "torch.Tensor":
    import torch

    scored = _whole_logits(model, batch)
    return torch.log_softmax(scored, dim=-1, dtype=torch.float32).gather(1, batch.targets.unsqueeze(1)).squeeze(1)


def score_with_model(
    model: Any,
    sequences: Sequence[NDArray[np.int32]],
    *,
    end_of_document_id: int,
    score_after_end_of_document: bool,
    tokens_per_batch: int,
    sequence_ids: NDArray[np.int64] | None = None,
    report: Callable[[str], None] = logger.info,
    look: Callable[[], None] | None = None,
) -> Scores:
    """Score sequences with a model that lives already, for example one in training.

    Args:
        model: a causal language model of transformers, on its device. It is put back into the mode that it had.
        sequences: token ids, one array for each sequence.
        end_of_document_id: the token after which a new document begins.
        score_after_end_of_document: whether the first token of a new document is scored.
        tokens_per_batch: padded tokens at once, at most.
        sequence_ids: for the messages; their places in the list where absent.
        report: takes a line where something is not as asked.
        look: asked after each batch; what it raises ends the scoring.

    Raises:
        ScoringError: if a sequence cannot be scored; the message names it.
    """
    if sequence_ids is None:
        sequence_ids = np.arange(len(sequences), dtype=np.int64)
    rule = TokenRule(end_of_document_id=end_of_document_id, score_after_end_of_document=score_after_end_of_document)
    with (
        evaluation_mode(model),
        closing(TorchScorer(model, rule=rule, tokens_per_batch=tokens_per_batch, report=report, look=look)) as scorer,
    ):
        return scorer.score(sequences, sequence_ids)
