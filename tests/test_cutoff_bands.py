"""The cutoff where the candidates that decide it stand close together, against sorting all of them in Python.

selection_cutoff.sql looks for its row twice: among bands of 0.01 nats, then among the rows of one band. Here 20 of 40
candidates share a band, half of those the difference too, and a cutoff is asked for at every single one of them.
"""

import math
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest

from tests.sql_tables import Tables, project, sequence

SQL = project()
REFERENCE_NATS = -8.0
# From the best to the worst band; within one the order is left to the test.
DIFFERENCES = [
    *(2.0, 0.7, 0.7),
    *(0.512, 0.5199, 0.5101),  # the band above
    *(0.5001, 0.5099, 0.502, 0.508, 0.5041, 0.5063, 0.5077, 0.5039, 0.5, 0.5098),
    *[0.505] * 10,  # the band that most cutoffs are in, half of it tied
    *(0.4999, 0.495, 0.4901),  # the band below
    *(0.004, 0.0, 0.009),  # from here the bands of zero, on both sides
    *(-0.0001, -0.0099, -0.005, -0.005),
    *(-0.25, -3.0, -3.0, -2.5),
]
NUM = len(DIFFERENCES)


class Candidate(NamedTuple):
    difference: float
    sequence_id: int
    num_tokens: int


# 17 and 40 have no factor in common, so every id is there once; 2 to 6 tokens.
ALL = [
    Candidate((difference + REFERENCE_NATS) - REFERENCE_NATS, 17 * place % NUM, 2 + 7 * place % 5)
    for place, difference in enumerate(DIFFERENCES)
]
BEST_FIRST = sorted(ALL, key=lambda one: (-one.difference, one.sequence_id))
TOKENS_UP_TO = list(accumulate(one.num_tokens for one in BEST_FIRST))


def cutoff_among_the_first(num_kept: int, candidates: list[Candidate] = BEST_FIRST) -> dict[str, Any]:
    last = candidates[num_kept - 1]
    return {
        "num_candidates": len(candidates),
        "num_candidate_tokens": sum(one.num_tokens for one in candidates),
        "num_kept": num_kept,
        "num_kept_tokens": sum(one.num_tokens for one in candidates[:num_kept]),
        "cutoff_difference": last.difference,
        "cutoff_sequence_id": last.sequence_id,
        "share_below_zero": len([one for one in candidates if one.difference < 0]) / len(candidates),
    }


def first_to_reach(token_budget: int, tokens_up_to: list[int] = TOKENS_UP_TO) -> int:
    return next((n for n, tokens in enumerate(tokens_up_to, 1) if tokens >= token_budget), len(tokens_up_to))


class Cutoffs:
    """Asks for one cutoff after the other of the same differences."""

    def __init__(self, folder: Path, candidates: list[Candidate]) -> None:
        self.tables = Tables(folder)
        self.tables.write_all(
            [
                sequence(one.sequence_id, shard="a" if one.sequence_id < NUM // 2 else "b", num_tokens=one.num_tokens)
                for one in sorted(candidates, key=lambda one: one.sequence_id)
            ],
            {one.sequence_id: one.difference + REFERENCE_NATS for one in candidates},
            {one.sequence_id: REFERENCE_NATS for one in candidates},
        )
        self.tables.run(SQL, "difference_scores", rank_by="nats_per_sequence")
        for path in self.tables.paths["difference_scores"]:  # ids fall in it, so that ties are in no order by chance
            pq.write_table(pq.read_table(path).sort_by([("sequence_id", "descending")]), path)

    def find(self, **amount: Any) -> dict[str, Any]:
        target = self.tables.folder / "selection_cutoff"
        if target.exists():
            for path in target.iterdir():
                path.unlink()
            target.rmdir()
        self.tables.run(SQL, "selection_cutoff", rank_by="nats_per_sequence", **amount)
        [row] = self.tables.rows("selection_cutoff")
        expected_amount = {"keep_fraction": None, "token_budget": None, **amount}
        assert {name: row.pop(name) for name in expected_amount} == expected_amount
        assert row.pop("rank_by") == "nats_per_sequence"
        return row


@pytest.fixture(scope="module")
def cutoffs(tmp_path_factory: pytest.TempPathFactory) -> Cutoffs:
    return Cutoffs(tmp_path_factory.mktemp("cutoffs"), ALL)


def test_most_candidates_share_one_band_and_half_of_those_are_tied() -> None:
    bands = [math.floor(one.difference / 0.01) for one in BEST_FIRST]
    assert (NUM, bands.count(50), sum(one.difference == BEST_FIRST[14].difference for one in ALL)) == (40, 20, 10)
    assert bands == sorted(bands, reverse=True) and min(bands) < -1 and {-1, 0, 49, 51} <= set(bands)


@pytest.mark.parametrize("num_kept", range(1, NUM + 1))
def test_a_fraction_cuts_at_every_place(cutoffs: Cutoffs, num_kept: int) -> None:
    assert cutoffs.find(keep_fraction=round(num_kept / 40, 3)) == cutoff_among_the_first(num_kept)


@pytest.mark.parametrize(
    ("keep_fraction", "num_kept"), [(1e-6, 1), (0.0249, 1), (0.0499, 1), (0.4749, 18), (0.999, 39)]
)
def test_a_fraction_between_two_places_keeps_whole_sequences(
    cutoffs: Cutoffs, keep_fraction: float, num_kept: int
) -> None:
    assert cutoffs.find(keep_fraction=keep_fraction) == cutoff_among_the_first(num_kept)


@pytest.mark.parametrize("num_kept", range(1, NUM + 1))
def test_a_budget_cuts_at_every_place(cutoffs: Cutoffs, num_kept: int) -> None:
    reached = TOKENS_UP_TO[num_kept - 1]
    smallest = reached - BEST_FIRST[num_kept - 1].num_tokens + 1
    for token_budget in (smallest, reached):
        assert first_to_reach(token_budget) == num_kept
        assert cutoffs.find(token_budget=token_budget) == cutoff_among_the_first(num_kept)


def test_a_budget_beyond_the_candidates_keeps_all(cutoffs: Cutoffs) -> None:
    assert cutoffs.find(token_budget=TOKENS_UP_TO[-1] + 1) == cutoff_among_the_first(NUM)


@pytest.mark.parametrize("amount", [{"keep_fraction": 0.5}, {"token_budget": 30}])
def test_one_band_alone_of_one_difference_is_cut_by_the_ids(tmp_path: Path, amount: dict[str, Any]) -> None:
    tied = sorted(one._replace(difference=0.0) for one in ALL)
    num_kept = first_to_reach(30, list(accumulate(one.num_tokens for one in tied))) if "token_budget" in amount else 20
    assert Cutoffs(tmp_path, tied).find(**amount) == cutoff_among_the_first(num_kept, tied)
