"""The cutoff where all that decides it lies within one band of 0.01 nats: held against sorting in plain Python."""

import itertools
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.sql_tables import Tables, project, sequence

SQL = project()
# Differences in nats: a band far above, one full of neighbours and ties in no order, a band below, one below zero.
DIFFERENCES = (
    [1.5, 1.25]
    + [0.5000 + 0.0009 * step for step in (3, 9, 1, 7, 5, 0, 8, 2, 6, 4)]
    + [0.5045, 0.5045, 0.5045]
    + [0.3, 0.2999, -0.0001, -0.004, -0.0091, -2.0]
)
NUM_TOKENS = [2 + (7 * place) % 5 for place in range(len(DIFFERENCES))]


@pytest.fixture
def ranked(tmp_path: Path) -> tuple[Tables, list[tuple[float, int, int]]]:
    """The tables, and (difference, id, tokens) of each candidate, the best first."""
    ids = [100 - place for place in range(len(DIFFERENCES))]
    tables = Tables(tmp_path)
    tables.write_all(
        [sequence(one, num_tokens=tokens) for one, tokens in zip(ids, NUM_TOKENS, strict=True)],
        dict(zip(ids, [difference - 4.0 for difference in DIFFERENCES], strict=True)),
        dict.fromkeys(ids, -4.0),
    )
    tables.run(SQL, "difference_scores", rank_by="nats_per_sequence")
    found = {row["sequence_id"]: row["rank_difference"] for row in tables.rows("difference_scores")}
    for path in tables.paths["difference_scores"]:  # ids fall in it, so that ties are not in their order by chance
        pq.write_table(pq.read_table(path).sort_by([("sequence_id", "descending")]), path)
    rows = [(found[one], one, tokens) for one, tokens in zip(ids, NUM_TOKENS, strict=True)]
    return tables, sorted(rows, key=lambda row: (-row[0], row[1]))


def cutoff_of(tables: Tables, **amount: Any) -> dict[str, Any]:
    target = tables.folder / "selection_cutoff"
    if target.exists():
        for path in target.iterdir():
            path.unlink()
        target.rmdir()
    tables.run(SQL, "selection_cutoff", rank_by="nats_per_sequence", **amount)
    [row] = tables.rows("selection_cutoff")
    return row


def test_every_number_kept_is_cut_at_its_place(ranked):
    tables, rows = ranked
    num_candidates = len(rows)
    for num_kept in range(1, num_candidates + 1):
        keep_fraction = num_kept / num_candidates + 1e-9 if num_kept < num_candidates else 1.0
        difference, sequence_id, _ = rows[num_kept - 1]
        row = cutoff_of(tables, keep_fraction=keep_fraction)
        assert (row["num_kept"], row["cutoff_difference"], row["cutoff_sequence_id"]) == (
            num_kept,
            difference,
            sequence_id,
        )
        assert row["num_kept_tokens"] == sum(tokens for _, _, tokens in rows[:num_kept])
        assert row["num_candidates"] == num_candidates
        assert row["num_candidate_tokens"] == sum(NUM_TOKENS)
        assert row["share_below_zero"] == pytest.approx(4 / num_candidates)


def test_every_budget_is_reached_by_the_first_that_reaches_it(ranked):
    tables, rows = ranked
    reached = list(itertools.accumulate(tokens for _, _, tokens in rows))
    for token_budget in range(1, reached[-1] + 1):
        place = next(place for place, tokens in enumerate(reached) if tokens >= token_budget)
        row = cutoff_of(tables, token_budget=token_budget)
        assert (row["num_kept"], row["cutoff_sequence_id"]) == (place + 1, rows[place][1])
        assert row["num_kept_tokens"] == reached[place]


def test_a_fraction_of_less_than_one_keeps_the_best(ranked):
    tables, rows = ranked
    row = cutoff_of(tables, keep_fraction=0.001)
    assert (row["num_kept"], row["cutoff_sequence_id"]) == (1, rows[0][1])
