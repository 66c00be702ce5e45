"""Reading loss curves: the tokens that one student saves against another."""

from collections.abc import Sequence


def tokens_to_loss(
    num_tokens: Sequence[int], nll_nats_per_token: Sequence[float], *, target_nats_per_token: float
) -> float | None:
    """Return the tokens after which a loss curve first reaches a target.

    Between two evaluations the curve is taken as a straight line.

    Args:
        num_tokens: tokens trained on at each evaluation, increasing.
        nll_nats_per_token: the held-out loss there.
        target_nats_per_token: the loss to reach.

    Returns:
        Tokens; None where the curve never comes down to the target.
    """
    before: tuple[int, float] | None = None
    for tokens, loss in zip(num_tokens, nll_nats_per_token, strict=True):
        if loss <= target_nats_per_token:
            if before is None:
                return float(tokens)
            tokens_before, loss_before = before
            share = (loss_before - target_nats_per_token) / (loss_before - loss)
            return tokens_before + share * (tokens - tokens_before)
        before = (tokens, loss)
    return None


def tokens_saved_factor(*, baseline_tokens: int, tokens_to_baseline_loss: float | None) -> float | None:
    """Return how many times fewer tokens a student needs for the baseline's final loss; None where it never gets there.

    Above 1, the student is ahead. A factor of 2 says: half of the baseline's tokens were enough.
    """
    return None if tokens_to_baseline_loss is None else baseline_tokens / tokens_to_baseline_loss
