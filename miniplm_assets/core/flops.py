"""What training and scoring cost, in floating-point operations.

A parameter that is used for a token costs one multiplication and one addition in the forward pass, and
twice that in the backward pass (Kaplan et al. 2020, arXiv 2001.08361, section 2.1): 2 N D to score D
tokens with N parameters, 6 N D to train on them. Attention over the context is left out, as there.
"""

FORWARD_FLOPS = 2  # per parameter and token
TRAINING_FLOPS = 3 * FORWARD_FLOPS


def scoring_flops(num_parameters: int, num_tokens: int) -> int:
    """Return the FLOPs of one forward pass over the tokens: 2 N D."""
    return FORWARD_FLOPS * num_parameters * num_tokens


def training_flops(num_parameters: int, num_tokens: int) -> int:
    """Return the FLOPs of training on the tokens: 6 N D."""
    return TRAINING_FLOPS * num_parameters * num_tokens


def equal_flops_tokens(num_tokens: int, *, flops_per_token: int, own_flops_per_token: int) -> int:
    """Return on how many tokens another training costs what one on `num_tokens` costs, to the nearest; at least 1.

    Vanilla KD runs the teacher forward too, 6 N + 2 T a token in place of 6 N, so that it takes 3 N / (3 N + T) of the
    tokens (arXiv 2410.17215, section 3.1: 25K, 45K and 65K of 100K steps for 200M, 500M and 1.2B students).

    Args:
        num_tokens: of the one.
        flops_per_token: of the one.
        own_flops_per_token: of the other.
    """
    return max(1, (2 * num_tokens * flops_per_token + own_flops_per_token) // (2 * own_flops_per_token))
