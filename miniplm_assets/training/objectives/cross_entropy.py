"""Plain cross-entropy: the objective of pre-training (arXiv 2410.17215, section 2.2).

    loss = - sum over i of m_i * log q(t_i | t_0 .. t_(i-1)) / sum of m_i

over the predicted tokens of a whole step, m_i as in `lm.scores.TokenRule`: each token weighs the same, whatever the
length of its sequence. The published scripts take that of each sequence by itself, and then the mean over the
sequences of a step: each sequence weighs the same (`training.loss_mean_over: sequences`).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from miniplm_assets.core.flops import TRAINING_FLOPS
from miniplm_assets.experiment.objectives import CrossEntropy
from miniplm_assets.training.objectives.objective import Batch, Loss, Objective, ObjectiveKind, Setting
from miniplm_assets.training.objectives.output_layer import OutputLayer, Part, TokenNats

if TYPE_CHECKING:
    import torch


def cross_entropy_of(logits: "torch.Tensor", targets: "torch.Tensor", weights: "torch.Tensor") -> "torch.Tensor":
    """Return - log softmax(logits) at the targets; leave d(sum of weight * that) / d logits in the place of the logits.

    Args:
        logits: float32 of shape (tokens, vocab_size).
        targets: int64 of shape (tokens,).
        weights: float32 of shape (tokens,).

    Returns:
        float32 of shape (tokens,), nats. NaN where a logit is NaN or +infinity.
    """
    places = targets.unsqueeze(1)
    logits -= logits.amax(dim=1, keepdim=True)
    target_logits = logits.gather(1, places).squeeze(1)
    total = logits.exp_().sum(dim=1)
    logits *= (weights / total).unsqueeze(1)
    logits.scatter_add_(1, places, -weights.unsqueeze(1))
    return total.log_() - target_logits


def nats_of_text(logits: "torch.Tensor", targets: "torch.Tensor", weights: "torch.Tensor") -> TokenNats:
    """Return the cross-entropy as `output_layer.LossOfTokens`."""
    nll = cross_entropy_of(logits, targets, weights)
    return TokenNats(nll, nll)


class CrossEntropyLoss(Objective):
    """The cross-entropy of the text."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self._output = OutputLayer(setting)

    def loss(self, model: Any, batch: Batch) -> Loss:
        """Return the loss of a batch; see `Objective.loss`."""
        targets, weights = batch["targets"], batch["weights"]
        text = Part(len(targets), nats_of_text, lambda rows: (targets[rows], weights[rows]))
        total, nats = self._output.loss(model, batch, [text])
        return Loss(total, nats.loss.sum(), nats.nll.sum())


def _inputs(_settings: CrossEntropy) -> Mapping[str, tuple[str, str]]:
    return {}


def _flops_per_token(_settings: CrossEntropy, num_parameters: int, _others: Mapping[str, int]) -> int:
    return TRAINING_FLOPS * num_parameters


KIND = ObjectiveKind(
    inputs=_inputs, flops_per_token=_flops_per_token, open=lambda _settings, setting: CrossEntropyLoss(setting)
)
