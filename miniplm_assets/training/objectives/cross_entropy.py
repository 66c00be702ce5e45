"""Plain cross-entropy: the objective of pre-training (arXiv 2410.17215, section 2.2).

    loss = - sum over i of m_i * log q(t_i | t_0 .. t_(i-1)) / sum of m_i

over the predicted tokens of a whole step, m_i as in `lm.scores.TokenRule`: each token weighs the same, whatever the
length of its sequence. The published scripts take that of each sequence by itself, and then the mean over the
sequences of a step: each sequence weighs the same (`training.loss_mean_over: sequences`).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from miniplm_assets.core.flops import training_flops
from miniplm_assets.experiment.objectives import CrossEntropy
from miniplm_assets.training.objectives.objective import NO_LOSS, Loss, LossFunction, MeanOver, ObjectiveKind

if TYPE_CHECKING:
    import torch


def _open(_settings: CrossEntropy, mean_over: MeanOver) -> LossFunction:
    def loss(model: Any, batch: "Mapping[str, torch.Tensor]") -> Loss:
        import torch

        labels = batch["labels"]
        logits = model(input_ids=batch["input_ids"]).logits
        nats = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(),
            labels.flatten(),
            ignore_index=NO_LOSS,
            reduction="none" if mean_over == "sequences" else "sum",
        )
        is_predicted = labels != NO_LOSS
        if mean_over == "sequences":
            return Loss(nats.view_as(labels).sum(1), is_predicted.sum(1))
        return Loss(nats, is_predicted.sum())

    return loss


def _inputs(_settings: CrossEntropy) -> Mapping[str, tuple[str, str]]:
    return {}


KIND = ObjectiveKind(inputs=_inputs, flops=training_flops, open=_open)
