"""What other keep fractions and quotas would select, and the tenths of a ranking, against sorting everything."""

import hashlib
import math
from collections import Counter
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from miniplm_assets.core.ranking import num_kept
from tests.test_rankings import Ranked, amounts, candidates, selection

rankings = st.fixed_dictionaries(
    {
        "score": st.sampled_from(["difference", "teacher", "random"]),
        "order": st.sampled_from(["highest", "lowest"]),
        "within": st.sampled_from([None, "domain"]),
    }
)


def tokens_of(rows: list[tuple[int, str, int]]) -> int:
    return sum(tokens for _, _, tokens in rows)


@settings(max_examples=10, deadline=None, phases=[Phase.generate])
@given(candidates, rankings, amounts)
def test_each_twentieth_keeps_what_a_selection_of_it_keeps(
    rows: list[tuple[float, float, list[int], str]], ranking: dict[str, Any], amount: dict[str, Any]
) -> None:
    chosen = selection(**ranking, **amount)

    def kept_by(chosen: Any) -> list[tuple[int, str, int]]:
        ranked = tables.expected(chosen)
        amount = num_kept(ranked, keep_fraction=chosen.keep_fraction, token_budget=chosen.token_budget)
        return list(ranked.head(amount).select("sequence_id", "domain", "num_tokens").iter_rows())

    with TemporaryDirectory() as folder:
        tables = Ranked(Path(folder))
        tables.write_candidates(rows, 2)
        tables.rank(chosen)
        for name in ("selection_cutoff", "what_if"):
            checks = tables.run_for(chosen, name)
            assert {check.name for check in checks.values() if not check.passed} <= {"token_budget_is_reached"}
        what_if = {(row["keep_fraction"], row["domain"]): row for row in tables.rows("what_if")}
        domains = {domain for _, _, _, domain in rows}
        assert set(what_if) == {(step / 20, domain) for step in range(1, 20) for domain in [*domains, None]}
        [cutoff] = tables.rows("selection_cutoff")
        now = kept_by(chosen)
        ranks = tables.ranks()
        for step in range(1, 20):
            kept = kept_by(selection(**ranking, keep_fraction=step / 20))
            for domain in [*domains, None]:
                row = what_if[step / 20, domain]
                of_domain, of_domain_now = ([one for one in some if domain in (one[1], None)] for some in (kept, now))
                both = set(of_domain) & set(of_domain_now)
                assert row["num_kept"] == len(of_domain)
                assert row["num_kept_tokens"] == tokens_of(of_domain)
                in_all = sum(len(tokens) for _, _, tokens, of in rows if domain in (of, None))
                assert row["kept_share_of_tokens"] == pytest.approx(tokens_of(of_domain) / in_all)
                assert row["share_of_kept_tokens"] == pytest.approx(tokens_of(of_domain) / tokens_of(kept))
                assert row["share_of_kept_tokens_now"] == pytest.approx(tokens_of(of_domain_now) / tokens_of(now))
                assert row["num_kept_now_too"] == len(both)
                either = set(of_domain) | set(of_domain_now)
                assert row["overlap"] == pytest.approx(len(both) / len(either) if either else 1.0)
                lowest = min((ranks[id_] for id_, _, _ in of_domain), default=None)
                assert row["cutoff_difference"] == lowest
            if chosen.keep_fraction == step / 20:
                assert what_if[step / 20, None]["overlap"] == 1.0
                assert what_if[step / 20, None]["cutoff_difference"] == cutoff["cutoff_difference"]


@settings(max_examples=10, deadline=None, phases=[Phase.generate])
@given(candidates, rankings, amounts)
def test_the_tenths_of_a_ranking_are_those_of_sorting_everything(
    rows: list[tuple[float, float, list[int], str]], ranking: dict[str, Any], amount: dict[str, Any]
) -> None:
    chosen = selection(**ranking, **amount)
    with TemporaryDirectory() as folder:
        tables = Ranked(Path(folder))
        tables.write_candidates(rows, 2)
        tables.rank(chosen)
        for name in ("selection_cutoff", "score_deciles"):
            checks = tables.run_for(chosen, name)
            assert {check.name for check in checks.values() if not check.passed} <= {"token_budget_is_reached"}
        found = {row["decile"]: row for row in tables.rows("score_deciles")}
        ranks = tables.ranks()
        [cutoff] = tables.rows("selection_cutoff")
    ordered = sorted(ranks, key=lambda place: (-ranks[place], place))
    tenths: dict[int, list[int]] = {}
    for place, id_ in enumerate(ordered, 1):
        tenths.setdefault(math.ceil(Fraction(10 * place, len(rows))), []).append(id_)
    assert list(found) == sorted(tenths)
    for decile, ids in tenths.items():
        row, of_tenth = found[decile], [rows[id_] for id_ in ids]
        num_tokens = [len(tokens) for _, _, tokens, _ in of_tenth]
        assert (row["num_candidates"], row["num_tokens"]) == (len(ids), sum(num_tokens))
        assert row["mean_num_tokens"] == pytest.approx(np.mean(num_tokens))
        assert (row["highest_difference"], row["lowest_difference"]) == (ranks[ids[0]], ranks[ids[-1]])
        assert row["share_kept"] == sum(ordered.index(id_) < cutoff["num_kept"] for id_ in ids) / len(ids)
        for model, who in enumerate(("teacher", "reference")):
            is_asked = chosen.score in ("difference", who)
            nll = -sum(one[model] for one in of_tenth) / (sum(num_tokens) - len(ids)) if is_asked else None
            assert row[f"{who}_nll_nats_per_token"] == (pytest.approx(nll) if is_asked else None)
        domains: Counter[str] = Counter()
        for _, _, tokens, domain in of_tenth:
            domains[domain] += len(tokens)
        largest = sorted(domains, key=lambda domain: (-domains[domain], domain))
        shares = [row["domains"].split(", ")[place].split(" ") for place in range(len(largest))]
        assert [share[0] for share in shares] == largest
        assert [float(share[1]) for share in shares] == pytest.approx(
            [100 * domains[domain] / sum(num_tokens) for domain in largest], abs=0.051
        )
        drawn = sorted(ids, key=lambda id_: hashlib.md5(str(id_).encode()).hexdigest())[:3]
        texts = [f"text of {id_}" for id_ in drawn]
        assert [row[f"example_{place}"] for place in (1, 2, 3)] == [*texts, None, None, None][:3]
