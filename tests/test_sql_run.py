import contextlib
import hashlib
import math
import pickle
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miniplm_assets.core.errors import SqlError
from miniplm_assets.storage import sql_run
from miniplm_assets.storage.duckdb_session import each_beside
from miniplm_assets.storage.shard_ranges import MAX_ID, MIN_ID, ShardRange
from miniplm_assets.storage.sql_project import SqlProject, load_sql_project
from miniplm_assets.storage.sql_run import ShardRun, run_model
from miniplm_assets.storage.sql_testing import Failures, SqlTests
from tests.sql_tables import SPAN, SQL_FOLDER, Tables, document, project, score, sequence

SQL = project()
ALL = [
    "difference_scores",
    "selection_cutoff",
    "refined_corpus",
    "score_distribution",
    "domain_shift",
    "length_bias",
    "corpus_profile",
    "extreme_sequences",
]


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path)


def four_sequences(tables: Tables) -> None:
    """Teacher and reference of four candidates and a validation sequence; differences 4, 2, -3 and 0 nats."""
    tables.write_all(
        [
            sequence(1, domain="web", num_tokens=3),
            sequence(2, domain="web", num_tokens=2),
            sequence(3, domain="code", num_tokens=4),
            sequence(4, shard="b/x.jsonl", domain="code", num_tokens=5),
            sequence(5, shard="b/x.jsonl", domain="web", split="validation"),
            sequence(6, shard="c", domain="web", split="reference"),
        ],
        teacher={1: -2.0, 2: -1.0, 3: -9.0, 4: -8.0, 5: -1.0},
        reference={1: -6.0, 2: -3.0, 3: -6.0, 4: -8.0, 5: -90.0},
    )


def test_differences_by_hand(tables: Tables):
    four_sequences(tables)
    checks = tables.run(SQL, "difference_scores")
    assert all(check.passed for check in checks.values())
    rows = tables.rows("difference_scores")
    assert [(row["sequence_id"], row["difference_nats"]) for row in rows] == [(1, 4.0), (2, 2.0), (3, -3.0), (4, 0.0)]
    assert [row["difference_nats_per_token"] for row in rows] == [4 / 2, 2 / 1, -3 / 3, 0 / 4]
    assert [row["rank_difference"] for row in rows] == [2.0, 2.0, -1.0, 0.0]
    assert [path.name for path in tables.paths["difference_scores"]] == [
        "a.parquet",
        "b%2Fx.jsonl.parquet",
        "c.parquet",
    ]


def test_cutoff_and_marts_by_hand(tables: Tables):
    four_sequences(tables)
    for name in ALL:
        checks = tables.run(SQL, name, rank_by="nats_per_token", keep_fraction=0.5)
        assert [check.name for check in checks.values() if not check.passed] == []
    [cutoff] = tables.rows("selection_cutoff")
    assert cutoff == {
        "rank_by": "nats_per_token",
        "keep_fraction": 0.5,
        "token_budget": None,
        "num_candidates": 4,
        "num_candidate_tokens": 14,
        "num_kept": 2,
        "num_kept_tokens": 5,
        "cutoff_difference": 2.0,
        "cutoff_sequence_id": 2,
        "share_below_zero": 0.25,
    }
    kept = tables.rows("refined_corpus")
    assert [(row["sequence_id"], row["texts"], row["token_ids"]) for row in kept] == [
        (1, ["text of 1"], [0, 1, 2]),
        (2, ["text of 2"], [0, 1]),
    ]
    assert [pq.read_metadata(path).num_rows for path in tables.paths["refined_corpus"]] == [2, 0, 0]

    code, web = tables.rows("domain_shift")
    assert (code["domain"], code["num_kept"], code["log_token_share_ratio"]) == ("code", 0, None)
    assert web["share_of_candidate_tokens"] == 5 / 14
    assert web["share_of_kept_tokens"] == 1.0
    assert web["log_token_share_ratio"] == pytest.approx(math.log(14 / 5))

    over_all = tables.rows("length_bias")[0]
    # Lengths 3, 2, 4, 5 (mean 3.5) against 4, 2, -3, 0 (mean 0.75): covariance -6.5 / 4, variances 5 / 4 and 26.75 / 4.
    assert over_all["length_difference_correlation"] == pytest.approx(-6.5 / math.sqrt(5 * 26.75))
    assert (over_all["length_bucket"], over_all["share_kept"]) == (0, 0.5)
    assert sum(row["num_candidates"] for row in tables.rows("length_bias")[1:]) == 4

    bins = tables.rows("score_distribution")
    assert (len(bins), sum(row["num_candidates"] for row in bins), sum(row["num_kept"] for row in bins)) == (202, 4, 2)

    profile = {(row["domain"], row["split"]): row for row in tables.rows("corpus_profile")}
    assert sorted(profile) == [
        ("code", "candidate"),
        ("web", "candidate"),
        ("web", "reference"),
        ("web", "validation"),
    ]
    assert profile["code", "candidate"]["bytes_per_token"] == 18 / 9

    extremes = {(row["extreme"], row["place"]): row for row in tables.rows("extreme_sequences")}
    assert [extremes["highest", place]["sequence_id"] for place in (1, 2, 3, 4)] == [1, 2, 4, 3]
    assert [extremes["lowest", place]["sequence_id"] for place in (1, 2, 3, 4)] == [3, 4, 2, 1]
    assert extremes["lowest", 1]["teacher_nll_nats_per_token"] == 3.0
    assert extremes["lowest", 1]["text"] == "text of 3"


@pytest.mark.parametrize(("num_below", "is_good"), [(2, True), (3, False), (4, False)])
def test_a_teacher_that_is_the_weaker_one_is_warned_of_without_a_pilot(tables: Tables, num_below: int, is_good: bool):
    ids = [1, 2, 3, 4]
    teacher = {id_: -9.0 if id_ <= num_below else -6.0 for id_ in ids}  # -6 as the reference: not below
    tables.write_all([sequence(id_) for id_ in ids], teacher=teacher, reference=dict.fromkeys(ids, -6.0))
    for name in ("difference_scores", "selection_cutoff"):
        tables.run(SQL, name, rank_by="nats_per_token", keep_fraction=0.5)
    check = tables.run(SQL, "score_distribution")["teacher_finds_most_candidates_easier"]
    assert check.passed == is_good
    declared = {check.name: check for check in SQL.model("score_distribution").checks}
    assert declared[check.name].severity == "warn"
    if not is_good:
        assert check.facts["first_rows"] == [{"num_candidates": 4, "share_below_zero": str(num_below / 4)}]


# Few values, so that most differences are ties; neighbours of a hundredth's multiple, where the bands meet.
logprobs = st.sampled_from([-3.0, -2.5, -2.0, -1.01, -1.0, -0.99, -0.5, 0.0])
candidates = st.lists(st.tuples(logprobs, logprobs, st.integers(2, 4)), min_size=1, max_size=30)
amounts = st.one_of(
    st.fixed_dictionaries({"keep_fraction": st.sampled_from([0.01, 0.1, 0.29, 0.3, 0.5, 0.58, 0.7, 1.0])}),
    st.fixed_dictionaries({"token_budget": st.integers(1, 100)}),
)


@settings(max_examples=25, deadline=None)
@given(candidates, st.sampled_from(["nats_per_token", "nats_per_sequence"]), amounts, st.integers(1, 3))
def test_the_cutoff_is_that_of_sorting_everything(
    rows: list[tuple[float, float, int]], rank_by: str, amount: dict[str, Any], num_shards: int
):
    sequences = [
        sequence(place, shard=f"s{place * num_shards // len(rows)}", num_tokens=tokens)
        for place, (_, _, tokens) in enumerate(rows)
    ]

    def rank(place: int) -> float:
        teacher, reference, tokens = rows[place]
        difference = teacher - reference
        return difference / (tokens - 1) if rank_by == "nats_per_token" else difference

    best_first = sorted(range(len(rows)), key=lambda place: (-rank(place), place))
    if "keep_fraction" in amount:
        num_kept = max(1, math.floor(Decimal(str(amount["keep_fraction"])) * len(rows)))
    else:
        tokens_up_to = [sum(rows[place][2] for place in best_first[: n + 1]) for n in range(len(rows))]
        num_kept = next((n + 1 for n, sum_ in enumerate(tokens_up_to) if sum_ >= amount["token_budget"]), len(rows))
    kept = best_first[:num_kept]

    with TemporaryDirectory() as folder:
        tables = Tables(Path(folder))
        scores = [dict(enumerate(row[model] for row in rows)) for model in (0, 1)]
        tables.write_all(sequences, *scores)
        for name in ALL[:3]:
            checks = tables.run(SQL, name, rank_by=rank_by, **amount)
            assert {check.name for check in checks.values() if not check.passed} <= {"token_budget_is_reached"}
        [cutoff] = tables.rows("selection_cutoff")
        refined = [row["sequence_id"] for row in tables.rows("refined_corpus")]
    assert (cutoff["cutoff_difference"], cutoff["cutoff_sequence_id"]) == (rank(kept[-1]), kept[-1])
    assert (cutoff["num_kept"], cutoff["num_kept_tokens"]) == (num_kept, sum(rows[place][2] for place in kept))
    assert refined == sorted(kept)


def test_a_fraction_is_taken_as_it_is_written(tables: Tables):
    assert math.floor(0.29 * 100) == 28  # what a binary product would keep
    ids = range(100)
    tables.write_all([sequence(i) for i in ids], dict.fromkeys(ids, -1.0), dict.fromkeys(ids, -2.0))
    tables.run(SQL, "difference_scores")
    tables.run(SQL, "selection_cutoff", keep_fraction=0.29)
    [cutoff] = tables.rows("selection_cutoff")
    assert (cutoff["num_kept"], cutoff["cutoff_sequence_id"]) == (29, 28)


def test_a_budget_beyond_the_corpus_keeps_everything_and_warns(tables: Tables):
    four_sequences(tables)
    tables.run(SQL, "difference_scores")
    checks = tables.run(SQL, "selection_cutoff", token_budget=15)
    assert [check.name for check in checks.values() if not check.passed] == ["token_budget_is_reached"]
    assert checks["token_budget_is_reached"].facts["first_rows"] == [{"token_budget": 15, "num_kept_tokens": 14}]
    assert tables.rows("selection_cutoff")[0]["num_kept"] == 4


def test_a_sequence_in_which_nothing_is_scored_has_no_difference(tables: Tables):
    tables.write_all([sequence(1, num_tokens=1), sequence(2)], {1: 0.0, 2: -1.0}, {1: 0.0, 2: -2.0})
    tables.run(SQL, "difference_scores")
    assert [row["rank_difference"] for row in tables.rows("difference_scores")] == [0.0, 0.5]


@pytest.mark.parametrize(
    ("teacher", "reference", "message"),
    [
        (
            {1: -1.0, 3: -1.0},
            {1: -1.0, 2: -1.0, 3: -1.0},
            "sequence 2 of shard b has no teacher score. Materialise tea",
        ),
        ({1: -1.0, 2: -1.0, 3: -1.0}, {3: -1.0}, r"sequence 1 of shard a has no reference score.*reference_scores"),
        ({1: -1.0, 2: -1.0, 3: -1.0}, {}, "sequence 1 of shard a has no reference score"),
        (
            dict.fromkeys((1, 2, 3, 9), -1.0),
            dict.fromkeys((1, 2, 3), -1.0),
            "sequence 9 has a teacher score, but",
        ),
        (
            dict.fromkeys((1, 2, 3), -1.0),
            dict.fromkeys((-7, 1, 2, 3), -1.0),
            "sequence -7 has a reference score",
        ),
        (dict.fromkeys((1, 2, 3, 4), -1.0), dict.fromkeys((1, 2, 3, 4), -1.0), "sequence 4 has a teacher score"),
        ({1: -1.0, 2: math.nan, 3: -1.0}, {1: -1.0, 2: -1.0, 3: -1.0}, "the teacher score of sequence 2 is nan"),
        ({1: -1.0, 2: -1.0, 3: -1.0}, {1: -1.0, 2: -math.inf, 3: -1.0}, "the reference score of sequence 2 is -inf"),
    ],
)
def test_scores_that_do_not_fit_stop_with_the_first_culprit(
    tables: Tables, teacher: dict[int, float], reference: dict[int, float], message: str
):
    sequences = [sequence(1, shard="a"), sequence(2, shard="b"), sequence(3, shard="b")]
    tables.write_all([*sequences, sequence(4, shard="c", split="reference")], teacher, reference)
    with pytest.raises(SqlError, match=message):
        tables.run(SQL, "difference_scores")


def test_different_numbers_of_scored_tokens_stop(tables: Tables):
    tables.write_all([sequence(1)], {1: -1.0}, {1: -1.0})
    tables.write("reference_scores", [score(1, -1.0, num_scored_tokens=7)])
    with pytest.raises(SqlError, match="sequence 1 of shard a: the teacher scored 2 tokens, the reference 7"):
        tables.run(SQL, "difference_scores")


def test_a_sequence_scored_twice_stops(tables: Tables):
    tables.write_all([sequence(1), sequence(2)], {1: -1.0, 2: -1.0}, {1: -1.0, 2: -1.0})
    tables.write("teacher_scores", [score(1, -1.0), score(2, -1.0), score(2, -5.0)])
    with pytest.raises(SqlError, match=r"sequence_id identifies a row.*'sequence_id': 2"):
        tables.run(SQL, "difference_scores")


def test_scores_without_a_number_of_tokens_stop(tables: Tables):
    tables.write_all([sequence(1)], {1: -1.0}, {1: -1.0})
    for table in ("teacher_scores", "reference_scores"):
        tables.write(table, [{**score(1, -1.0), "num_scored_tokens": None}])
    with pytest.raises(SqlError, match="sequence 1 of shard a: the teacher scored NULL tokens, the reference NULL"):
        tables.run(SQL, "difference_scores")


scored = st.lists(st.tuples(st.integers(0, 7), st.sampled_from([2, 2, 2, 3])), max_size=2)
splits = st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["candidate", "validation", "reference"])), max_size=3)


@settings(max_examples=60, deadline=None)
@given(splits, st.sets(st.integers(0, 6), max_size=1), scored, st.sets(st.integers(0, 6), max_size=1), scored)
def test_scores_stop_or_pair_as_going_through_all_of_them_says(
    more_sequences: list[tuple[int, str]],
    teacher_misses: set[int],
    more_teacher_scores: list[tuple[int, int]],
    reference_misses: set[int],
    more_reference_scores: list[tuple[int, int]],
):
    """Sequences 0 to 3 are candidates, 4 is for validation, all scored over 2 tokens; some lost, some added."""
    sequences = [*((i, "candidate") for i in range(4)), (4, "validation"), *more_sequences]
    teacher = [*((i, 2) for i in range(5) if i not in teacher_misses), *more_teacher_scores]
    reference = [*((i, 2) for i in range(5) if i not in reference_misses), *more_reference_scores]

    candidates = [i for i, split in sequences if split == "candidate"]
    scorable = {i for i, split in sequences if split != "reference"}
    pairs_of = {i: [(t, r) for j, t in teacher if j == i for k, r in reference if k == i] for i in candidates}
    fits = (
        len(set(candidates)) == len(candidates)
        and {i for i, _ in teacher + reference} <= scorable
        and all(len(pairs) == 1 and pairs[0][0] == pairs[0][1] for pairs in pairs_of.values())
    )

    with TemporaryDirectory() as folder:
        tables = Tables(Path(folder))
        tables.write("sequences", [sequence(i, shard=f"s{i // 3}", split=split) for i, split in sequences], num_files=2)
        for table, scores in (("teacher_scores", teacher), ("reference_scores", reference)):
            tables.write(table, [score(i, -1.0, num_scored_tokens=tokens) for i, tokens in scores], num_files=2)
        if fits:
            tables.run(SQL, "difference_scores")
            assert [row["sequence_id"] for row in tables.rows("difference_scores")] == sorted(candidates)
        else:
            with pytest.raises(SqlError, match=r"Materialise|Score both|identifies a row"):
                tables.run(SQL, "difference_scores")


def test_no_candidates_is_an_error_that_says_why(tables: Tables):
    tables.write_all([sequence(1, split="reference")], {}, {})
    with pytest.raises(SqlError, match="nothing to select from.*too small"):
        tables.run(SQL, "difference_scores")


def test_an_input_without_a_file_is_named(tables: Tables):
    tables.write_all([sequence(1)], {1: -1.0}, {1: -1.0})
    tables.paths["teacher_scores"] = []
    with pytest.raises(SqlError, match="Materialise teacher_scores first"):
        tables.run(SQL, "difference_scores")


def test_a_missing_parameter_is_named(tables: Tables, tmp_path: Path):
    four_sequences(tables)
    with pytest.raises(SqlError, match=r"\$rank_by"):
        run_model(SQL, "difference_scores", inputs=tables.paths, parameters={}, target=tmp_path)


def test_ids_of_two_corpus_files_must_not_overlap(tables: Tables):
    sequences = [sequence(1, shard="a"), sequence(2, shard="b"), sequence(3, shard="a")]
    tables.write_all(sequences, dict.fromkeys((1, 2, 3), -1.0), dict.fromkeys((1, 2, 3), -1.0))
    with pytest.raises(SqlError, match="ids of shard a reach to 3, those of shard b begin at 2"):
        tables.run(SQL, "difference_scores")


@pytest.mark.parametrize("where", ["documents", "sequences"])
def test_a_leak_from_another_split_is_found(tables: Tables, where: str):
    four_sequences(tables)
    if where == "documents":
        documents = [document(i, split="validation" if i == 2 else "candidate") for i in range(1, 7)]
        tables.write("documents", documents)
    else:
        leak = {**sequence(7, shard="d", split="reference"), "spans": sequence(2)["spans"]}
        tables.write("sequences", [*tables.rows("sequences"), leak])
    for name in ALL[:2]:
        tables.run(SQL, name, keep_fraction=0.5)
    checks = tables.run(SQL, "refined_corpus", keep_fraction=0.5)
    leaks = checks["refined_documents_are_candidates"]
    assert not leaks.passed
    assert leaks.facts["first_rows"] == [
        {
            "document_id": 1_000_002,
            "sequence_id": 2,
            "split": "validation" if where == "documents" else "reference",
            "found_in": where,
        }
    ]


def test_another_type_than_the_yaml_says_is_refused(tables: Tables, tmp_path: Path):
    folder = Path(shutil.copytree(SQL_FOLDER, tmp_path / "sql"))
    schema = folder / "models" / "marts" / "schema.yml"
    old = "mean_bytes_per_document, data_type: DOUBLE"
    assert old in schema.read_text()
    schema.write_text(schema.read_text().replace(old, old.replace("DOUBLE", "BIGINT")))
    four_sequences(tables)
    with pytest.raises(SqlError, match="column mean_bytes_per_document is DOUBLE, the YAML says BIGINT"):
        tables.run(load_sql_project(folder), "corpus_profile")


def test_an_input_that_duckdb_cannot_read_is_an_error_with_the_models_name(tables: Tables):
    four_sequences(tables)
    tables.paths["documents"][0].write_bytes(b"not Parquet")
    with pytest.raises(SqlError, match=r"corpus_profile: .*documents-0\.parquet"):
        tables.run(SQL, "corpus_profile")


def test_the_same_inputs_give_the_same_bytes_with_any_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def digests(folder: Path, num_threads: int) -> dict[str, str]:
        folder.mkdir()
        tables = Tables(folder)
        ids = range(3000)
        sequences = [sequence(i, shard=f"s{i // 1500}", num_tokens=2 + i % 7, domain=f"d{i % 3}") for i in ids]
        tables.write_all(sequences, {i: -(i * 37 % 1000) / 7 for i in ids}, {i: -(i * 91 % 1000) / 3 for i in ids})
        real = sql_run.duckdb.connect
        with monkeypatch.context() as patch:
            patch.setattr(sql_run.duckdb, "connect", lambda config: real(config={**config, "threads": num_threads}))
            for name in ALL:
                tables.run(SQL, name, keep_fraction=0.4)
        return {
            f"{name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
            for name in ALL
            for path in tables.paths[name]
        }

    first = digests(tmp_path / "one", 1)
    assert len(first) == 2 * 2 + 6
    assert digests(tmp_path / "four", 4) == first


def without_shortcuts() -> SqlProject:
    sql = project()
    sql.models.update({name: replace(model, shortcut=None) for name, model in sql.models.items()})
    return sql


WITHOUT_SHORTCUTS = without_shortcuts()
# In the order of the sequences, but for what is done to some of them.
CHANGES = ("drop", "double", "swap", "of another sequence", "over fewer tokens", "NULL tokens", "NaN", "no id")


def changed(scores: list[dict[str, Any]], changes: Sequence[tuple[str, int]]) -> list[dict[str, Any]]:
    rows = [dict(row) for row in scores]
    for change, number in changes:
        if not rows:
            break
        place = number % len(rows)
        if change == "drop":
            del rows[place]
        elif change == "double":
            rows.insert(place, dict(rows[place]))
        elif change == "swap":
            rows[place], rows[-1] = rows[-1], rows[place]
        elif change == "of another sequence":
            rows[place]["sequence_id"] = 1 + number
        elif change == "over fewer tokens":
            rows[place]["num_scored_tokens"] = 1
        elif change == "NULL tokens":
            rows[place]["num_scored_tokens"] = None
        elif change == "NaN":
            rows[place]["logprob_nats"] = math.nan
        else:
            rows[place]["sequence_id"] = None
    return rows


some_changes = st.lists(st.tuples(st.sampled_from(CHANGES), st.integers(0, 20)), max_size=2)


@settings(deadline=None, max_examples=50)
@given(
    splits=st.lists(st.sampled_from(["candidate", "candidate", "validation", "reference"]), min_size=1, max_size=9),
    num_shards=st.integers(1, 3),
    teacher=some_changes,
    reference=some_changes,
    sequences=st.permutations(range(3)),
)
def test_a_shortcut_leads_to_the_same_rows_checks_and_errors(
    splits: list[str],
    num_shards: int,
    teacher: list[tuple[str, int]],
    reference: list[tuple[str, int]],
    sequences: list[int],
):
    per_shard = -(-len(splits) // num_shards)
    rows = [sequence(i, shard=f"s{i // per_shard}", split=split) for i, split in enumerate(splits)]
    scored = [row["sequence_id"] for row in rows if row["split"] != "reference"]
    outcomes = []
    for sql in (SQL, WITHOUT_SHORTCUTS):
        with TemporaryDirectory() as folder:
            tables = Tables(Path(folder))
            # The first three rows in another order, at times.
            tables.write("sequences", [rows[place] for place in sequences if place < len(rows)] + rows[3:], seed=None)
            for table, factor, changes in (("teacher", 1.0, teacher), ("reference", 2.0, reference)):
                scores = [score(id_, -factor * (1 + id_ % 4)) for id_ in scored]
                tables.write(f"{table}_scores", changed(scores, changes), seed=None)
            try:
                checks = tables.run(sql, "difference_scores")
                outcomes.append((repr(checks), repr(tables.rows("difference_scores"))))  # for NaN is not NaN
            except SqlError as error:
                outcomes.append((str(error), "nothing"))
    assert outcomes[0] == outcomes[1]
    if not teacher and not reference and "candidate" in splits:
        assert outcomes[0][1].count("'sequence_id'") == splits.count("candidate")


@pytest.mark.parametrize("seed", [None, 1])
def test_scores_in_the_order_of_the_sequences_are_not_joined(
    tables: Tables, monkeypatch: pytest.MonkeyPatch, seed: int | None
):
    sequences = [sequence(i, shard=f"s{i // 20}", split="candidate" if i % 5 else "validation") for i in range(60)]
    tables.write("sequences", sequences, seed=None)
    for number, table in enumerate(("teacher_scores", "reference_scores")):
        tables.write(table, [score(i, -(i * 7 % 11) - number) for i in range(60)], seed=seed)
    copied: list[str] = []
    real = sql_run._Run._copy

    def copy(run: Any, sql: str, path: Path) -> None:
        copied.append("by place" if "POSITIONAL JOIN" in sql else "by key")
        real(run, sql, path)

    monkeypatch.setattr(sql_run._Run, "_copy", copy)
    checks = tables.run(SQL, "difference_scores")
    assert all(check.passed for check in checks.values())
    assert [row["difference_nats"] for row in tables.rows("difference_scores")] == [1.0] * 48
    assert sorted(copied) == (["by place"] * 3 if seed is None else ["by key"] * 3 + ["by place"] * 3)


def test_a_corpus_file_that_fails_among_many_is_the_first_one_and_ends_the_others(tables: Tables):
    def scores(wrong: Sequence[int]) -> list[dict[str, Any]]:
        return [score(i, math.nan if i in wrong else -1.0 - i % 3) for i in range(400)]

    tables.write("sequences", [sequence(i, shard=f"s{i // 4:02}") for i in range(400)], seed=None)
    tables.write("teacher_scores", scores([]), seed=None)
    tables.write("reference_scores", scores([41, 390]), seed=None)
    with pytest.raises(SqlError, match="the reference score of sequence 41 is nan"):
        tables.run(SQL, "difference_scores")
    assert 10 <= len(list((tables.folder / "difference_scores").glob("*.parquet"))) < 60


def test_an_interrupt_ends_the_queries_of_all_threads():
    def begin(connection: duckdb.DuckDBPyConnection) -> Callable[[int], int]:
        def do(number: int) -> int:
            if number == 0:
                raise KeyboardInterrupt
            began.append(number)
            while True:  # one query after the other, each of which ends only when it is interrupted
                with contextlib.suppress(duckdb.InterruptException):
                    connection.execute("select count(*) from range(1000000000000)").fetchall()
                ended.append(number)
                if ended.count(number) == 2:
                    return number

        return do

    began: list[int] = []
    ended: list[int] = []
    with duckdb.connect() as connection, pytest.raises(KeyboardInterrupt):
        list(each_beside(connection, begin, range(200), num_at_once=3))
    assert sorted(ended) == sorted(began * 2) and len(began) < 10


def test_nobody_writes_where_what_was_found_is_not_taken(tables: Tables, monkeypatch: pytest.MonkeyPatch):
    ids = range(800)
    tables.write("sequences", [sequence(i, shard=f"s{i // 4:03}") for i in ids], seed=None)
    for table in ("teacher_scores", "reference_scores"):
        tables.write(table, [score(i, -1.0 - i % 3) for i in ids], seed=None)

    def interrupted(_tests: Any, _failures: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SqlTests, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tables.run(SQL, "difference_scores")
    written = sorted((tables.folder / "difference_scores").iterdir())
    assert 1 <= len(written) < 100
    time.sleep(0.3)
    assert sorted((tables.folder / "difference_scores").iterdir()) == written


def test_corpus_files_whose_names_differ_by_what_duckdb_puts_before_one(tables: Tables):
    shards = ("a", "tmp_a", "tmp_tmp_a")
    sequences = [sequence(i, shard=shards[i // 20]) for i in range(60)]
    for _ in range(5):
        # In another order than the sequences, so that each file is written a second time.
        tables.write_all(sequences, {i: -float(i) for i in range(60)}, {i: -2.0 * i for i in range(60)})
        tables.run(SQL, "difference_scores")
        rows = [pq.read_table(path).to_pylist() for path in tables.paths["difference_scores"]]
        assert [[row["sequence_id"] for row in of] for of in rows] == [
            [i for i in range(60) if shards[i // 20] == shard] for shard in shards
        ]
        assert all(row["difference_nats"] == row["sequence_id"] for of in rows for row in of)
        shutil.rmtree(tables.folder / "difference_scores")


def test_what_a_shortcut_writes_has_the_same_bytes_on_any_number_of_threads(tmp_path: Path):
    num_rows = 300_000
    generator = np.random.default_rng(0)
    ids, splits = np.arange(num_rows), np.where(np.arange(num_rows) % 50 == 7, "validation", "candidate")
    num_tokens = generator.integers(2, 1025, num_rows, dtype=np.int32)
    empty = pa.array(np.zeros(num_rows + 1, np.int32))
    no_spans = pa.ListArray.from_arrays(empty, pa.array([], SPAN))
    sequences = {
        "sequence_id": ids,
        "shard": ["a"] * num_rows,
        "domain": generator.choice(["code", "web"], num_rows),
        "split": splits,
        "num_tokens": num_tokens,
        "num_bytes": num_tokens.astype(np.int64) * 4,
        "token_ids": pa.ListArray.from_arrays(empty, pa.array([], pa.int32())),
        "spans": no_spans,
        "texts": pa.ListArray.from_arrays(empty, pa.array([], pa.string())),
    }
    inputs = {"sequences": [tmp_path / "sequences.parquet"]}
    pq.write_table(pa.table(sequences), inputs["sequences"][0], row_group_size=70_000)
    for table in ("teacher_scores", "reference_scores"):
        logprobs = -num_tokens * generator.gamma(9.0, 0.3, num_rows)
        scores = {"sequence_id": ids, "logprob_nats": logprobs, "num_scored_tokens": num_tokens - 1}
        inputs[table] = [tmp_path / f"{table}.parquet"]
        pq.write_table(pa.table(scores), inputs[table][0], row_group_size=50_000)
    model = SQL.model("difference_scores")
    shard = ShardRun(
        project=SQL_FOLDER,
        model=model.name,
        code_version=model.code_version,
        traits=model.traits,
        inputs=inputs,
        ids=ShardRange("a", MIN_ID, MAX_ID),
        parameters={"rank_by": "nats_per_token"},
    )
    digests = set()
    for num_threads in (1, 2, 4):
        (tmp_path / str(num_threads)).mkdir()
        shard.write(tmp_path / str(num_threads), num_threads=num_threads)
        [written] = (tmp_path / str(num_threads)).iterdir()
        digests.add(hashlib.sha256(written.read_bytes()).hexdigest())
        assert pq.read_table(written)["sequence_id"].to_pylist() == ids[splits == "candidate"].tolist()
    assert len(digests) == 1


def test_corpus_files_that_others_write_have_the_same_bytes_and_checks(tmp_path: Path) -> None:
    def elsewhere(shards: Sequence[ShardRun], target: Path) -> Iterator[dict[str, Failures]]:
        for shard in pickle.loads(pickle.dumps(shards)):
            folder = target / "elsewhere"
            folder.mkdir()
            with pytest.raises(SqlError, match="holds another SQL than the run has that asks for it"):
                replace(shard, code_version="older").write(folder)
            found = shard.write(folder, num_threads=1, memory_limit="1GB")
            [written] = folder.iterdir()
            written.rename(target / shard.ids.file_name)
            folder.rmdir()
            yield pickle.loads(pickle.dumps(found))

    made = []
    for name, spread in (("here", None), ("there", elsewhere)):
        (tmp_path / name).mkdir()
        tables = Tables(tmp_path / name)
        four_sequences(tables)
        rows = tables.rows("teacher_scores")
        # Two corpus files have what a check of each finds.
        tables.write("teacher_scores", [row | {"logprob_nats": abs(row["logprob_nats"])} for row in rows])
        checks = {
            table: tables.run(SQL, table, keep_fraction=0.5, spread=spread)
            for table in ("difference_scores", "selection_cutoff", "refined_corpus")
        }
        files = [path for table in checks for path in tables.paths[table]]
        made.append((checks, [(path.name, path.read_bytes()) for path in files]))
    assert made[0] == made[1]
    [failed] = [
        check for check in made[0][0]["difference_scores"].values() if not check.passed and "logprob" in check.name
    ]
    assert failed.facts["num_failing_rows"] == 4 and len({row["shard"] for row in failed.facts["first_rows"]}) > 1


def test_a_run_under_a_small_memory_limit_leaves_nothing_behind(tables: Tables, tmp_path: Path):
    four_sequences(tables)
    target = tmp_path / "target"
    target.mkdir()
    settings = {"rank_by": "nats_per_token"}
    run_model(SQL, "difference_scores", inputs=tables.paths, parameters=settings, target=target, memory_limit="200MB")
    assert sorted(path.name for path in target.iterdir()) == ["a.parquet", "b%2Fx.jsonl.parquet", "c.parquet"]


def test_a_folder_with_quotes_and_an_equals_sign(tmp_path: Path):
    folder = tmp_path / 'it\'s a=b [x] "y"'
    folder.mkdir()
    tables = Tables(folder)
    four_sequences(tables)
    for name in ALL:
        tables.run(SQL, name, keep_fraction=0.5)
    assert len(tables.rows("refined_corpus")) == 2
