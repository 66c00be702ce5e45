"""Token-budget batches of similar length, decided by the sequences and the budget alone.

Sequences go longest first, so that neighbours differ little in length and that a batch which is too
large for the device is met at once, not after hours. Padding stands at the right: a causal model does
not look there, so that no attention mask is needed and the fast causal kernels apply.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from miniplm_assets.lm.scores import TokenRule


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A padded batch; the last token of a sequence is predicted but never read.

    Attributes:
        input_ids: int64 of shape (num_sequences, num_inputs), 0 where padded.
        positions: places in the flattened `input_ids` whose next token is scored, of shape (num_scored,).
        targets: those next tokens, int64 of the same shape.
        owners: for each of them, the place of its sequence in the list that was given.
    """

    input_ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    targets: NDArray[np.int64]
    owners: NDArray[np.intp]


def longest_first(lengths: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the order by falling length, equal lengths in the order given."""
    return np.argsort(-lengths, kind="stable")


def fill_batch(order: NDArray[np.intp], lengths: NDArray[np.intp], *, tokens_per_batch: int) -> NDArray[np.intp]:
    """Return the first sequences of `order` that fit: padded tokens within the budget, at least one sequence."""
    return order[: max(1, tokens_per_batch // max(1, int(lengths[order[0]]) - 1))]


def batches(order: NDArray[np.intp], lengths: NDArray[np.intp], *, tokens_per_batch: int) -> Iterator[NDArray[np.intp]]:
    """Go through `order`, a batch at a time."""
    while len(order):
        members = fill_batch(order, lengths, tokens_per_batch=tokens_per_batch)
        yield members
        order = order[len(members) :]


def pad(sequences: Sequence[NDArray[np.int32]], members: NDArray[np.intp], rule: TokenRule) -> Batch:
    """Lay the named sequences under one another."""
    num_inputs = max(len(sequences[member]) - 1 for member in members)
    input_ids = np.zeros((len(members), num_inputs), dtype=np.int64)
    positions, targets = [], []
    for row, member in enumerate(members):
        token_ids = sequences[member]
        input_ids[row, : len(token_ids) - 1] = token_ids[:-1]
        (scored,) = np.nonzero(rule.scored(token_ids))
        positions.append(scored + row * num_inputs)
        targets.append(token_ids[1:][scored].astype(np.int64))
    return Batch(
        input_ids=input_ids,
        positions=np.concatenate(positions),
        targets=np.concatenate(targets),
        owners=np.repeat(members, [len(scored) for scored in positions]),
    )
