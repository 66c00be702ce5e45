"""Sequences side by side, as a step of training wants them. Imported by `trainer` alone, when a model is trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch  # noqa: TID253 - nobody imports this module before a model is trained
from numpy.typing import NDArray

from miniplm_assets.lm.scores import TokenRule
from miniplm_assets.training.objectives import Objective
from miniplm_assets.training.token_file import Row, TokenFile

MeanOver = Literal["tokens", "sequences"]


@dataclass(frozen=True)
class DrawnSequences:
    """The sequences of a run in the order in which they are learned from: a map-style torch data set.

    Attributes:
        tokens: all sequences.
        order: which of them come one after the other; negative where one comes that teaches nothing, see `share_of`.
        end_of_document_id: of the tokens of such a one.
    """

    tokens: TokenFile
    order: NDArray[np.uint32] | NDArray[np.int64]
    end_of_document_id: int

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> Row:
        row = int(self.order[place])
        if row < 0:  # behind the end of a document nothing is predicted
            return Row(int(self.tokens.sequence_ids[~row]), np.full(2, self.end_of_document_id, dtype=np.int64))
        return self.tokens.row(row)


def share_of(
    order: NDArray[np.uint32], *, sequences_per_step: int, rank: int, num_processes: int
) -> NDArray[np.uint32] | NDArray[np.int64]:
    """Return the sequences of each step that one of several processes learns from.

    Each process has as many of every step, so that all go through the model as often: where there are too few
    sequences, as in a last step, some get one that teaches nothing.

    Args:
        order: of all of them: rows of the token file.
        sequences_per_step: how many make a step; the last one takes what is left.
        rank: of the process, from 0.
        num_processes: that share each step.

    Returns:
        Rows of the token file; ~row in the place of nothing, for the name of a sequence of the same step.
    """
    if num_processes == 1:
        return order
    shares = [np.empty(0, dtype=np.int64)]
    for start in range(0, len(order), sequences_per_step):
        step = order[start : start + sequences_per_step].astype(np.int64)
        num_missing = -len(step) % num_processes
        shares.append(np.concatenate([step, np.repeat(~step[:1], num_missing)])[rank::num_processes])
    share: NDArray[np.int64] = np.concatenate(shares)
    return share


def make_batch(
    rows: Sequence[Row], *, rule: TokenRule, mean_over: MeanOver, objective: Objective
) -> dict[str, torch.Tensor]:
    """Put sequences t_0 .. t_n into one batch: inputs t_0 .. t_(n-1), padded on the right, and what is predicted.

    No attention mask: a causal model sees nothing to the right, so that padding changes no prediction.

    Args:
        rows: the sequences.
        rule: which tokens may be predicted; the objective says which of them are.
        mean_over: of a step: what weighs the same.
        objective: adds what it needs.

    Returns:
        input_ids: int64 of shape (sequences, longest - 1).
        positions: int64 of shape (num_predicted,): places of the flattened inputs whose next token is predicted.
        targets: int64 of the same shape: that token.
        weights: float32 of the same shape: 1; or, for a mean over sequences, 1 by the predicted tokens of its sequence,
            so that the weights of a batch add up to what the mean is over.
    """
    width = max(len(row.token_ids) for row in rows) - 1
    input_ids = np.full((len(rows), width), rule.end_of_document_id, dtype=np.int64)
    predicted = [_predicted(row, rule, objective) for row in rows]
    positions, targets, weights = [], [], []
    for place, (row, is_predicted) in enumerate(zip(rows, predicted, strict=True)):
        input_ids[place, : len(row.token_ids) - 1] = row.token_ids[:-1]
        (here,) = np.nonzero(is_predicted)
        positions.append(place * width + here)
        targets.append(row.token_ids[1:][here])
        weights.append(np.full(len(here), 1 if mean_over == "tokens" else 1 / max(1, len(here)), dtype=np.float32))
    return {
        "input_ids": torch.from_numpy(input_ids),
        "positions": torch.from_numpy(np.concatenate(positions)),
        "targets": torch.from_numpy(np.concatenate(targets)),
        "weights": torch.from_numpy(np.concatenate(weights)),
        **objective.more(rows, predicted),
    }


def _predicted(row: Row, rule: TokenRule, objective: Objective) -> NDArray[np.bool_]:
    may_be = _may_be_predicted(row, rule)
    return objective.predicted(row, may_be) if may_be.any() else may_be


def _may_be_predicted(row: Row, rule: TokenRule) -> NDArray[np.bool_]:
    may_be = rule.scored(row.token_ids)
    may_be[: row.num_without_loss - 1] = False
    if row.cut_ends is not None:
        may_be[row.cut_ends - 1] = False
    return may_be
