"""MiniLLM: the student continues a text, and learns from what a teacher thinks of that (arXiv 2306.08543).

A sequence's first tokens are a text x; behind it stand up to n = `num_sampled_tokens` drawn ones, y_1 .. y_T, up to and
with an end-of-document token. With p the teacher, q the student, and r_t = log p(y_t | y_<t, x) - log q(y_t | y_<t, x),
the reverse KL and its gradient (the paper's section 2.2 and appendix A) are

    (1) L = KL(q(y|x) || p(y|x)) = - E_(y~q) sum of r_t
    (2) grad L = - E_(y~q) sum over t of (R_t - 1) grad log q(y_t),         R_t = r_t + r_(t+1) + ... + r_T

The score has mean 0, E_(v~q) grad log q(v) = 0, so that the - 1 may go; and of R_t = r_t + R_(t+1), the mean of
r_t grad log q(y_t) over y_t is known exactly: it is the slope of a token's own KL, sum of q(v) (log q(v) - log p(v))
over the vocabulary. That is the single-step decomposition:

    (3) grad L = E_(y~q) sum over t of [ grad KL(q(.|y_<t, x) || p(.|y_<t, x)) - R_(t+1) grad log q(y_t) ]
                                         (grad L)_Single                         (grad L)_Long

Teacher-mixed sampling draws from p~ = alpha p + (1 - alpha) q at each token, alpha = `teacher_mix`, and weighs each
term by how much likelier q makes what was drawn. Exact weights are products over all tokens up to t, whose variance
grows with each; the paper takes the last factor alone, for both parts:

    (4) w_t = q(y_t | y_<t, x) / p~(y_t | y_<t, x) <= 1 / (1 - alpha)

That is biased for alpha > 0, in that what stands before and behind y_t comes from p~ and not from q; for alpha = 0 it
is 1, and nothing is biased. Length normalisation takes the mean of the later rewards in place of their sum, else short
continuations have less to lose:

    (5) R_(t+1) = (r_(t+1) + ... + r_T) / (T - t), and 0 for t = T

Altogether, with M the summed weights of the text's predicted tokens, which are what a step's mean is taken over,

    (6) total = sum over texts of [ `pretraining_weight` * cross-entropy of x
                                    + M / n * sum over t of w_t (KL_t - R_(t+1) log q(y_t)) ]

with w_t and R constants. n is the same for all continuations of a text, however early they end: by T instead, which
depends on what was drawn, the gradient would be another than (3). M / n makes both terms nats a token, also where steps
are added up of several batches, and where the mean is over sequences. What is reported for the log is KL_t without the
last term, which has no meaning but for its slope.

The cross-entropy of the text is the paper's third loss, as large as the other in the official code (`lm_coef` 1). There
it takes batches of its own; here it is that of x, for whose tokens the student computes anyhow, so that a step costs
what arXiv 2410.17215 counts. Left out of the official code (LMOps/minillm) are what serves several updates on one draw
(clipped ratios; here is one update, and (4) is bounded), its scaled, clipped and whitened rewards, and rewards that
begin with r_t itself although that is in the single part.

Tokens are drawn without dropout; gradients are taken with it. The random numbers come from torch's generator of the
CPU, whatever is trained on, as many for each sequence however batches are cut: checkpoints hold its state.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from miniplm_assets.core.flops import FORWARD_FLOPS, TRAINING_FLOPS
from miniplm_assets.experiment.objectives import MiniLlm
from miniplm_assets.lm.modes import evaluation_mode
from miniplm_assets.training.objectives.cross_entropy import cross_entropy_of, nats_of_text
from miniplm_assets.training.objectives.divergences import reverse_kl
from miniplm_assets.training.objectives.objective import Batch, Loss, Objective, ObjectiveKind, Setting
from miniplm_assets.training.objectives.output_layer import LossOfTokens, OutputLayer, Part, TokenNats
from miniplm_assets.training.objectives.sampling import (
    Continuations,
    Reader,
    draw_continuations,
    mixed_log_probabilities,
)
from miniplm_assets.training.objectives.teacher import TEACHER, Teacher, log_softmax_, teacher_input

if TYPE_CHECKING:
    import torch

    from miniplm_assets.training.token_file import Row

# Of the size of a chunk's logits: log p, the long part's slope, log q, and what an operation between them takes.
NUM_BUFFERS: Final = 4
# The second is predicted, so that a text has a weight.
MIN_TEXT_TOKENS: Final = 2


class MiniLlmLoss(Objective):
    """Cross-entropy of a text, and the reverse KL of what the student continues it with."""

    def __init__(self, settings: MiniLlm, setting: Setting) -> None:
        super().__init__()
        self._settings, self._student = settings, setting.model
        self._vocab_size, self._end = setting.vocab_size, setting.end_of_document_id
        self._output = OutputLayer(setting, num_buffers=NUM_BUFFERS)
        self._loss_of_sampled = _loss_of_sampled(setting.vocab_size)
        self._teacher = Teacher(settings, setting)
        self.num_parameters = {TEACHER: self._teacher.num_parameters}

    def predicted(self, row: "Row", is_predicted: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which tokens of a sequence have a cross-entropy: those of its text; see `Objective.predicted`."""
        kept = is_predicted.copy()
        kept[self._text_length(row) - 1 :] = False
        return kept

    def more(self, rows: "Sequence[Row]", is_predicted: Sequence[NDArray[np.bool_]]) -> Batch:  # noqa: ARG002
        """Return the texts and how long their continuations may be; see `Objective.more`.

        Returns:
            texts: int64 of shape (sequences, longest), padded at the right.
            text_lengths: int64 of shape (sequences,).
            max_lengths: likewise, of the continuations.
        """
        import torch

        lengths = [self._text_length(row) for row in rows]
        texts = np.full((len(rows), max(lengths)), self._end, dtype=np.int64)
        for text, row, length in zip(texts, rows, lengths, strict=True):
            text[:length] = row.token_ids[:length]
        beyond = [max(1, len(row.token_ids) - length) for row, length in zip(rows, lengths, strict=True)]
        return {
            "texts": torch.from_numpy(texts),
            "text_lengths": torch.tensor(lengths),
            "max_lengths": torch.tensor(beyond),
        }

    def loss(self, model: Any, batch: Batch) -> Loss:
        """Return the loss of a batch; see `Objective.loss`."""
        return self.loss_of(model, batch, self.sample(batch))

    def sample(self, batch: Batch) -> Continuations:
        """Return a continuation of each text of a batch."""
        import torch

        texts = batch["texts"]
        uniforms = torch.rand((len(texts), self._settings.num_sampled_tokens), dtype=torch.float64)
        with torch.no_grad(), evaluation_mode(self._student):
            continuations = draw_continuations(
                Reader(self._student, vocab_size=self._vocab_size),
                self._teacher.reader(),
                texts=texts,
                text_lengths=batch["text_lengths"],
                max_lengths=batch["max_lengths"],
                uniforms=uniforms.to(texts.device),
                teacher_mix=self._settings.teacher_mix,
                end_of_document_id=self._end,
            )
        # It holds weights of another dtype that were made without gradients.
        torch.clear_autocast_cache()
        return continuations

    def loss_of(self, model: Any, batch: Batch, continuations: Continuations) -> Loss:
        """Return the loss of a batch, given what was drawn.

        Args:
            model: the student.
            batch: as `training.batch.make_batch` returns it.
            continuations: of its texts.
        """
        import torch

        targets, weights, max_lengths = batch["targets"], batch["weights"], batch["max_lengths"]
        input_ids, tokens = continuations.token_ids[:, :-1], continuations.token_ids[:, 1:]
        is_sampled = continuations.is_sampled[:, 1:]
        width = batch["input_ids"].shape[1]
        owners, columns = batch["positions"] // width, batch["positions"] % width
        sampled_owners, sampled_columns = is_sampled.nonzero(as_tuple=True)
        positions = torch.cat([owners, sampled_owners]) * input_ids.shape[1] + torch.cat([columns, sampled_columns])
        num_texts, num_predicted = len(input_ids), len(targets)
        per_token = (weights.new_zeros(num_texts).index_add_(0, owners, weights) / max_lengths)[sampled_owners]
        states = self._teacher.states(input_ids.contiguous(), positions[num_predicted:])
        sampled = tokens[is_sampled]
        importance, later = (values[:, 1:][is_sampled] for values in self._constants(continuations))

        share = self._settings.pretraining_weight * weights
        text = Part(num_predicted, nats_of_text, lambda rows: (targets[rows], share[rows]))
        continued = Part(
            len(sampled),
            self._loss_of_sampled,
            lambda rows: (
                self._teacher.logits(states[rows]),
                sampled[rows],
                later[rows],
                importance[rows],
                per_token[rows],
            ),
        )
        total, nats = self._output.loss(
            model,
            {"input_ids": input_ids, "positions": positions, "weights": torch.cat([share, per_token])},
            [text, continued],
        )
        nll_nats = nats.nll[:num_predicted].sum()
        num_of_text = torch.bincount(owners, minlength=num_texts) / max_lengths
        of_sampled_nats = (num_of_text[sampled_owners] * nats.loss[num_predicted:]).sum()
        return Loss(total, self._settings.pretraining_weight * nll_nats + of_sampled_nats, nll_nats)

    def _constants(self, continuations: Continuations) -> "tuple[torch.Tensor, torch.Tensor]":
        """Return w_t and R_(t+1) of (4) and (5) at every place; what was not drawn has no meaning."""
        _, is_sampled, log_p, log_q = continuations
        rewards = (log_p - log_q).double()
        later = rewards.flip(1).cumsum(1).flip(1) - rewards
        if self._settings.length_normalised:
            num_later = is_sampled.flip(1).cumsum(1).flip(1) - is_sampled.long()
            later /= num_later.clamp(min=1)
        importance = (log_q - mixed_log_probabilities(log_p, log_q, self._settings.teacher_mix)).exp()
        return importance, later.float()

    def _text_length(self, row: "Row") -> int:
        return max(MIN_TEXT_TOKENS, len(row.token_ids) - self._settings.num_sampled_tokens)


def _loss_of_sampled(vocab_size: int) -> LossOfTokens:
    """Return importance * the reverse KL of each sampled token, with the slope of its later rewards beside its own."""

    def loss_of(
        logits: "torch.Tensor",
        teacher_logits: "torch.Tensor",
        sampled: "torch.Tensor",
        later: "torch.Tensor",
        importance: "torch.Tensor",
        weights: "torch.Tensor",
    ) -> TokenNats:
        known = logits[:, :vocab_size]  # none else is drawn
        long = known.clone()
        nll = cross_entropy_of(long, sampled, later)
        divergence = reverse_kl(log_softmax_(teacher_logits.float()), log_softmax_(known))
        known.add_(long).mul_((weights * importance).unsqueeze(1))
        logits[:, vocab_size:] = 0
        return TokenNats(divergence.mul_(importance), nll)

    return loss_of


def _flops_per_token(_settings: MiniLlm, num_parameters: int, others: Mapping[str, int]) -> int:
    """8 N + 4 T: both draw, the student learns, the teacher judges (arXiv 2410.17215, section 3.1)."""
    return (TRAINING_FLOPS + FORWARD_FLOPS) * num_parameters + 2 * FORWARD_FLOPS * others[TEACHER]


KIND = ObjectiveKind(inputs=teacher_input, flops_per_token=_flops_per_token, open=MiniLlmLoss)
