"""Difference Sampling over frames, against a sort of tuples in plain Python."""

from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniplm_assets.core.ranking import kept_sequences
from miniplm_assets.core.selection import is_kept

logprobs = st.sampled_from([-3.0, -2.0, -1.5, -1.0, 0.0])  # few, so that most differences are ties
rows = st.lists(st.tuples(logprobs, logprobs, st.integers(1, 4), st.integers(2, 5)), min_size=1, max_size=20)
amounts = st.one_of(
    st.fixed_dictionaries({"keep_fraction": st.sampled_from([0.01, 0.1, 0.29, 0.5, 0.58, 0.7, 1.0])}),
    st.fixed_dictionaries({"token_budget": st.integers(1, 80)}),
)


def frames(scored: list[tuple[float, float, int, int]]) -> tuple[pl.DataFrame, dict[str, pl.DataFrame]]:
    """Teacher, reference, scored tokens and tokens of each; the ids 10, 11, ... in another order in each frame."""
    ids = range(10, 10 + len(scored))
    of_models = {
        f"{model}_scores": pl.DataFrame(
            {
                "sequence_id": ids,
                "logprob_nats": [row[place] for row in scored],
                "num_scored_tokens": [row[2] for row in scored],
            }
        ).sample(fraction=1, shuffle=True, seed=place)
        for place, model in enumerate(("teacher", "reference"))
    }
    candidates = {"sequence_id": ids, "domain": ["web"] * len(scored), "num_tokens": [row[3] for row in scored]}
    return pl.DataFrame(candidates)[::-1], of_models


@given(rows, st.sampled_from(["nats_per_token", "nats_per_sequence"]), amounts)
def test_what_is_kept_is_the_top_of_a_sort(
    scored: list[tuple[float, float, int, int]], rank_by: str, amount: dict[str, Any]
) -> None:
    candidates, of_models = frames(scored)

    def rank(place: int) -> tuple[float, int]:
        teacher, reference, num_scored_tokens, _ = scored[place]
        divisor = num_scored_tokens if rank_by == "nats_per_token" else 1
        return -(teacher - reference) / divisor, place

    best_first = sorted(range(len(scored)), key=rank)
    if "keep_fraction" in amount:
        kept = best_first[: max(1, int(Decimal(str(amount["keep_fraction"])) * len(scored)))]
    else:
        kept, num_tokens = [], 0
        for place in best_first:
            if num_tokens < amount["token_budget"]:
                kept.append(place)
                num_tokens += scored[place][3]
    assert kept_sequences(candidates, **of_models, rank_by=rank_by, **amount) == {10 + place for place in kept}


def test_of_equal_differences_the_smaller_ids_are_kept() -> None:
    candidates, of_models = frames([(-1.0, -2.0, 1, 3)] * 9)
    assert kept_sequences(candidates, **of_models, rank_by="nats_per_token", keep_fraction=0.5) == {10, 11, 12, 13}


def test_the_rank_counts_each_scored_token_or_none() -> None:
    # 4 nats over 4 tokens against 3 nats over 1 token
    candidates, of_models = frames([(-1.0, -5.0, 4, 5), (-1.0, -4.0, 1, 2)])
    assert kept_sequences(candidates, **of_models, rank_by="nats_per_token", keep_fraction=0.5) == {11}
    assert kept_sequences(candidates, **of_models, rank_by="nats_per_sequence", keep_fraction=0.5) == {10}


def test_a_fraction_is_taken_as_it_is_written() -> None:
    assert int(0.29 * 100) == 28  # what a binary product would keep
    candidates, of_models = frames([(-1.0, -2.0, 1, 3)] * 100)
    assert len(kept_sequences(candidates, **of_models, rank_by="nats_per_token", keep_fraction=0.29)) == 29


@pytest.mark.parametrize(
    ("twice", "other"), [("teacher_scores", "reference_scores"), ("reference_scores", "teacher_scores")]
)
def test_a_sequence_scored_twice_is_an_error_whatever_the_other_model_scored(twice: str, other: str) -> None:
    candidates, of_models = frames([(-1.0, -2.0, 1, 3)] * 2)
    of_models[twice] = pl.concat([of_models[twice], of_models[twice][:1]])
    for scores in (of_models[other], of_models[other].filter(pl.col("sequence_id") != of_models[twice][0, 0])):
        with pytest.raises(pl.exceptions.ComputeError, match="1:1"):
            kept_sequences(candidates, **{**of_models, other: scores}, rank_by="nats_per_token", keep_fraction=0.5)


def test_at_the_cutoff_the_id_decides() -> None:
    around = pl.DataFrame({"difference": [1.5, 1.0, 1.0, 1.0, 0.5], "sequence_id": [9, 3, 4, 5, 1]})
    cutoff = {"cutoff_difference": 1.0, "cutoff_sequence_id": 4}
    found = around.select(is_kept(pl.col("difference"), pl.col("sequence_id"), cutoff))
    assert found.to_dict(as_series=False) == {"is_kept": [True, True, True, False, False]}
