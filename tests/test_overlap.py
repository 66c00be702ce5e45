"""How alike two selections are, against scipy and going through all candidates."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from scipy.stats import pearsonr, spearmanr

from miniplm_assets.core.overlap import most_different, overlap, paired
from miniplm_assets.kinds.selection_overlap import CHARACTERS_ON_A_PAGE, _page_of_differences


def two_rankings(seed, num=60):
    """Two rankings with ties, of the same ids in other orders."""
    generator = np.random.default_rng(seed)
    ids = generator.permutation(10 * num)[:num]
    first = generator.integers(0, 12, num).astype(float)
    second = first + generator.integers(-6, 7, num)
    frames = []
    for values, num_kept in ((first, 20), (second, 33)):
        best = sorted(range(num), key=lambda place, values=values: (-values[place], ids[place]))[:num_kept]
        kept = np.isin(np.arange(num), best)
        frames.append(pl.DataFrame({"sequence_id": ids, "value": values, "is_kept": kept}))
    return frames[0], frames[1].sample(fraction=1.0, shuffle=True, seed=seed), first, second


@pytest.mark.parametrize("seed", range(4))
def test_the_measures_are_those_of_scipy_and_of_counting(seed):
    first_rows, second_rows, first, second = two_rankings(seed)
    kept = [set(rows.filter("is_kept")["sequence_id"]) for rows in (first_rows, second_rows)]
    found = overlap(paired(first_rows, second_rows))
    assert found["pearson"] == pytest.approx(pearsonr(first, second).statistic)
    assert found["spearman"] == pytest.approx(spearmanr(first, second).statistic)
    assert found["jaccard"] == pytest.approx(len(kept[0] & kept[1]) / len(kept[0] | kept[1]))
    ids = set(first_rows["sequence_id"])
    equal = [(one in kept[0]) == (one in kept[1]) for one in ids]
    assert found["share_of_equal_decisions"] == pytest.approx(np.mean(equal))
    assert found["share_equal_by_chance"] == pytest.approx((20 * 33 + 40 * 27) / 3_600)
    counts = [found[name] for name in ("num_candidates", "num_kept_by_first", "num_kept_by_second", "num_kept_by_both")]
    assert counts == [60, 20, 33, len(kept[0] & kept[1])]


@pytest.mark.parametrize("count", [3, 1_000])
def test_the_most_different_are_those_furthest_apart_that_only_one_keeps(count):
    first_rows, second_rows, first, second = two_rankings(9)
    ids = first_rows["sequence_id"].to_list()

    def places(values):
        return [((values < value).sum() + (values <= value).sum() + 1) / 2 / len(values) for value in values]

    kept = [set(rows.filter("is_kept")["sequence_id"]) for rows in (first_rows, second_rows)]
    apart = {id_: one - other for id_, one, other in zip(ids, places(first), places(second), strict=True)}
    found = most_different(paired(first_rows, second_rows), count)
    for which, sign, alone in (("first", 1, kept[0] - kept[1]), ("second", -1, kept[1] - kept[0])):
        rows = found.filter(kept_by=which)
        expected = sorted(alone, key=lambda id_: (-sign * round(apart[id_], 9), id_))[:count]
        assert rows["sequence_id"].to_list() == expected
        assert rows["rank"].to_list() == list(range(1, len(expected) + 1))


def test_what_does_not_vary_has_no_correlation():
    rows = pl.DataFrame({"sequence_id": [1, 2], "value": [1.0, 1.0], "is_kept": [True, False]})
    found = overlap(paired(rows, rows))
    assert (found["pearson"], found["spearman"], found["jaccard"]) == (None, None, 1.0)


def test_the_page_of_where_selections_part_shows_texts_of_each_way(tmp_path):
    rows = [
        {"first": first, "second": second, "kept_by": by, "rank": rank, "domain": "web", "text": f"{by}\n {rank} " * 60}
        for first, second in (("a", "b"), ("a", "c"), ("b", "c"), ("b", "d"))
        for by in ("first", "second")
        for rank in (1, 2, 3)
    ]
    path = tmp_path / "selection_differences.parquet"
    pl.DataFrame(rows).write_parquet(path)
    page = _page_of_differences(None, SimpleNamespace(matching=lambda _pattern: [path]))
    assert list(page.outcome) == ["outcome", "a and b", "a and c", "b and c"]
    assert page.outcome["outcome"].startswith(
        "Of 4 pairs of selections, 24 sequences that one keeps and the other drops"
    )
    table = page.outcome["a and c"].rows
    assert [row[0] for row in table] == ["a", "a", "c", "c"]
    assert all(
        row[2].startswith(f"{by} {rank} {by}") and len(row[2]) == CHARACTERS_ON_A_PAGE
        for row, (by, rank) in zip(table, [("first", 1), ("first", 2), ("second", 1), ("second", 2)], strict=True)
    )
