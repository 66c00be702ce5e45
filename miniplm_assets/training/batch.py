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
    """The sequences of a run in the order in which they are learned from: a map-style torch data set."""

    tokens: TokenFile
    order: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> Row:
        return self.tokens.row(int(self.order[place]))


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
    predicted = [objective.predicted(row, _may_be_predicted(row, rule)) for row in rows]
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


def _may_be_predicted(row: Row, rule: TokenRule) -> NDArray[np.bool_]:
    may_be = rule.scored(row.token_ids)
    may_be[: row.num_without_loss - 1] = False
    if row.cut_ends is not None:
        may_be[row.cut_ends - 1] = False
    return may_be
