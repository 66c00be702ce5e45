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


def vanilla_kd_steps(*, num_student_parameters: int, num_teacher_parameters: int, num_steps: int) -> float:
    """Return the steps of Vanilla KD that cost what `num_steps` of plain training cost: 3N / (3N + T) * S.

    A step of Vanilla KD also runs the teacher forward, so that it costs 6N + 2T a token instead of 6N
    (arXiv 2410.17215, section 3.1: 25K, 45K and 65K of 100K steps for 200M, 500M and 1.2B students).
    """
    plain = TRAINING_FLOPS * num_student_parameters
    return plain / (plain + FORWARD_FLOPS * num_teacher_parameters) * num_steps
