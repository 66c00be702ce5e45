"""Every score and step of a ranking in SQL, and what is then kept, against sorting everything in memory."""

import hashlib
import math
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from miniplm_assets.core.errors import SqlError
from miniplm_assets.core.ranking import best_first, kept_sequences
from miniplm_assets.core.sampling import hash_fractions
from miniplm_assets.experiment import Selection
from miniplm_assets.kinds.parameters import unit_of
from miniplm_assets.kinds.rankings import (
    HELPERS,
    MODEL_SCORES,
    STEPS,
    SURVIVING_REFERENCE_SCORES,
    SURVIVORS,
    ranking_of,
    traits_of,
)
from miniplm_assets.kinds.token_counts import count_tokens
from miniplm_assets.storage import sql_run
from tests.sql_tables import Tables, project, score, sequence

SQL = project()
SEED = 5
AFTER = ("selection_cutoff", "refined_corpus", "score_distribution", "domain_shift", "length_bias", "extreme_sequences")
MODELS = {"difference": ("teacher", "reference"), "teacher": ("teacher",), "reference": ("reference",)}


def selection(**settings: Any) -> Selection:
    """A selection with the models that its score asks, or a tokenizer."""
    models = MODELS.get(settings.get("score", "difference"), ())
    return Selection(**{who: who for who in models}, **({} if models else {"tokenizer": "bpe"}), **settings)


class Ranked(Tables):
    """Runs the tables of a selection, one after the other, as the assets do."""

    def write_candidates(self, rows: list[tuple[float, float, list[int], str]], num_shards: int) -> None:
        """Write teacher's and reference's nats, tokens and domain of candidates 0, 1, ...; and of one that is none."""
        self.candidates = [
            sequence(place, shard=f"s{place * num_shards // len(rows)}", domain=domain, num_tokens=len(tokens))
            | {"token_ids": tokens}
            for place, (_, _, tokens, domain) in enumerate(rows)
        ]
        other = sequence(len(rows), shard=f"s{num_shards}", split="validation") | {"token_ids": [8, 9, 9]}
        scores = [dict(enumerate([*(row[model] for row in rows), -50.0])) for model in (0, 1)]
        self.write_all([*self.candidates, other], *scores)
        self.write_counts()
        # Of some, no byte is asked for.
        self.num_scored_bytes = {place: 3 * (place % 4) for place in range(len(rows))}
        counts = [{"sequence_id": place, "num_scored_bytes": count} for place, count in self.num_scored_bytes.items()]
        self.write("scored_bytes", counts, num_files=num_shards)

    def in_folder(self, name: str) -> "Ranked":
        """Return the same tables, with a place of its own for those of another selection."""
        other = Ranked(self.folder / name)
        other.folder.mkdir()
        other.paths, other.candidates = dict(self.paths), self.candidates
        other.num_scored_bytes = self.num_scored_bytes
        return other

    def write_counts(self) -> None:
        self.paths["token_counts"] = []
        for number, path in enumerate(self.paths["sequences"]):
            target = self.folder / f"token_counts-{number}.parquet"
            pq.write_table(count_tokens(path), target)
            self.paths["token_counts"] = [*self.paths["token_counts"], target]

    def rank(self, chosen: Selection) -> None:
        """Run what ranks, and let the last of it stand in the place of `difference_scores`."""
        if chosen.score in ("teacher", "reference"):
            self.paths[MODEL_SCORES] = self.paths[f"{chosen.score}_scores"]
        for table in ranking_of(chosen):
            for name in (*HELPERS.get(table, ()), table):
                checks = self.run_for(chosen, name)
                failed = {check.name for check in checks.values() if not check.passed}
                assert failed <= {"unwanted_domains_are_found"}  # drawn candidates may be of any domain
            self.paths["difference_scores"] = self.paths[table]

    def run_for(self, chosen: Selection, name: str) -> dict[str, Any]:
        parameters = {field: getattr(chosen, field) for field in SETTINGS} | {"seed": SEED}
        if chosen.rank_by == "nats_per_byte":  # a step of its own, after what ranks sequences
            parameters["rank_by"] = "nats_per_sequence"
        if name == "selection_cutoff":
            parameters["rank_by"] = unit_of(chosen)
        return self.run(SQL, name, traits=traits_of(chosen), **parameters)

    def ranks(self) -> dict[int, float]:
        return {row["sequence_id"]: row["rank_difference"] for row in self.rows("difference_scores")}

    def expected(self, chosen: Selection) -> pl.DataFrame:
        return best_first(**self.oracle(chosen))

    def oracle(self, chosen: Selection) -> dict[str, Any]:
        inputs = {field: getattr(chosen, field) for field in SETTINGS} | {"seed": SEED}
        for who in ("teacher", "reference"):
            inputs[f"{who}_scores"] = pl.concat(pl.read_parquet(path) for path in self.paths[f"{who}_scores"])
        candidates = pl.DataFrame(self.candidates).select("sequence_id", "domain", "num_tokens")
        return {
            **inputs,
            "candidates": candidates,
            "token_ids": [np.array(one["token_ids"]) for one in self.candidates],
            "scored_bytes": pl.DataFrame(
                list(self.num_scored_bytes.items()), schema=["sequence_id", "num_scored_bytes"], orient="row"
            ),
        }


SETTINGS = (
    "score",
    "rank_by",
    "scale_correction",
    "unwanted_domains",
    "order",
    "temperature",
    "within",
    "keep_fraction",
    "token_budget",
)

# Few values, so that most are ties; neighbours of a hundredth's multiple, where the bands of the cutoff meet.
logprobs = st.sampled_from([-3.0, -2.5, -2.0, -1.01, -1.0, -0.99, -0.5, 0.0])
tokens = st.lists(st.integers(0, 5), min_size=2, max_size=5)
candidates = st.lists(
    st.tuples(logprobs, logprobs, tokens, st.sampled_from(["a", "a", "b", "c"])), min_size=1, max_size=25
)
amounts = st.one_of(
    st.fixed_dictionaries({"keep_fraction": st.sampled_from([1e-6, 0.1, 0.29, 0.5, 0.58, 1.0])}),
    st.fixed_dictionaries({"token_budget": st.integers(1, 100)}),
)
steps = {
    "order": st.sampled_from(["highest", "lowest"]),
    "within": st.sampled_from([None, "domain"]),
}
of_models = {"rank_by": st.sampled_from(["nats_per_token", "nats_per_sequence", "nats_per_byte"])}
rankings = st.one_of(
    st.fixed_dictionaries(
        {
            **steps,
            **of_models,
            "score": st.just("difference"),
            "scale_correction": st.sampled_from(["none", "standardised", "residual"]),
            "temperature": st.sampled_from([None, 0.5]),
        }
    ).filter(lambda one: one["rank_by"] != "nats_per_byte" or one["scale_correction"] == "none"),
    st.fixed_dictionaries(
        {
            **steps,
            **of_models,
            "score": st.sampled_from(["teacher", "reference"]),
            "temperature": st.sampled_from([None, 0.5]),
        }
    ),
    st.fixed_dictionaries({**steps, "score": st.just("prior"), "temperature": st.sampled_from([None, 0.1])}),
    st.fixed_dictionaries({**steps, "score": st.just("random"), "unwanted_domains": st.sampled_from([(), ("a", "c")])}),
)


@settings(max_examples=20, deadline=None, phases=[Phase.generate])
@given(candidates, rankings, amounts, st.integers(1, 3))
def test_what_is_kept_is_what_sorting_everything_keeps(
    rows: list[tuple[float, float, list[int], str]], ranking: dict[str, Any], amount: dict[str, Any], num_shards: int
) -> None:
    chosen = selection(**ranking, **amount)
    with TemporaryDirectory() as folder:
        tables = Ranked(Path(folder))
        tables.write_candidates(rows, num_shards)
        tables.rank(chosen)
        ranks = tables.ranks()
        expected = tables.expected(chosen)
        # A logarithm or a mean, two of which may differ in the last bit: of values so near, either may come first.
        is_exact = chosen.temperature is None and chosen.scale_correction == "none"
        if chosen.within is None or is_exact:
            assert ranks == near(dict(expected.select("sequence_id", "value").iter_rows()))
        else:
            for _, domain in expected.group_by("domain", maintain_order=True):
                in_order = sorted(domain["sequence_id"], key=lambda place: (-ranks[place], place))
                values = dict(domain.select("sequence_id", "value_in_domain").iter_rows())
                assert [values[place] for place in in_order] == near(list(values.values()))
                if chosen.keep_fraction is not None:  # of tokens, the places depend on which of two comes first
                    assert [ranks[place] for place in in_order] == near(domain["value"].to_list())

        for name in AFTER:
            checks = tables.run_for(chosen, name)
            failed = {check.name for check in checks.values() if not check.passed}
            assert failed <= {"token_budget_is_reached", *TEACHER_CHECKS}
        [cutoff] = tables.rows("selection_cutoff")
        refined = [row["sequence_id"] for row in tables.rows("refined_corpus")]
        by_oracle = kept_sequences(**tables.oracle(chosen))

    ordered = sorted(ranks, key=lambda place: (-ranks[place], place))
    if chosen.keep_fraction is not None:
        num_kept = max(1, math.floor(Decimal(str(chosen.keep_fraction)) * len(rows)))
    else:
        up_to = [sum(len(rows[place][2]) for place in ordered[: n + 1]) for n in range(len(rows))]
        num_kept = next((n + 1 for n, sum_ in enumerate(up_to) if sum_ >= chosen.token_budget), len(rows))
    kept = ordered[:num_kept]
    assert (cutoff["cutoff_difference"], cutoff["cutoff_sequence_id"]) == (ranks[kept[-1]], kept[-1])
    assert (cutoff["num_kept"], cutoff["num_kept_tokens"]) == (num_kept, sum(len(rows[place][2]) for place in kept))
    assert cutoff["rank_by"] == unit_of(chosen)
    assert refined == sorted(kept)
    if is_exact:
        assert set(kept) == by_oracle


def near(values: Any) -> Any:
    return pytest.approx(values, rel=1e-9, abs=1e-12)


def test_of_values_that_differ_by_rounding_either_may_come_first(tables: Ranked) -> None:
    rows = [
        (-0.5, -3.0, [3, 0, 2, 4, 4], "a"),
        (-1.0, -2.0, [5, 1, 0], "c"),
        (-3.0, -1.0, [3, 4], "a"),
        (0.0, -0.5, [1, 5, 3], "a"),
        (-1.0, -1.01, [1, 3, 1], "b"),
        (-1.01, -0.99, [5, 2, 5, 4], "b"),
        (-2.0, -2.5, [1, 5, 2, 2, 3], "a"),
        (-2.5, -0.99, [5, 1], "a"),
    ]
    ranking = {"scale_correction": "standardised", "within": "domain"}
    test_what_is_kept_is_what_sorting_everything_keeps.hypothesis.inner_test(rows, ranking, {"token_budget": 57}, 3)


TEACHER_CHECKS = ("teacher_finds_most_candidates_easier", "teacher_still_finds_most_candidates_easier")


def hard_and_easy(tables: Ranked) -> None:
    """Four candidates of two domains; by token: teacher -1, -2, -3, -4, reference -2, -6, -3, -2."""
    nats = [(-2.0, -4.0, 3, "web"), (-2.0, -6.0, 2, "web"), (-9.0, -9.0, 4, "code"), (-16.0, -8.0, 5, "code")]
    tables.write_candidates([(t, r, list(range(n)), domain) for t, r, n, domain in nats], 2)


@pytest.fixture
def tables(tmp_path: Path) -> Ranked:
    return Ranked(tmp_path)


@pytest.mark.parametrize(
    ("ranking", "kept"),
    [
        ({"score": "teacher"}, [0, 1]),
        ({"score": "teacher", "order": "lowest"}, [2, 3]),
        ({"score": "reference"}, [0, 3]),
        ({"score": "reference", "order": "lowest"}, [1, 2]),
        ({"score": "reference", "rank_by": "nats_per_sequence"}, [0, 1]),
        ({"order": "lowest"}, [2, 3]),
        ({"rank_by": "nats_per_byte"}, [0, 1]),  # of 0, 3, 6 and 9 bytes: 0, 4 / 3, 0 and -8 / 9
        ({"score": "random", "unwanted_domains": ("web",)}, [2, 3]),
        ({"score": "random", "unwanted_domains": ("web",), "order": "lowest"}, [0, 1]),
        ({"within": "domain"}, [1, 2]),
        ({"score": "teacher", "order": "lowest", "within": "domain"}, [1, 3]),
    ],
)
def test_what_is_kept_by_hand(tables: Ranked, ranking: dict[str, Any], kept: list[int]) -> None:
    hard_and_easy(tables)
    chosen = selection(**ranking, keep_fraction=0.5)
    tables.rank(chosen)
    for name in AFTER[:2]:
        tables.run_for(chosen, name)
    refined = tables.rows("refined_corpus")
    assert [row["sequence_id"] for row in refined] == kept
    asked = MODELS.get(chosen.score, ())
    assert all((row["teacher_logprob_nats"] is not None) == ("teacher" in asked) for row in refined)
    assert all((row["reference_logprob_nats"] is not None) == ("reference" in asked) for row in refined)
    assert all((row["difference_nats"] is not None) == (len(asked) == 2) for row in refined)


def test_an_unwanted_domain_that_is_not_there_is_told(tables: Ranked) -> None:
    hard_and_easy(tables)
    chosen = selection(score="random", unwanted_domains=("wbe", "code"), keep_fraction=0.5)
    tables.run_for(chosen, "random_scores")
    tables.paths["difference_scores"] = tables.paths["random_scores"]
    check = tables.run_for(chosen, "labelled_scores")["unwanted_domains_are_found"]
    assert (check.passed, check.facts["first_rows"]) == (False, [{"domain": "wbe"}])


def test_random_numbers_are_the_hash_that_every_sample_is_drawn_by(tables: Ranked) -> None:
    hard_and_easy(tables)
    tables.rank(selection(score="random", keep_fraction=0.5))
    assert list(tables.ranks().values()) == hash_fractions(np.arange(4), seed=SEED).tolist()


def test_a_very_high_temperature_draws_as_random_does_and_a_very_low_one_takes_the_best(tables: Ranked) -> None:
    hard_and_easy(tables)
    tables.rank(selection(score="random", keep_fraction=0.5))
    at_random = sorted(range(4), key=lambda place: -tables.ranks()[place])
    for temperature, order in ((1e9, at_random), (1e-9, [1, 0, 2, 3])):
        again = Ranked(Path(tables.folder) / f"{temperature}")
        again.folder.mkdir()
        hard_and_easy(again)
        again.rank(selection(temperature=temperature, keep_fraction=0.5))
        ranks = again.ranks()
        assert sorted(range(4), key=lambda place: -ranks[place]) == order


def test_standardised_scores_by_hand(tables: Ranked) -> None:
    """Of two values each is one deviation from the mean; a domain whose values do not vary has 0."""
    rows = [(-2.0, -2.0, [0] * 3, "web"), (-4.0, -8.0, [0] * 3, "web"), (-6.0, -4.0, [0] * 3, "code")]
    tables.write_candidates(rows, 1)
    tables.rank(selection(scale_correction="standardised", keep_fraction=0.5))
    assert tables.ranks() == {0: 0.0, 1: 0.0, 2: 0.0}
    scales = {row["domain"]: row for row in tables.rows("score_scales")}
    assert (scales["web"]["mean_teacher_logprob"], scales["web"]["reference_deviation"]) == (-1.5, 1.5)
    assert (scales["code"]["num_candidates"], scales["code"]["teacher_deviation"], scales[""]["is_total"]) == (
        1,
        0.0,
        True,
    )


def test_the_residual_of_a_line_by_hand(tables: Ranked) -> None:
    """Through (-1, -1), (-2, -2) and (-3, -6) a token: slope 2.5, intercept 2, residuals -0.5, 1, -0.5."""
    rows = [(-2.0, -2.0, [0] * 3, "web"), (-4.0, -4.0, [0] * 3, "code"), (-12.0, -6.0, [0] * 3, "code")]
    tables.write_candidates(rows, 2)
    tables.rank(selection(scale_correction="residual", keep_fraction=0.5))
    assert tables.ranks() == pytest.approx({0: -0.5, 1: 1.0, 2: -0.5})


def test_priors_by_hand(tables: Ranked) -> None:
    """Eight tokens: 0 four times, 1 three, 2 once; the validation sequence does not count."""
    rows = [(-1.0, -1.0, [0, 0], "web"), (-1.0, -1.0, [0, 1, 1], "web"), (-1.0, -1.0, [0, 1, 2], "code")]
    tables.write_candidates(rows, 2)
    tables.rank(selection(score="prior", keep_fraction=0.5))
    priors = {row["token_id"]: row for row in tables.rows("token_priors")}
    assert {token: row["num_occurrences"] for token, row in priors.items()} == {0: 4, 1: 3, 2: 1}
    assert priors[2]["log_prior_nats"] == pytest.approx(math.log(1 / 8))
    statistics = {row["sequence_id"]: row for row in tables.rows("prior_statistics")}
    assert statistics[1]["mean_log_prior_nats"] == pytest.approx((math.log(4 / 8) + 2 * math.log(3 / 8)) / 3)
    deviations = [0.0, np.std([4 / 8, 3 / 8, 3 / 8], ddof=1), np.std([4 / 8, 3 / 8, 1 / 8], ddof=1)]
    assert [statistics[place]["prior_deviation"] for place in range(3)] == pytest.approx(deviations)
    # The middle one by both is the median itself. From it the first is nearer by the mean, and both by the deviation
    # are on another side: 0.072 and 0.119 away.
    assert tables.ranks() == {0: -2 / 3, 1: -1 / 3, 2: -1.0}


@pytest.mark.parametrize(
    ("keep_fraction", "kept"),
    [
        (0.5, {"a": 2, "b": 1, "c": 1}),
        (0.1, {"a": 1}),
        (0.7, {"a": 3, "b": 2, "c": 1}),
        (1.0, {"a": 4, "b": 3, "c": 2}),
    ],
)
def test_what_is_over_goes_to_the_largest_remainder(tables: Ranked, keep_fraction: float, kept: dict[str, int]) -> None:
    """Of 4, 3 and 2 candidates: quotas 2, 1.5, 1 (4 in all: no seat is left for the half); 2.8, 2.1, 1.4 (6)."""
    domains = "aaaabbbcc"
    tables.write_candidates([(-1.0 - place, -9.0, [0] * 3, domain) for place, domain in enumerate(domains)], 2)
    chosen = selection(within="domain", keep_fraction=keep_fraction)
    tables.rank(chosen)
    for name in ("selection_cutoff", "domain_shift"):
        checks = tables.run_for(chosen, name)
        assert all(check.passed for check in checks.values())
    assert {row["domain"]: row["num_kept"] for row in tables.rows("domain_shift") if row["num_kept"]} == kept


def test_many_domains_of_one_candidate_keep_no_more_than_their_share(tables: Ranked) -> None:
    """A hundred quotas of 0.6 and one of 60: to round each by itself would give all the seats to the small ones."""
    rows = [(-1.0, -2.0, [0, 1], "large")] * 100 + [(-1.0, -2.0, [0, 1], f"d{number}") for number in range(100)]
    tables.write_candidates(rows, 1)
    chosen = selection(within="domain", keep_fraction=0.6)
    tables.rank(chosen)
    for name in ("selection_cutoff", "domain_shift"):
        tables.run_for(chosen, name)
    kept = {row["domain"]: row["num_kept"] for row in tables.rows("domain_shift")}
    assert (kept.pop("large"), sum(kept.values()), len(kept)) == (60, 60, 100)


def test_a_domain_that_keeps_another_share_is_told(tables: Ranked) -> None:
    hard_and_easy(tables)
    chosen = selection(within="domain", keep_fraction=0.5)
    tables.run_for(chosen, "difference_scores")  # as if the places in the domains had been left out
    for name in ("selection_cutoff", "domain_shift"):
        checks = tables.run_for(chosen, name)
    assert not checks["domains_keep_their_share"].passed


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([score(0, -1.0), score(1, -1.0)], "sequence 2 of shard s1 has no score. Materialise the scores of the model"),
        ([score(place, -1.0) for place in (0, 1, 2, 3, 77)], "sequence 77 has a score, but the corpus has no such"),
        ([score(0, math.nan), *(score(place, -1.0) for place in (1, 2, 3))], "the score of sequence 0 is nan"),
        ([score(place, -1.0) for place in (0, 1, 2, 3, 3)], "identifies a row.*'sequence_id': 3"),
    ],
)
def test_scores_of_one_model_that_do_not_fit_stop(tables: Ranked, scores: list[dict[str, Any]], message: str) -> None:
    hard_and_easy(tables)
    tables.write("teacher_scores", scores)
    with pytest.raises(SqlError, match=message):
        tables.rank(selection(score="teacher", keep_fraction=0.5))


@pytest.mark.parametrize("score_of", ["teacher", "random", "prior"])
def test_no_candidates_is_an_error_whatever_the_score(tables: Ranked, score_of: str) -> None:
    tables.write_all([sequence(1, split="reference")], {}, {})
    tables.write_counts()
    with pytest.raises(SqlError, match="nothing to select from.*too small"):
        tables.rank(selection(score=score_of, keep_fraction=0.5))


def test_candidates_that_are_lost_on_the_way_stop_the_cutoff(tables: Ranked) -> None:
    hard_and_easy(tables)
    chosen = selection(score="random", keep_fraction=0.5)
    tables.rank(chosen)
    rows = tables.rows("difference_scores")
    pq.write_table(pq.read_table(tables.paths["difference_scores"][0])[:1], tables.paths["difference_scores"][0])
    assert len(rows) == 4
    with pytest.raises(SqlError, match="there are 4 candidates, and 3 are ranked"):
        tables.run_for(chosen, "selection_cutoff")


@pytest.mark.parametrize(
    ("after", "amount"),
    [
        ({}, {"keep_fraction": 0.5}),
        ({}, {"token_budget": 20}),
        ({"score": "teacher", "order": "lowest"}, {"keep_fraction": 0.3}),
        ({"within": "domain"}, {"keep_fraction": 0.5}),
    ],
)
def test_only_what_a_pre_filter_keeps_is_ranked(tables: Ranked, after: dict[str, Any], amount: dict[str, Any]) -> None:
    generator = np.random.default_rng(1)
    nats = generator.integers(-8, 0, (40, 2)).tolist()
    tables.write_candidates([(t, r, [0] * (2 + n % 4), "abc"[n % 3]) for n, (t, r) in enumerate(nats)], 3)
    every, first = tables.paths["sequences"], selection(score="reference", order="lowest", keep_fraction=0.45)
    tables.rank(first)
    tables.run_for(first, "selection_cutoff")
    surviving = kept_sequences(**tables.oracle(first))
    assert len(surviving) == 18

    chosen = selection(**after, **amount, pre_filter="first")
    checks = tables.run_for(chosen, SURVIVORS)
    assert all(check.passed for check in checks.values())
    tables.paths["sequences"] = tables.paths[SURVIVORS]
    assert {row["sequence_id"] for row in tables.rows(SURVIVORS)} == surviving | {40}  # 40 is for validation
    tables.paths[MODEL_SCORES] = tables.paths["reference_scores"]
    tables.run_for(chosen, SURVIVING_REFERENCE_SCORES)
    tables.paths["reference_scores"] = tables.paths[SURVIVING_REFERENCE_SCORES]
    # As the teacher's pass writes them, which scores nothing else.
    scored = [row for row in tables.rows("teacher_scores") if row["sequence_id"] in surviving | {40}]
    tables.write("teacher_scores", scored, num_files=2)
    tables = tables.in_folder("after")
    tables.rank(chosen)
    tables.run_for(chosen, "selection_cutoff")
    tables.paths["sequences"] = every
    checks = tables.run_for(chosen, "refined_corpus")
    assert all(check.passed for check in checks.values())

    tables.candidates = [one for one in tables.candidates if one["sequence_id"] in surviving]
    assert {row["sequence_id"] for row in tables.rows("refined_corpus")} == kept_sequences(**tables.oracle(chosen))
    assert tables.rows("selection_cutoff")[0]["num_candidates"] == 18


def test_which_tables_a_selection_has() -> None:
    everything = selection(
        scale_correction="residual", order="lowest", temperature=1.0, within="domain", keep_fraction=0.5
    )
    assert ranking_of(everything) == ("difference_scores", *(step for step in STEPS[1:] if step != "labelled_scores"))
    per_byte = selection(rank_by="nats_per_byte", order="lowest", keep_fraction=0.5)
    assert ranking_of(per_byte) == ("difference_scores", *STEPS[:1], "reversed_scores")
    assert ranking_of(selection(keep_fraction=0.5)) == ("difference_scores",)
    assert ranking_of(selection(score="prior", keep_fraction=0.5)) == ("prior_scores",)
    labelled = selection(score="random", unwanted_domains=("web",), keep_fraction=0.5)
    assert ranking_of(labelled) == ("random_scores", "labelled_scores")


def test_a_weaker_teacher_is_told_of_a_changed_difference_too(tables: Ranked) -> None:
    tables.write_candidates([(-3.0, -2.0, [0, 1], "web")] * 3 + [(-1.0, -2.0, [0, 1], "web")], 1)
    chosen = selection(order="lowest", keep_fraction=0.5)
    tables.rank(chosen)
    tables.run_for(chosen, "selection_cutoff")
    checks = tables.run_for(chosen, "score_distribution")
    assert "teacher_finds_most_candidates_easier" not in checks  # it speaks of the plain difference
    assert not checks["teacher_still_finds_most_candidates_easier"].passed


@pytest.mark.parametrize("seed", [0, 2**31, 2**63 - 1])
def test_random_numbers_are_the_same_for_ids_and_seeds_of_any_size(tables: Ranked, seed: int) -> None:
    ids = [0, 2**27, 2**62 + 5, 2**63 - 2**21 - 1]
    rows = [sequence(id_, shard=f"s{place}") for place, id_ in enumerate(ids)]
    tables.write("sequences", rows, num_files=2)
    tables.run(SQL, "random_scores", seed=seed)
    found = {row["sequence_id"]: row["rank_difference"] for row in tables.rows("random_scores")}
    assert found == dict(zip(ids, hash_fractions(np.array(ids), seed=seed).tolist(), strict=True))


def test_the_same_inputs_give_the_same_bytes_with_any_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(2)
    nats = generator.integers(-900, 0, (2_000, 2)) / 7
    token_ids = [generator.zipf(1.3, 2 + n % 40).clip(max=999).tolist() for n in range(len(nats))]
    rows = [(float(t), float(r), token_ids[n], "abc"[n % 3]) for n, (t, r) in enumerate(nats)]
    chosen = [
        selection(score="prior", keep_fraction=0.5),
        selection(scale_correction="residual", order="lowest", temperature=0.3, within="domain", token_budget=9_000),
        selection(score="teacher", rank_by="nats_per_byte", keep_fraction=0.5),
    ]
    labelled = selection(score="random", unwanted_domains=("a",), keep_fraction=0.5)
    real = sql_run.duckdb.connect

    def digests(num_threads: int) -> dict[str, str]:
        tables = Ranked(tmp_path / f"{num_threads}")
        tables.folder.mkdir()
        tables.write_candidates(rows, 2)
        with monkeypatch.context() as patch:
            patch.setattr(sql_run.duckdb, "connect", lambda config: real(config={**config, "threads": num_threads}))
            for one in chosen:
                tables.rank(one)
            tables.in_folder("labelled").rank(labelled)
        return {
            str(path.relative_to(tables.folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(tables.folder.glob("**/*.parquet"))
        }

    first = digests(1)
    assert {name.split("/")[-2] for name in first if "/" in name} >= {"prior_scores", "score_scales", *STEPS}
    assert digests(4) == first


def test_a_candidate_that_a_pre_filter_keeps_and_nobody_finds_stops(tables: Ranked) -> None:
    hard_and_easy(tables)
    first = selection(score="random", keep_fraction=1)
    tables.rank(first)
    tables.run_for(first, "selection_cutoff")
    [path, *_] = tables.paths["difference_scores"]
    pq.write_table(pq.read_table(path)[1:], path)
    with pytest.raises(SqlError, match="3 candidates of 11 tokens survive, and the pre_filter keeps 4 of 14"):
        tables.run_for(selection(keep_fraction=0.5, pre_filter="first"), SURVIVORS)
