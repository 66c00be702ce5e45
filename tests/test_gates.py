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


def test_a_share_is_below_its_end():
    rows = pl.DataFrame({"sequence_id": [7]})
    [end] = hash_fractions(np.array([7], dtype=np.int64), seed=3)
    assert len(with_share(rows, share=end, seed=3)) == 0
    assert len(with_share(rows, share=np.nextafter(end, 1), seed=3)) == 1


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


def test_of_equally_near_ones_the_smaller_ids_are_sampled_and_nothing_is_added_but_marks():
    # All are 1 nat away, on both sides; the cutoff itself is nobody's. Every third file is another frame.
    order = np.random.default_rng(2).permutation(30)
    rows = pl.DataFrame({"sequence_id": order, "rank_difference": 5.0 + (-1.0) ** order, "domain": ["web"] * 30})
    cutoff = {"cutoff_difference": 5.0, "cutoff_sequence_id": 4}
    sample = agreement_sample(
        [rows[:10], rows[10:20], rows[20:]], cutoff, num_random=0, num_around_cutoff=4, seed=1
    ).to_dict(as_series=False)
    assert sample == {
        "sequence_id": [0, 1, 2, 3],
        "rank_difference": [6.0, 4.0, 6.0, 4.0],
        "domain": ["web"] * 4,
        "is_kept": [True, False, True, False],
        "is_random": [False] * 4,
        "is_around_cutoff": [True] * 4,
    }


def test_what_is_sampled_twice_is_there_once():
    sample = agreement_sample(
        [differences([1.0, 2.0, 3.0])],
        {"cutoff_difference": 2.0, "cutoff_sequence_id": 1},
        num_random=3,
        num_around_cutoff=2,
        seed=1,
    )
    assert sample.select("sequence_id", "is_kept", "is_random", "is_around_cutoff").rows() == [
        (0, False, True, True),
        (1, True, True, True),
        (2, True, True, False),
    ]


def scored_again(num_scored_tokens, *, rank_by="nats_per_token", **changes):
    """Two sequences, each 4 nats off under the teacher and 2 under the reference, ranked above and at the cutoff."""
    sample = pl.DataFrame(
        {
            "sequence_id": [1, 2],
            "num_scored_tokens": num_scored_tokens,
            "teacher_logprob_nats": [-10.0, -10.0],
            "reference_logprob_nats": [-20.0, -20.0],
            "rank_difference": [10.0, 10.0],
            "is_kept": [True, True],
        }
    )
    scores = {
        "teacher_scores": pl.DataFrame({"sequence_id": [2, 1], "logprob_nats": [-6.0, -6.0]}),
        "reference_scores": pl.DataFrame({"sequence_id": [1, 2], "logprob_nats": [-22.0, -22.0]}),
    }
    cutoff = {"cutoff_difference": 10.0, "cutoff_sequence_id": 2, "rank_by": rank_by}
    return compare_scores(sample, **{**scores, **changes}, cutoff=cutoff)


def test_errors_are_by_scored_token_and_zero_where_nothing_is_scored():
    compared = scored_again([1, 0])
    assert compared["second_rank_difference"].to_list() == [16.0, 0.0]
    assert compared["teacher_error_nats_per_token"].to_list() == [4.0, 0.0]
    assert compared["reference_error_nats_per_token"].to_list() == [-2.0, 0.0]
    assert compared["would_flip"].to_list() == [False, True]
    of_sequences = scored_again([4, 0], rank_by="nats_per_sequence")
    assert of_sequences["second_rank_difference"].to_list() == [16.0, 16.0]
    assert of_sequences["teacher_error_nats_per_token"].to_list() == [1.0, 0.0]


def test_second_scores_pair_one_to_one():
    twice = pl.DataFrame({"sequence_id": [1, 1], "logprob_nats": [-6.0, -6.0]})
    once = pl.DataFrame({"sequence_id": [1], "logprob_nats": [-6.0]})
    for model in ("teacher_scores", "reference_scores"):
        with pytest.raises(pl.exceptions.ComputeError, match="1:1"):
            scored_again([1, 1], **{model: twice})
        with pytest.raises(AssertionError, match=r"^a sequence of the sample was not scored again$"):
            scored_again([1, 1], **{model: once})


def test_of_rows_that_are_all_alike_there_is_no_order_to_agree_on():
    assert summarise(scored_again([2, 2])) == {
        "num_sequences": 2,
        "mean_teacher_difference_nats_per_token": 2.0,
        "mean_reference_difference_nats_per_token": 1.0,
        "largest_teacher_difference_nats_per_token": 2.0,
        "largest_reference_difference_nats_per_token": 1.0,
        "rank_correlation": None,
        "flip_share": 1.0,  # 8 nats a token, and the cutoff is 10
    }


AT_THE_LIMITS = {
    "mean_teacher_difference_nats_per_token": 0.02,
    "mean_reference_difference_nats_per_token": 0.02,
    "largest_teacher_difference_nats_per_token": 0.2,
    "largest_reference_difference_nats_per_token": 0.2,
    "rank_correlation": 0.9,
    "flip_share": 0.1,
}


@pytest.mark.parametrize(
    ("changed", "broken"),
    [
        ({}, []),
        ({"rank_correlation": None}, []),
        (
            {"mean_reference_difference_nats_per_token": 0.03, "largest_teacher_difference_nats_per_token": 1.5},
            [
                "largest difference of the teacher: 1.5 nats a token, max_difference_nats_per_token is 0.2",
                "mean difference of the reference: 0.03 nats a token, max_mean_difference_nats_per_token is 0.02",
            ],
        ),
        ({"rank_correlation": 0.89}, ["rank correlation 0.8900, min_rank_correlation is 0.9"]),
        ({"flip_share": 0.125}, ["12.50% of the selections flip, max_flip_share is 10.00%"]),
    ],
)
def test_a_limit_is_broken_beyond_it_and_named_with_both_numbers(changed, broken):
    assert list(broken_limits(AT_THE_LIMITS | changed, LIMITS)) == broken


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
        "mean difference of the teacher: 0.125 nats a token, max_mean_difference_nats_per_token is 0.02",
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


def judged(rows, **changes):
    """Judge rows of domain, tokens, scored tokens, and the NLL of the whole sequence under teacher and reference."""
    domains, num_tokens, num_scored_tokens, *nlls = zip(*rows, strict=True)
    ids = range(len(rows))
    scores = [
        pl.DataFrame(
            {
                "sequence_id": ids,
                "logprob_nats": [-float(one) for one in nll],
                "num_scored_tokens": num_scored_tokens,
            }
        )[::-1]
        for nll in nlls
    ]
    candidates = pl.DataFrame({"sequence_id": ids, "domain": domains, "num_tokens": num_tokens})
    arguments = {"rank_by": "nats_per_token", "keep_fraction": 0.5, "token_budget": None, "share": 0.1, **changes}
    return judge_pilot(candidates, teacher_scores=scores[0], reference_scores=scores[1], **arguments)


def test_a_pilot_is_the_one_worked_by_hand():
    # Differences of 0, 1, ..., 100 nats a token over 10 tokens each; the teacher's own NLL falls with them as a
    # hyperbola, the reference's rises with them: both in the same order, neither on a line.
    teacher = [1 / (1 + step) for step in range(101)]
    measures = judged([("web", 11, 10, 10 * nll, 10 * (nll + step)) for step, nll in enumerate(teacher)])
    [quantiles] = measures.pop("quantiles_nats_per_token")
    assert quantiles == pytest.approx({"1 %": 1, "5 %": 5, "25 %": 25, "50 %": 50, "75 %": 75, "95 %": 95, "99 %": 99})
    assert measures.pop("domains") == [
        {"domain": "web", "share_of_candidate_tokens": 1.0, "share_of_kept_tokens": 1.0, "token_share_change": 0.0}
    ]
    assert measures == pytest.approx(
        {
            "num_sequences": 101,
            "num_tokens": 101 * 11,
            "mean_difference_nats_per_token": 50.0,
            "spread_nats_per_token": np.sqrt(101 * 102 / 12),  # of 0 to n - 1: n (n + 1) / 12
            "share_below_zero": 0.0,  # 0 is not below
            "rank_correlation_with_teacher": -1.0,
            "rank_correlation_with_reference": 1.0,
        }
    )


def test_a_pilot_leaves_out_what_has_no_scored_token():
    # 3 nats over 1 token, 2 nats over 2, and nothing over none, which counts as a sequence and has no difference.
    rows = [("web", 2, 1, 1.0, 4.0), ("web", 3, 2, 2.0, 4.0), ("web", 1, 0, 0.0, 0.0)]
    measures = judged(rows, rank_by="nats_per_sequence")
    assert (measures["num_sequences"], measures["num_tokens"]) == (3, 6)
    assert measures["mean_difference_nats_per_token"] == 2.0
    assert measures["quantiles_nats_per_token"][0]["1 %"] == 1.0
    assert measures["quantiles_nats_per_token"][0]["99 %"] == 3.0


def test_a_pilot_ranks_as_the_selection_does():
    # a has 4 nats over 4 tokens, b 3 nats over 1 token
    rows = [("a", 5, 4, 1.0, 5.0), ("b", 5, 1, 1.0, 4.0)]
    for rank_by, kept in (("nats_per_sequence", "a"), ("nats_per_token", "b")):
        domains = judged(rows, rank_by=rank_by)["domains"]
        assert {row["domain"]: row["share_of_kept_tokens"] for row in domains} == {"a": 0.0, "b": 0.0, kept: 1.0}


def test_the_domains_of_a_pilot_stand_in_the_order_of_what_they_gain():
    # Kept: the best three of eight, one of web and two of code: 16 tokens of 28.
    rows = [
        ("web", 4, 1, 1.0, 9.0),
        ("notes", 2, 1, 1.0, 2.0),
        ("mails", 2, 1, 1.0, 2.0),
        ("code", 4, 1, 1.0, 8.0),
        ("blogs", 2, 1, 1.0, 2.0),
        ("code", 8, 1, 1.0, 7.0),
        ("forums", 2, 1, 1.0, 2.0),
        ("web", 4, 1, 1.0, 2.0),
    ]
    assert [tuple(row.values()) for row in judged(rows, keep_fraction=0.375)["domains"]] == [
        ("blogs", 2 / 28, 0.0, -2 / 28),  # these four lose the same: by name
        ("forums", 2 / 28, 0.0, -2 / 28),
        ("mails", 2 / 28, 0.0, -2 / 28),
        ("notes", 2 / 28, 0.0, -2 / 28),
        ("web", 8 / 28, 4 / 16, 4 / 16 - 8 / 28),
        ("code", 12 / 28, 12 / 16, 12 / 16 - 12 / 28),
    ]


@pytest.mark.parametrize(
    ("token_budget", "share", "kept"),
    [
        (3, 0.1, {"a"}),  # 0.3 tokens are rounded to none: one is kept all the same
        (20, 0.1, {"a", "b"}),
        (5, 0.5, {"a", "b"}),  # 2.5 tokens: to the even one
        (26, 0.1, {"a", "b", "c"}),
        (1_000, 0.1, {"a", "b", "c", "d"}),
    ],
)
def test_a_pilot_keeps_the_tokens_that_its_share_of_the_budget_rounds_to(token_budget, share, kept):
    rows = [(domain, 1, 1, 1.0, 9.0 - place) for place, domain in enumerate("abcd")]
    domains = judged(rows, keep_fraction=None, token_budget=token_budget, share=share)["domains"]
    assert {row["domain"] for row in domains if row["share_of_kept_tokens"]} == kept


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


AT_THE_PILOT_LIMITS = {
    "share_below_zero": 0.5,
    "spread_nats_per_token": 0.05,
    "rank_correlation_with_teacher": 0.95,
    "rank_correlation_with_reference": -0.95,
}


@pytest.mark.parametrize(
    ("changed", "reasons"),
    [
        ({}, []),
        (
            {"share_below_zero": 0.625},
            [
                "the teacher finds 62.5% of the sequences harder than the reference does (at most 50.0% may): it is "
                "the weaker model, or scores other tokens"
            ],
        ),
        (
            {"spread_nats_per_token": 0.04},
            [
                "the differences spread by 0.0400 nats a token (at least 0.05 are asked): the two models are too alike "
                "for the ranking to be more than noise"
            ],
        ),
        (
            {"rank_correlation_with_teacher": -0.96, "rank_correlation_with_reference": 0.97},
            [
                "the ranking follows the teacher's losses alone (Spearman -0.960, beyond 0.95): take models nearer in "
                "size",
                "the ranking follows the reference's losses alone (Spearman +0.970, beyond 0.95): take models nearer "
                "in size",
            ],
        ),
    ],
)
def test_a_pilot_speaks_against_the_whole_beyond_a_limit_and_names_both_numbers(changed, reasons):
    assert list(reasons_against(AT_THE_PILOT_LIMITS | changed, PILOT_LIMITS)) == reasons
