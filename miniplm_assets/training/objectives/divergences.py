"""How far two distributions over the vocabulary are apart, and the slope of that.

Each takes log p of the teacher and log q of the student, float32 of shape (tokens, vocab_size), and returns the
divergence in nats of shape (tokens,), and leaves its derivative by the student's logits in the place of log q; log p
may be overwritten. With q = softmax(s):

    forward KL   sum of p (log p - log q)                      slope  q - p
    reverse KL   sum of q (log q - log p)                      slope  q (log q - log p - KL)
    JSD          (KL(p || m) + KL(q || m)) / 2, m = (p + q)/2  slope  q (log q - log m - KL(q || m)) / 2
"""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import torch

Divergence = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]


def forward_kl(log_p: "torch.Tensor", log_q: "torch.Tensor") -> "torch.Tensor":
    """KL(p || q): the student covers all that the teacher finds likely."""
    p = log_p.exp()
    nats = _weighed(p, log_p.sub_(log_q))
    log_q.exp_().sub_(p)
    return nats


def reverse_kl(log_p: "torch.Tensor", log_q: "torch.Tensor") -> "torch.Tensor":
    """KL(q || p): the student keeps to what the teacher finds likely."""
    log_ratio = log_p.neg_().add_(log_q)
    q = log_q.exp_()
    nats = _weighed(q, log_ratio)
    q.mul_(log_ratio.sub_(nats.unsqueeze(1)).nan_to_num_(neginf=0.0))
    return nats


def jensen_shannon(log_p: "torch.Tensor", log_q: "torch.Tensor") -> "torch.Tensor":
    """Half of KL to their mean from each side: at most log 2."""
    import torch

    log_m = torch.logaddexp(log_p, log_q).sub_(math.log(2))
    nats = _weighed(log_p.exp(), log_p.sub_(log_m)).div_(2)
    log_ratio = log_q - log_m
    q = log_q.exp_()
    of_student = _weighed(q, log_ratio)
    q.mul_(log_ratio.sub_(of_student.unsqueeze(1)).div_(2).nan_to_num_(neginf=0.0))
    return nats.add_(of_student, alpha=0.5)


def _weighed(probabilities: "torch.Tensor", logs: "torch.Tensor") -> "torch.Tensor":
    """Return the mean of logs; where a probability is 0, its term is (p log p goes to 0)."""
    import torch

    nats: torch.Tensor = torch.linalg.vecdot(probabilities, logs.nan_to_num_(nan=0.0, posinf=torch.inf, neginf=0.0))
    return nats


DIVERGENCES: Final[Mapping[str, Divergence]] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": jensen_shannon,
}
