"""What a score is, whichever backend computes it: which tokens count, and what is refused.

For a sequence t_0 .. t_n

    logprob_nats = sum over i >= 1 of m_i * log p(t_i | t_0 .. t_(i-1)),    num_scored_tokens = sum of m_i

where m_i = 0 if t_(i-1) is the end-of-document token, so that the first token of a following document
carries no loss, as published; else 1. The log-softmax is taken in float32, the sum in float64. A model that
learnt every text behind a first token reads that one too, before t_0; what it says of t_0 is not counted, so
that the sums of any two models cover the same tokens.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miniplm_assets.core.errors import ScoringError


@dataclass(frozen=True, kw_only=True)
class KeptTokens:
    """Ids of a model's own distribution, for each of some scored tokens.

    Attributes:
        token_ids: uint32 of shape (num_tokens, number).
        logprobs_nats: of each under the model, float16 of the same shape.
    """

    token_ids: NDArray[np.uint32]
    logprobs_nats: NDArray[np.float16]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of sequences, in the order in which the sequences were given.

    Attributes:
        logprob_nats: float64 of shape (num_sequences,).
        num_scored_tokens: int32 of shape (num_sequences,).
        logprobs: nats of every scored token, in the order in which they were computed, of shape (total,).
        owners: place of each one's sequence, of the same shape.
        kept: ids of the model's own distribution for each of them, if any are kept.
    """

    logprob_nats: NDArray[np.float64]
    num_scored_tokens: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    owners: NDArray[np.intp]
    kept: KeptTokens | None = None

    def token_logprobs_nats(self) -> NDArray[np.float32]:
        """Return the log-probability of every scored token, sequence after sequence, of shape (total,)."""
        return self.logprobs[np.argsort(self.owners, kind="stable")]

    def kept_tokens(self) -> KeptTokens:
        """Return what is kept for every scored token, sequence after sequence."""
        assert self.kept is not None, "the scorer was opened to keep some"
        order = np.argsort(self.owners, kind="stable")
        return KeptTokens(token_ids=self.kept.token_ids[order], logprobs_nats=self.kept.logprobs_nats[order])


@dataclass(frozen=True, kw_only=True)
class TokenRule:
    """Which tokens of a sequence are read and scored: the m_i above.

    Attributes:
        end_of_document_id: the token after which a new document begins.
        score_after_end_of_document: whether what follows it is scored.
        begin_of_sequence_id: the token that the model reads in front of every sequence, if any.
    """

    end_of_document_id: int
    score_after_end_of_document: bool
    begin_of_sequence_id: int | None = None

    @property
    def num_first_tokens(self) -> int:
        """How many tokens the model reads in front of a sequence."""
        return 0 if self.begin_of_sequence_id is None else 1

    def read(self, sequences: Sequence[NDArray[np.int32]]) -> Sequence[NDArray[np.int32]]:
        """Return what the model reads of sequences: each behind the first token, where there is one."""
        if self.begin_of_sequence_id is None:
            return sequences
        first = np.array([self.begin_of_sequence_id], dtype=np.int32)
        return [np.concatenate([first, token_ids]) for token_ids in sequences]

    def scored(self, read: NDArray[np.signedinteger[Any]]) -> NDArray[np.bool_]:
        """Return which tokens of one that is read are scored, but for its first: bool of shape (num_tokens - 1,)."""
        if self.score_after_end_of_document:
            scored = np.ones(max(len(read) - 1, 0), dtype=np.bool_)
        else:
            scored = np.asarray(read[:-1] != self.end_of_document_id, dtype=np.bool_)
        if self.begin_of_sequence_id is not None:
            scored[:1] = False
        return scored


def check_sequences(
    sequences: Sequence[NDArray[np.int32]],
    sequence_ids: NDArray[np.int64],
    *,
    vocab_size: int,
    max_sequence_tokens: int | None = None,
) -> None:
    """Refuse sequences that a model cannot score.

    Args:
        sequences: token ids, one array for each sequence.
        sequence_ids: their ids, for the messages.
        vocab_size: the model knows the token ids 0 .. vocab_size - 1.
        max_sequence_tokens: the longest sequence that was announced, if any was.

    Raises:
        ScoringError: naming the first sequence that is empty, too long, or holds an unknown token id.
    """
    if len(sequences) != len(sequence_ids):
        raise ScoringError(f"{len(sequences):,} sequences came with {len(sequence_ids):,} ids; each needs its own")
    for token_ids, sequence_id in zip(sequences, sequence_ids, strict=True):
        if len(token_ids) == 0:
            raise ScoringError(f"sequence {sequence_id} holds no tokens")
        if max_sequence_tokens is not None and len(token_ids) > max_sequence_tokens:
            raise ScoringError(
                f"sequence {sequence_id} holds {len(token_ids):,} tokens, but the scorer was opened for at most "
                f"{max_sequence_tokens:,}"
            )
        lowest, highest = int(token_ids.min()), int(token_ids.max())
        if lowest < 0 or highest >= vocab_size:
            raise ScoringError(
                f"sequence {sequence_id} holds token id {lowest if lowest < 0 else highest}, but the model knows only "
                f"0 to {vocab_size - 1}; the sequences were made with a tokenizer that is not the model's"
            )


def sum_by_sequence(
    logprobs: NDArray[np.float32],
    owners: NDArray[np.intp],
    sequence_ids: NDArray[np.int64],
    kept: KeptTokens | None = None,
) -> Scores:
    """Add up the log-probabilities of the scored tokens.

    Args:
        logprobs: nats, of shape (num_scored_tokens,).
        owners: place of each token's sequence in `sequence_ids`, of the same shape.
        sequence_ids: of shape (num_sequences,).
        kept: for each scored token, if any are kept.

    Raises:
        ScoringError: naming the first sequence whose sum is NaN or infinite.
    """
    nats = logprobs.astype(np.float64)
    totals = np.bincount(owners, weights=nats, minlength=len(sequence_ids)).astype(np.float64)
    (broken,) = np.nonzero(~np.isfinite(totals))
    if len(broken):
        raise ScoringError(
            f"sequence {sequence_ids[broken[0]]} has log-probability {totals[broken[0]]} "
            f"({len(broken):,} of {len(sequence_ids):,} sequences are not finite); the model's weights hold NaN or "
            "infinity, or overflow in this dtype: try scoring.dtype float32"
        )
    counts = np.bincount(owners, minlength=len(sequence_ids)).astype(np.int32)
    return Scores(logprob_nats=totals, num_scored_tokens=counts, logprobs=logprobs, owners=owners, kept=kept)


def owners_of(lengths: Iterable[int]) -> NDArray[np.intp]:
    """Return 0 repeated lengths[0] times, then 1 repeated lengths[1] times, and so on."""
    counts = np.fromiter(lengths, dtype=np.intp)
    return np.repeat(np.arange(len(counts), dtype=np.intp), counts)
