"""What training and scoring cost: by hand, and as the paper prints it."""

from miniplm_assets.core.flops import equal_flops_tokens, scoring_flops, training_flops


def test_two_flops_a_parameter_and_token_to_score_and_six_to_train() -> None:
    assert scoring_flops(5, 7) == 2 * 5 * 7
    assert training_flops(5, 7) == 6 * 5 * 7


def test_what_costs_more_a_token_is_trained_on_fewer() -> None:
    # 2 parameters and a teacher of 3: 6 * 2 = 12 a token alone, 12 + 2 * 3 = 18 with it; 900 * 12 / 18.
    assert equal_flops_tokens(900, flops_per_token=12, own_flops_per_token=18) == 600
    assert equal_flops_tokens(900, flops_per_token=18, own_flops_per_token=12) == 1_350
    assert equal_flops_tokens(5, flops_per_token=1, own_flops_per_token=2) == 3  # to the nearest
    assert equal_flops_tokens(1, flops_per_token=1, own_flops_per_token=1_000) == 1
