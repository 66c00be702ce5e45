"""The tokens that one student saves against another, on curves whose crossings can be read off."""

import pytest

from miniplm_assets.core.curves import tokens_saved_factor, tokens_to_loss


def test_the_crossing_lies_on_the_line_between_two_evaluations() -> None:
    assert tokens_to_loss([100, 200, 300], [5.0, 4.0, 3.0], target_nats_per_token=3.25) == 275.0
    assert tokens_to_loss([100, 200, 300], [5.0, 4.0, 3.0], target_nats_per_token=4.0) == 200.0
    assert tokens_to_loss([100, 200], [5.0, 4.0], target_nats_per_token=6.0) == 100.0
    assert tokens_to_loss([100, 200], [5.0, 4.0], target_nats_per_token=5.0) == 100.0
    assert tokens_to_loss([100, 200], [5.0, 4.0], target_nats_per_token=4.0) == 200.0  # reached at the very end
    assert tokens_to_loss([100, 200], [5.0, 4.0], target_nats_per_token=3.9) is None
    # the first time counts, also where the curve rises again
    assert tokens_to_loss([100, 200, 300, 400], [5.0, 3.0, 5.0, 1.0], target_nats_per_token=4.0) == 150.0


def test_a_curve_needs_a_loss_for_each_evaluation() -> None:
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        tokens_to_loss([100, 200], [5.0], target_nats_per_token=4.0)


def test_the_factor_is_the_tokens_of_the_baseline_by_those_needed() -> None:
    assert tokens_saved_factor(baseline_tokens=300, tokens_to_baseline_loss=120.0) == 2.5
    assert tokens_saved_factor(baseline_tokens=300, tokens_to_baseline_loss=None) is None
