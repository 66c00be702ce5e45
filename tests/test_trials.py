"""Samples, the agreement of two scorings, and the pilot's verdict, on cases that can be worked by hand."""

import numpy as np
import polars as pl
import pytest

from miniplm_assets.core.agreement import broken_limits, compare_scores, summarise
from miniplm_assets.core.pilot import judge_pilot, reasons_against
from miniplm_assets.core.sampling import agreement_sample, hash_fractions, with_share

LIMITS = {
    "max_mean_difference_nats_per_token": 0.02,
    "max_difference_nats_per_token": 0.2,
    "min_rank_correlation": 0.9,
    "max_flip_share": 0.1,
}
PILOT_LIMITS = {
    "max_share_below_zero": 0.5,
    "min_spread_nats_per_token": 0.05,
    "max_rank_correlation_with_one_model": 0.95,
}


def test_hash_fractions_are_those_of_splitmix64():
    def splitmix64(state):  # the reference code in C of its authors, in Python integers
        mask = 2**64 - 1
        state = (state + 0x9E3779B97F4A7C15) & mask
        mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
        return mixed ^ (mixed >> 31)

    assert splitmix64(1234567) == 6457827717110365317  # the published first output for this seed
    ids = np.array([0, 1, 1234567, 2**62, -5], dtype=np.int64)
    expected = [(splitmix64(int(one) % 2**64) >> 11) / 2**53 for one in ids]
    assert hash_fractions(ids, seed=0).tolist() == expected


def test_a_share_is_about_that_share_and_a_larger_one_holds_it():
    rows = pl.DataFrame({"sequence_id": np.arange(50_000, dtype=np.int64)})
    tenth, half = (with_share(rows, share=share, seed=3) for share in (0.1, 0.5))
    assert len(tenth) == pytest.approx(5_000, abs=4 * 67)  # four standard deviations
    assert set(tenth["sequence_id"]) < set(half["sequence_id"])
    assert set(with_share(rows, share=0.1, seed=4)["sequence_id"]) != set(tenth["sequence_id"])


def differences(values, first_id=0):
    return pl.DataFrame(
        {"sequence_id": np.arange(first_id, first_id + len(values)), "rank_difference": np.array(values, dtype=float)}
    )


def test_the_agreement_sample_is_the_nearest_to_the_cutoff_and_a_random_part_whatever_the_files():
    values = np.random.default_rng(0).permutation(np.arange(1_000) / 100)
    cutoff = {"cutoff_difference": 5.0, "cutoff_sequence_id": int(np.flatnonzero(values == 5.0)[0])}
    settings = {"num_random": 50, "num_around_cutoff": 21, "seed": 1}
    sample = agreement_sample([differences(values)], cutoff, **settings)
    split = agreement_sample([differences(values[:700]), differences(values[700:], 700)], cutoff, **settings)
    assert sample.equals(split)

    around = sample.filter("is_around_cutoff").sort("rank_difference")
    assert around["rank_difference"].to_list() == pytest.approx([4.9 + 0.01 * place for place in range(21)])
    assert around["is_kept"].to_list() == [False] * 10 + [True] * 11
    random = sample.filter("is_random")
    by_hash = np.argsort(hash_fractions(np.arange(1_000), seed=1))[:50]
    assert set(random["sequence_id"]) == set(by_hash.tolist())


def test_a_comparison_counts_errors_order_and_flips():
    # Four sequences of ten tokens; the teacher's second scores are off by 0, +1, -1 and +3 nats, the reference's by 0.
    sample = pl.DataFrame(
        {
            "sequence_id": [1, 2, 3, 4],
            "num_scored_tokens": [10, 10, 10, 10],
            "teacher_logprob_nats": [-10.0, -12.0, -14.0, -16.0],
            "reference_logprob_nats": [-20.0, -20.0, -20.0, -20.0],
            "rank_difference": [1.0, 0.8, 0.6, 0.4],
            "is_kept": [True, True, False, False],
        }
    )
    teacher = pl.DataFrame({"sequence_id": [4, 3, 2, 1], "logprob_nats": [-13.0, -15.0, -11.0, -10.0]})
    reference = pl.DataFrame({"sequence_id": [2, 1, 3, 4], "logprob_nats": [-20.0, -20.0, -20.0, -20.0]})
    cutoff = {"cutoff_difference": 0.7, "cutoff_sequence_id": 2, "rank_by": "nats_per_token"}
    compared = compare_scores(sample, teacher_scores=teacher, reference_scores=reference, cutoff=cutoff)
    assert compared["second_rank_difference"].to_list() == pytest.approx([1.0, 0.9, 0.5, 0.7])
    # 0.7 ties with the cutoff, and sequence 4 comes after sequence 2: not kept. Nothing flips.
    assert compared["would_flip"].to_list() == [False, False, False, False]
    measures = summarise(compared)
    assert measures["mean_teacher_difference_nats_per_token"] == pytest.approx((0 + 0.1 + 0.1 + 0.3) / 4)
    assert measures["largest_teacher_difference_nats_per_token"] == pytest.approx(0.3)
    assert measures["mean_reference_difference_nats_per_token"] == 0
    assert measures["rank_correlation"] == pytest.approx(1 - 6 * 2 / (4 * 15))  # ranks 3 and 4 change places
    assert measures["flip_share"] == 0
    lower = compare_scores(
        sample, teacher_scores=teacher, reference_scores=reference, cutoff=cutoff | {"cutoff_sequence_id": 4}
    )
    assert lower["would_flip"].to_list() == [False, False, False, True]
    assert len(list(broken_limits(summarise(lower), LIMITS))) == 4
    assert list(broken_limits(measures, LIMITS | {"max_difference_nats_per_token": 1})) == [
        "mean difference of the teacher: 0.1250 nats a token, max_mean_difference_nats_per_token is 0.02",
        "rank correlation 0.8000, min_rank_correlation is 0.9",
    ]


def pilot(teacher_nll, reference_nll, **changes):
    n = len(teacher_nll)
    ids = np.arange(n)
    order = np.random.default_rng(0).permutation(n)

    def scores(nll):
        frame = pl.DataFrame(
            {"sequence_id": ids, "logprob_nats": -10.0 * np.array(nll), "num_scored_tokens": np.full(n, 10)}
        )
        return frame[order]

    candidates = pl.DataFrame(
        {"sequence_id": ids, "domain": ["web" if one % 2 else "code" for one in ids], "num_tokens": np.full(n, 11)}
    )
    arguments = {"rank_by": "nats_per_token", "keep_fraction": 0.5, "token_budget": None, "share": 0.1, **changes}
    return judge_pilot(
        candidates, teacher_scores=scores(teacher_nll), reference_scores=scores(reference_nll), **arguments
    )


def test_a_pilot_measures_the_spread_and_the_domains():
    # Every odd sequence, a web page, is 2 nats a token easier for the teacher, every even one 1 nat harder.
    generator = np.random.default_rng(1)
    teacher = generator.uniform(1, 5, 40)
    measures = pilot(teacher, teacher + np.where(np.arange(40) % 2, 2.0, -1.0))
    assert measures["mean_difference_nats_per_token"] == pytest.approx(0.5)
    assert measures["spread_nats_per_token"] == pytest.approx(1.5 * np.sqrt(40 / 39))
    assert measures["share_below_zero"] == 0.5
    assert measures["domains"] == [
        {"domain": "code", "share_of_candidate_tokens": 0.5, "share_of_kept_tokens": 0.0, "token_share_change": -0.5},
        {"domain": "web", "share_of_candidate_tokens": 0.5, "share_of_kept_tokens": 1.0, "token_share_change": 0.5},
    ]
    assert list(reasons_against(measures, PILOT_LIMITS)) == []


def test_a_pilot_keeps_its_share_of_a_token_budget():
    teacher = np.linspace(1, 2, 40)
    measures = pilot(teacher, 2 * teacher, keep_fraction=None, token_budget=1_100)  # 110 tokens: ten sequences
    kept = {row["domain"]: row["share_of_kept_tokens"] for row in measures["domains"]}
    assert kept == {"code": 0.5, "web": 0.5}


@pytest.mark.parametrize(
    ("teacher", "reference", "reason"),
    [
        (np.linspace(2, 4, 40), np.linspace(1, 1.5, 40), "it is the weaker model"),
        (np.linspace(1, 2, 40)[::-1], np.linspace(1, 2, 40)[::-1] + 0.1, "too alike"),
        (np.full(40, 1.0) + np.arange(40) % 3 * 1e-3, np.linspace(2, 9, 40), "the ranking follows the reference's"),
    ],
)
def test_a_pilot_says_what_speaks_against_the_whole(teacher, reference, reason):
    assert any(reason in one for one in reasons_against(pilot(teacher, reference), PILOT_LIMITS))
