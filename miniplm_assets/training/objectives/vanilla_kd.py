"""Vanilla KD: the teacher runs beside the student, and each token is learned from its whole distribution.

    loss = (1 - weight) * cross-entropy + weight * temperature^2 * D(p_temperature, q_temperature)

with D the forward KL of the paper (arXiv 2410.17215, section 3.1, weight 0.5, temperature 1), the reverse KL, or the
Jensen-Shannon divergence; p and q are soft-maxes of logits / temperature. The factor keeps the size of the gradients as
the temperature rises (Hinton et al. 2015, arXiv 1503.02531, section 2). What carries no cross-entropy, padding and what
follows an end-of-document token, carries none of the other term either, as published. The published code reports the
cross-entropy to the teacher, which is higher than the KL by the teacher's entropy and has the same gradient.

The ids of the tokenizer alone count: either model's vocabulary may be padded beyond, by another width.

Neither model's logits exist whole: a teacher's are computed beside the student's, for the same hundred tokens.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from miniplm_assets.core.flops import FORWARD_FLOPS, TRAINING_FLOPS
from miniplm_assets.experiment.objectives import VanillaKd
from miniplm_assets.training.objectives.cross_entropy import cross_entropy_of
from miniplm_assets.training.objectives.divergences import DIVERGENCES, Divergence
from miniplm_assets.training.objectives.objective import Batch, Loss, Objective, ObjectiveKind, Setting
from miniplm_assets.training.objectives.output_layer import LossOfTokens, OutputLayer, Part, TokenNats
from miniplm_assets.training.objectives.teacher import TEACHER, Teacher, log_softmax_, teacher_input

if TYPE_CHECKING:
    import torch

# Of the size of a chunk's logits: the teacher's. What is made of them is so of a few tokens at once.
NUM_BUFFERS: Final = 1


class VanillaKdLoss(Objective):
    """Cross-entropy, and a divergence from a teacher that runs beside the student."""

    def __init__(self, settings: VanillaKd, setting: Setting) -> None:
        super().__init__()
        self._output = OutputLayer(setting, num_buffers=NUM_BUFFERS)
        self._loss_of = _loss_of_tokens(settings.weight, settings.temperature, DIVERGENCES[settings.divergence])
        self._teacher = Teacher(settings, setting)
        self.num_parameters = {TEACHER: self._teacher.num_parameters}

    def loss(self, model: Any, batch: Batch) -> Loss:
        """Return the loss of a batch; see `Objective.loss`."""
        targets, weights = batch["targets"], batch["weights"]
        states = self._teacher.states(batch["input_ids"], batch["positions"])
        text = Part(
            len(targets),
            self._loss_of,
            lambda rows: (self._teacher.logits(states[rows]), targets[rows], weights[rows]),
        )
        total, nats = self._output.loss(model, batch, [text])
        return Loss(total, nats.loss.sum(), nats.nll.sum())


def _loss_of_tokens(share: float, temperature: float, diverge: Divergence) -> LossOfTokens:
    """Return (1 - share) * cross-entropy + share * temperature^2 * D of each token; see `output_layer`."""

    def loss_of(
        logits: "torch.Tensor", teacher_logits: "torch.Tensor", targets: "torch.Tensor", weights: "torch.Tensor"
    ) -> TokenNats:
        log_p = log_softmax_(teacher_logits.float(), temperature)
        slope = log_softmax_(logits[:, : log_p.shape[1]].clone(), temperature)  # the rest is padding
        divergence = diverge(log_p, slope)
        if temperature != 1:
            divergence *= temperature**2
            slope *= temperature  # temperature^2, and 1 / temperature of the inner derivative
        nll = cross_entropy_of(logits, targets, weights)
        logits.mul_(1 - share)[:, : slope.shape[1]].add_(slope.mul_((share * weights).unsqueeze(1)))
        return TokenNats((nll * (1 - share)).add_(divergence, alpha=share), nll)

    return loss_of


def _flops_per_token(_settings: VanillaKd, num_parameters: int, others: Mapping[str, int]) -> int:
    """6 N + 2 T (arXiv 2410.17215, section 3.1)."""
    return TRAINING_FLOPS * num_parameters + FORWARD_FLOPS * others[TEACHER]


KIND = ObjectiveKind(inputs=teacher_input, flops_per_token=_flops_per_token, open=VanillaKdLoss)
