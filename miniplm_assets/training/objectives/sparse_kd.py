"""Sparse KD: the teacher's scores keep some ids of its distribution for each token, and the student learns from these.

    loss = (1 - weight) * cross-entropy + weight * D

The teacher has run once, to score the corpus; nothing runs beside the student, whatever it is trained with afterwards,
and however often (arXiv 2503.16870). What is kept decides what D is; v_1 .. v_n are the ids of a token.

`sampled`: v_i are drawn from p, with replacement, and

    D = mean over i of (log p(v_i) - log q(v_i)),    slope by the student's logits: q - (the share of each id)

whose expectation over the draws is the forward KL(p || q), and its slope q - p: right in the mean however few are
drawn, at the price of noise, whose variance falls as 1 / n. What is drawn is the same in every epoch.

`top_k`: v_i are the n likeliest, p' is p over them alone, scaled to add up to 1, and

    D = KL(p' || q),    slope: q - p'

which is biased: it is least where the student gives the tail nothing, and the n likeliest more than the teacher does,
each by the same factor. That error does not become smaller with more data.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from miniplm_assets.core.flops import TRAINING_FLOPS
from miniplm_assets.experiment.objectives import SparseKd
from miniplm_assets.training.kept_token_file import write_kept_token_file
from miniplm_assets.training.objectives.cross_entropy import cross_entropy_of
from miniplm_assets.training.objectives.objective import Batch, Loss, Objective, ObjectiveKind, Setting
from miniplm_assets.training.objectives.output_layer import LossOfTokens, OutputLayer, Part, TokenNats

if TYPE_CHECKING:
    import torch

    from miniplm_assets.training.token_file import Row

TEACHER_SCORES: Final = "teacher_scores"
# Names in a batch, and of the folder.
KEPT_IDS: Final = "kept_token_ids"
KEPT_LOGPROBS: Final = "kept_logprobs_nats"
KEPT_TOKENS: Final = "kept_tokens"


class SparseKdLoss(Objective):
    """Cross-entropy, and an estimate of the forward KL from what a teacher's scores keep."""

    def __init__(self, settings: SparseKd, setting: Setting) -> None:
        super().__init__()
        self._output = OutputLayer(setting)
        self._kept = write_kept_token_file(
            setting.work / KEPT_TOKENS,
            files=setting.inputs[TEACHER_SCORES].files,
            scores=f"{settings.teacher}/{TEACHER_SCORES}",
            tokens=setting.tokens,
            vocab_size=setting.vocab_size,
            end_of_document_id=setting.end_of_document_id,
            data_fingerprint=setting.data_fingerprint,
            report=setting.report,
        )
        self._loss_of = _loss_of_tokens(settings.weight, self._kept.method)

    def more(self, rows: "Sequence[Row]", is_predicted: Sequence[NDArray[np.bool_]]) -> Batch:
        """Return what is kept for the predicted tokens of a batch; see `Objective.more`.

        Returns:
            kept_token_ids: int32 of shape (num_predicted, number).
            kept_logprobs_nats: float16 of the same shape.
        """
        import torch

        num_tokens = [int(one.sum()) for one in is_predicted]
        token_ids, logprobs = self._kept.of([row.sequence_id for row in rows], num_tokens)
        return {KEPT_IDS: torch.from_numpy(token_ids), KEPT_LOGPROBS: torch.from_numpy(logprobs)}

    def loss(self, model: Any, batch: Batch) -> Loss:
        """Return the loss of a batch; see `Objective.loss`."""
        of_tokens = (batch["targets"], batch["weights"], batch[KEPT_IDS], batch[KEPT_LOGPROBS])
        text = Part(len(batch["targets"]), self._loss_of, lambda rows: tuple(one[rows] for one in of_tokens))
        total, nats = self._output.loss(model, batch, [text])
        return Loss(total, nats.loss.sum(), nats.nll.sum())


def _loss_of_tokens(weight: float, method: str) -> LossOfTokens:
    """Return (1 - weight) * cross-entropy + weight * D of each token; see `output_layer`."""

    def loss_of(
        logits: "torch.Tensor",
        targets: "torch.Tensor",
        weights: "torch.Tensor",
        kept_ids: "torch.Tensor",
        kept_logprobs: "torch.Tensor",
    ) -> TokenNats:
        import torch

        places = torch.cat([kept_ids.long(), targets.unsqueeze(1)], dim=1)
        picked = logits.gather(1, places)
        nll = cross_entropy_of(logits, targets, weights)
        log_q = picked[:, :-1] - picked[:, -1:] - nll.unsqueeze(1)
        shares, log_p = _teacher(kept_logprobs.float(), method)
        # An id of no probability, as where a model masks some, adds nothing.
        divergence = torch.where(shares > 0, shares * (log_p - log_q), 0.0).sum(dim=1)
        # The slope is q - (the text's token): move a share of the latter to the teacher's.
        moved = torch.cat([-shares, torch.ones_like(picked[:, -1:])], dim=1)
        logits.scatter_add_(1, places, moved.mul_((weight * weights).unsqueeze(1)))
        return TokenNats((nll * (1 - weight)).add_(divergence, alpha=weight), nll)

    return loss_of


def _teacher(log_p: "torch.Tensor", method: str) -> "tuple[torch.Tensor, torch.Tensor]":
    """Return what each kept id weighs, and its log p."""
    import torch

    if method == "sampled":
        return torch.full_like(log_p, 1 / log_p.shape[1]), log_p
    log_p = log_p.log_softmax(dim=1)
    return log_p.exp(), log_p


def _inputs(settings: SparseKd) -> Mapping[str, tuple[str, str]]:
    return {TEACHER_SCORES: (TEACHER_SCORES, settings.teacher)}


def _flops_per_token(_settings: SparseKd, num_parameters: int, _others: Mapping[str, int]) -> int:
    """6 N: the teacher's part was counted when it scored."""
    return TRAINING_FLOPS * num_parameters


KIND = ObjectiveKind(inputs=_inputs, flops_per_token=_flops_per_token, open=SparseKdLoss)
