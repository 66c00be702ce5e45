"""What training and scoring cost: by hand, and as the paper prints it."""

import pytest

from miniplm_assets.core.flops import scoring_flops, training_flops, vanilla_kd_steps


def test_two_flops_a_parameter_and_token_to_score_and_six_to_train() -> None:
    assert scoring_flops(5, 7) == 2 * 5 * 7
    assert training_flops(5, 7) == 6 * 5 * 7


def test_a_step_that_also_runs_the_teacher_costs_as_much_more() -> None:
    # 2 parameters and a teacher of 3: 6 * 2 = 12 a token alone, 12 + 2 * 3 = 18 with it; 900 * 12 / 18 steps.
    assert vanilla_kd_steps(num_student_parameters=2, num_teacher_parameters=3, num_steps=900) == pytest.approx(600)


def test_the_steps_of_vanilla_kd_are_those_of_the_paper() -> None:
    # The paper prints 25K, 45K and 65K, rounded to 5K; parameters as counted in test_paper_experiment.
    for num_parameters, published in ((203_437_824, 25_000), (463_987_712, 45_000), (1_160_566_272, 65_000)):
        steps = vanilla_kd_steps(
            num_student_parameters=num_parameters, num_teacher_parameters=1_836_828_672, num_steps=100_000
        )
        assert abs(steps - published) <= 2_500
