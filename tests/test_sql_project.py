import shutil
from itertools import pairwise
from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniplm_assets.core.errors import SqlError
from miniplm_assets.storage.sql_checks import generic_check
from miniplm_assets.storage.sql_project import load_sql_project
from miniplm_assets.storage.sql_text import render, runnable
from tests.sql_tables import SQL_FOLDER, project

MARTS = [
    "corpus_profile",
    "difference_scores",
    "domain_places",
    "domain_shift",
    "extreme_sequences",
    "labelled_scores",
    "length_bias",
    "likelihood_scores",
    "per_byte_scores",
    "perturbed_scores",
    "prior_scores",
    "prior_statistics",
    "proxy_scores",
    "random_scores",
    "refined_corpus",
    "reversed_scores",
    "scale_corrected_scores",
    "score_deciles",
    "score_distribution",
    "score_scales",
    "selection_cutoff",
    "surviving_reference_scores",
    "surviving_sequences",
    "token_priors",
    "what_if",
]
# That begin with the candidates, as difference_scores does.
BASES = ("likelihood_scores", "prior_statistics", "proxy_scores", "random_scores")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of dbt_like_sql to break."""
    return Path(shutil.copytree(SQL_FOLDER, tmp_path / "sql"))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_the_marts_are_the_assets_of_a_selection():
    assert [model.name for model in project().marts] == MARTS


def test_dependencies_follow_from_the_sql_with_the_steps_expanded():
    sql = project()
    inputs = {model.name: model.inputs for model in sql.marts}
    marks = ("difference_scores", "selection_cutoff")
    assert inputs == {
        "corpus_profile": ("documents", "sequences"),
        "difference_scores": ("reference_scores", "sequences", "teacher_scores"),
        "domain_places": ("difference_scores",),
        "domain_shift": marks,
        "extreme_sequences": (*marks, "sequences"),
        "labelled_scores": ("difference_scores",),
        "length_bias": marks,
        "likelihood_scores": ("model_scores", "sequences"),
        "per_byte_scores": ("difference_scores", "scored_bytes"),
        "perturbed_scores": ("difference_scores", "random_scores"),
        "prior_scores": ("prior_statistics",),
        "prior_statistics": ("sequences", "token_priors"),
        "proxy_scores": ("proxy_differences", "reference_scores", "sequences", "teacher_scores"),
        "random_scores": ("sequences",),
        "refined_corpus": ("difference_scores", "documents", "selection_cutoff", "sequences"),  # documents: by a test
        "reversed_scores": ("difference_scores",),
        "scale_corrected_scores": ("difference_scores", "score_scales"),
        "score_deciles": (*marks, "sequences"),
        "score_distribution": marks,
        "score_scales": ("difference_scores",),
        "selection_cutoff": ("difference_scores",),
        "surviving_reference_scores": ("model_scores", "sequences"),
        "surviving_sequences": (*marks, "sequences"),
        "token_priors": ("token_counts",),
        "what_if": marks,
    }


def test_parameters_follow_from_the_sql():
    used = {model.name: set(model.parameters) for model in project().marts if model.parameters}
    assert used == {
        "difference_scores": {"rank_by"},
        "domain_places": {"keep_fraction", "token_budget"},
        "labelled_scores": {"unwanted_domains"},
        "likelihood_scores": {"rank_by", "score"},
        "perturbed_scores": {"temperature"},
        "proxy_scores": {"rank_by"},
        "random_scores": {"seed"},
        "scale_corrected_scores": {"rank_by", "scale_correction"},
        "score_scales": {"rank_by"},
        "selection_cutoff": {"rank_by", "keep_fraction", "token_budget"},
        "what_if": {"within"},
    }


def test_lineage_of_known_columns():
    sql = project()
    nats = [("reference_scores", "logprob_nats"), ("teacher_scores", "logprob_nats")]
    tokens = ("teacher_scores", "num_scored_tokens")
    differences = sql.model("difference_scores").column_lineage
    assert differences["difference_nats"] == nats
    assert differences["difference_nats_per_token"] == [*nats, tokens]
    assert differences["shard"] == [("sequences", "shard")]
    refined = sql.model("refined_corpus").column_lineage
    assert refined["texts"] == [("sequences", "texts")]
    assert refined["rank_difference"] == [("difference_scores", "rank_difference")]
    assert sql.model("extreme_sequences").column_lineage["is_kept"] == [
        ("difference_scores", "rank_difference"),
        ("difference_scores", "sequence_id"),
        ("selection_cutoff", "cutoff_difference"),
        ("selection_cutoff", "cutoff_sequence_id"),
    ]


def test_lineage_names_every_column_and_only_inputs():
    for model in project().marts:
        assert list(model.column_lineage) == [column.name for column in model.columns]
        assert {table for pairs in model.column_lineage.values() for table, _ in pairs} <= set(model.inputs)


def test_every_column_is_described_and_every_check_has_its_own_name():
    for model in project().models.values():
        assert all(column.description for column in model.columns)
        names = [check.name for check in model.checks]
        assert len(names) == len(set(names))
        assert all(check.description for check in model.checks)


def test_the_grain_of_every_mart_is_tested():
    for model in project().marts:
        assert "_".join(["unique", *model.entry.config.grain]) in [check.name for check in model.checks]


def test_the_sql_is_what_duckdb_reads_too():
    for model in project().models.values():
        assert len(duckdb.extract_statements(model.sql)) == 1


def test_white_space_and_comments_do_not_change_the_code_version(copy: Path):
    before = {model.name: model.code_version for model in load_sql_project(copy).marts}
    for path in copy.rglob("*.sql"):
        header, _, query = path.read_text().rpartition("with\n\n")
        path.write_text(f"{header}WITH -- a comment\n\n\n{query}".replace("    ", "\t"))
    assert {model.name: model.code_version for model in load_sql_project(copy).marts} == before


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        ("models/marts/selection_cutoff.sql", "/ 0.01", "/ 0.02", {"selection_cutoff"}),
        ("models/staging/stg_candidates.sql", "'candidate'", "'reference'", {"difference_scores", *BASES}),
        ("models/marts/schema.yml", "{min: 0, max: 201}", "{min: 0, max: 200}", {"score_distribution"}),
        ("tests/domains_add_up.sql", "!=", "<", {"domain_shift"}),
        ("tests/screens/scores_pair_one_to_one.sql", "num_not_above >", "num_not_above >=", {"difference_scores"}),
        ("tests/token_budget_is_reached.sql", "severity: warn", "severity: error", {"selection_cutoff"}),
        ("models/marts/schema.yml", "One row for each domain of", "One row per domain of", set()),
    ],
)
def test_the_code_version_changes_with_the_meaning(copy: Path, file: str, old: str, new: str, changed: set[str]):
    before = {model.name: model.code_version for model in load_sql_project(copy).marts}
    edit(copy / file, old, new)
    after = {model.name: model.code_version for model in load_sql_project(copy).marts}
    assert {name for name in after if after[name] != before[name]} == changed


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("models/marts/domain_shift.sql", "int_marked_candidates", "int_marked_candidate", "did you mean 'int_marked_"),
        ("models/staging/stg_candidates.sql", "select * from final", "select * from final; select 1", "one select"),
        ("models/staging/stg_candidates.sql", "select * from final", "drop table x", "line 18: not valid SQL"),
        ("models/staging/stg_candidates.sql", "where split", "where where split", "not valid SQL"),
        ("models/staging/stg_candidates.sql", "ref('sequences')", "ref('domain_shift')", "in a circle"),
        ("tests/domains_add_up.sql", "-- model: domain_shift", "-- model: difference_scores", "in a circle"),
        ("tests/domains_add_up.sql", "ref('domain_shift')", "ref('domain_shifts')", "did you mean 'domain_shift'"),
        (
            "tests/domains_add_up.sql",
            "-- model: domain_shift",
            "-- model: domain_shifts",
            "did you mean 'domain_shift'",
        ),
        ("tests/screens/scores_pair_one_to_one.sql", "ref('sequences')", "ref('sequence')", "did you mean 'sequences'"),
        ("tests/domains_add_up.sql", "-- model: domain_shift\n", "", "opens with"),
        ("tests/domains_add_up.sql", "-- model", "-- severity: fatal\n-- model", "none of stop, error, warn"),
        ("models/marts/schema.yml", "- name: domain_shift", "- name: domain_shifts", "did you mean 'domain_shifts'"),
        ("models/staging/schema.yml", "name: domain,", "name: domains,", "column 'domain' is not in the YAML"),
        ("models/staging/stg_candidates.sql", "        domain,\n", "", "'domain', which the SQL does not yield"),
        ("models/marts/schema.yml", "tests: [not_null, unique]", "tests: [not_nul]", "unknown test 'not_nul'"),
        ("models/marts/schema.yml", "accepted_range: {min: 1}", "accepted_range: {least: 1}", "wrong arguments"),
        ("models/marts/schema.yml", "per_shard: true", "per_shards: true", "did you mean 'per_shard'"),
        ("shortcuts/difference_scores.paired.sql", "\n\nselect * from final", "\n\nselect from", "not valid SQL"),
        ("shortcuts/difference_scores.paired.sql", "-- screen", "-- scren", "which is one of scores_pair_one_to_one"),
        ("shortcuts/difference_scores.paired.sql", "one_to_one", "one", "which is one of scores_pair_one_to_one"),
        ("shortcuts/difference_scores.paired.sql", "'stg_teacher_scores'", "'stg_teachers'", "is none of its tables"),
        (
            "shortcuts/difference_scores.paired.sql",
            "= 'candidate'",
            "= $split",
            "gives its CTE 'paired' other parameters",
        ),
    ],
)
def test_what_is_wrong_is_named(copy: Path, file: str, old: str, new: str, message: str):
    edit(copy / file, old, new)
    with pytest.raises(SqlError, match=message):
        load_sql_project(copy)


def test_a_screen_without_its_test_is_refused(copy: Path):
    (copy / "tests/scores_pair_one_to_one.sql").unlink()
    with pytest.raises(SqlError, match=r"screens/scores_pair_one_to_one\.sql: there is no test"):
        load_sql_project(copy)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("difference_score.paired", "no model 'difference_score'; did you mean 'difference_scores'"),
        ("difference_scores.pared", "has no CTE 'pared'; did you mean 'paired'"),
    ],
)
def test_a_shortcut_of_nothing_is_refused(copy: Path, name: str, message: str):
    (copy / "shortcuts/difference_scores.paired.sql").rename(copy / f"shortcuts/{name}.sql")
    with pytest.raises(SqlError, match=message):
        load_sql_project(copy)


def test_a_model_has_one_shortcut(copy: Path):
    shortcut = copy / "shortcuts/difference_scores.paired.sql"
    (copy / "shortcuts/difference_scores.differences.sql").write_text(shortcut.read_text())
    with pytest.raises(SqlError, match="difference_scores has another shortcut"):
        load_sql_project(copy)


def test_neither_a_shortcut_nor_a_hint_to_the_runner_is_part_of_a_code_version(copy: Path):
    before = {model.name: model.code_version for model in load_sql_project(copy).marts}
    shutil.rmtree(copy / "shortcuts")
    edit(copy / "models/marts/schema.yml", ", is_exact: true", "")
    after = load_sql_project(copy)
    assert {model.name: model.code_version for model in after.marts} == before
    assert [model for model in after.marts if model.shortcut is not None] == []


def test_an_imported_table_is_read_and_not_copied():
    template = """with
    a as (
        select * from {{ ref('x') }}
    ),
    b as (select i from a)
    select * from a cross join b"""
    assert "a as not materialized (\n        select * from x\n    )," in runnable(template)
    assert "b as (select i from a)" in runnable(template)


keys = st.lists(st.tuples(st.none() | st.integers(0, 5), st.sampled_from("ab")), max_size=6)


@given(st.one_of(keys, keys.map(lambda rows: sorted(set(rows), key=str))), st.sampled_from([["x"], ["x", "y"]]))
def test_a_screen_of_unique_is_sure_where_each_row_is_above_the_one_before(
    rows: list[tuple[int | None, str]], columns: list[str]
):
    check = generic_check("keyed", None, {"unique": {"columns": columns}}, where="keyed")
    assert check.screen is not None
    with duckdb.connect() as connection:
        connection.execute("create table keyed (x integer, y varchar)")
        for row in rows:
            connection.execute("insert into keyed values (?, ?)", row)
        screened, failed = (connection.execute(render(query)).fetchall() for query in (check.screen, check.sql))
    values = [row[: len(columns)] for row in rows]
    assert (failed == []) == (len(set(values)) == len(values))
    has_null = any(None in value for value in values)
    assert (screened == []) == (not has_null and all(value < following for value, following in pairwise(values)))


def test_a_model_without_yaml_is_refused(copy: Path):
    (copy / "models/marts/new_model.sql").write_text("select 1 as one")
    with pytest.raises(SqlError, match="describes the model 'new_model'"):
        load_sql_project(copy)
