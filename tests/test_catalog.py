from pathlib import Path

import duckdb
import polars as pl
import pytest

from miniplm_assets.storage.catalog import CatalogTable, write_catalog
from tests.sql_tables import Tables, project, sequence

SQL = project()
MARTS = ("difference_scores", "selection_cutoff", "refined_corpus", "domain_shift", "extreme_sequences")


@pytest.fixture
def shown(tmp_path: Path) -> list[CatalogTable]:
    """Two selections over 40 sequences, the noise with the lowest differences, in a folder with a quote in its name."""
    ids = range(40)
    domains = [("noise", "code", "prose", "prose")[i % 4] for i in ids]
    files: dict[str, dict[tuple[str, ...], list[Path]]] = {}
    for selection, fraction in (("half", 0.5), ("it's", 0.25)):
        folder = tmp_path / f"{selection} warehouse"
        folder.mkdir()
        tables = Tables(folder)
        tables.write_all(
            [sequence(i, domain=domains[i]) for i in ids],
            {i: -100.0 + i / 8 for i in ids},
            {i: -100.0 if domains[i] == "noise" else -120.0 + i / 4 for i in ids},
        )
        for name in MARTS:
            tables.run(SQL, name, keep_fraction=fraction)
            files.setdefault(name, {})[(selection,)] = list(tables.paths[name])
        files["documents"] = {(): list(tables.paths["documents"])}
    return [
        CatalogTable(
            name=name,
            description=SQL.entry(name).description,
            columns={column.name: column.description for column in SQL.entry(name).columns},
            files=files[name],
            name_columns=() if name == "documents" else ("selection",),
            is_copied=name in ("selection_cutoff", "domain_shift", "extreme_sequences"),
        )
        for name in files
    ]


def test_the_questions_of_a_person(tmp_path: Path, shown: list[CatalogTable]):
    target = tmp_path / "warehouse.duckdb"
    write_catalog(target, shown, warehouse=tmp_path)
    with duckdb.connect(str(target), read_only=True) as reader:
        lost = reader.execute("select domain from domains_that_lost_most where selection = 'half'").fetchall()
        assert lost[0] == ("noise",)
        lost_shares = "select selection, min(token_share_change) from domain_shift group by all order by all"
        assert [row[0] for row in reader.execute(lost_shares).fetchall()] == ["half", "it's"]
        texts = reader.execute(
            "select text from extreme_sequences where selection = 'half' and extreme = 'lowest' order by place"
        ).fetchall()
        # Noise has the difference i / 8, all others 20 - i / 8: the ten noises are lowest.
        assert texts == [(f"text of {i}",) for i in range(0, 40, 4)]
        assert reader.execute("select selection, num_kept from selection_cutoff order by all").fetchall() == [
            ("half", 20),
            ("it's", 10),
        ]
        assert reader.execute("select count(*) from refined_corpus").fetchall() == [(30,)]
        assert reader.execute("select count(*) from documents").fetchall() == [(40,)]
        # The ten highest of the ten that a quarter keeps: no noise, the difference 20 - i / 8.
        kept = "select text from refined_corpus where selection = 'it''s' order by sequence_id limit 3"
        assert reader.execute(kept).fetchall() == [("text of 1",), ("text of 2",), ("text of 3",)]


def test_a_column_of_that_name_that_is_no_list_of_texts_stays_as_it_is(tmp_path: Path):
    file = tmp_path / "selection_diversity.parquet"
    pl.DataFrame({"texts": ["candidates", "kept"], "num_texts": [8, 4]}).write_parquet(file)
    statistics = CatalogTable(
        name="selection_diversity",
        description="One row for each group.",
        columns={"texts": "candidates or kept", "num_texts": "of them"},
        files={("half",): [file]},
        name_columns=("selection",),
        is_copied=True,
    )
    write_catalog(tmp_path / "warehouse.duckdb", [statistics], warehouse=tmp_path)
    with duckdb.connect(str(tmp_path / "warehouse.duckdb"), read_only=True) as reader:
        assert reader.execute("select * from selection_diversity order by texts").fetchall() == [
            ("half", "candidates", 8),
            ("half", "kept", 4),
        ]


def test_everything_is_described(tmp_path: Path, shown: list[CatalogTable]):
    target = tmp_path / "warehouse.duckdb"
    write_catalog(target, shown, warehouse=tmp_path)
    with duckdb.connect(str(target), read_only=True) as reader:
        comments = dict(
            reader.execute(
                "select table_name, comment from duckdb_tables() "
                "union all select view_name, comment from duckdb_views() where not internal"
            ).fetchall()
        )
        assert sorted(comments) == sorted([*MARTS, "documents", "domains_that_lost_most", "kept_and_dropped_texts"])
        assert all(comments.values())
        columns = "select table_name, column_name from duckdb_columns() where comment is null and not internal"
        undescribed = {table for table, _ in reader.execute(columns).fetchall()}
        assert undescribed <= {"domains_that_lost_most", "kept_and_dropped_texts"}


def test_the_sequences_of_contaminated_documents(tmp_path: Path, shown: list[CatalogTable]):
    [documents] = [table for table in shown if table.name == "documents"]
    listed = pl.concat(pl.read_parquet(path) for path in documents.files[()]).filter(pl.col("line") == 1).head(3)
    columns = {"found_in": "validation", "ngram": "one two three", "num_ngrams": 1}
    path = tmp_path / "contaminated.parquet"
    listed.drop("text", "num_bytes").with_columns(
        **{name: pl.lit(value) for name, value in columns.items()}
    ).write_parquet(path)
    sequences = {("bpe",): [*(tmp_path / "half warehouse").glob("sequences-*.parquet")]}
    write_catalog(
        tmp_path / "warehouse.duckdb",
        [
            CatalogTable(name="contaminated_documents", description="", columns={}, files={(): [path]}),
            CatalogTable(name="sequences", description="", columns={}, files=sequences, name_columns=("tokenizer",)),
        ],
        warehouse=tmp_path,
    )
    with duckdb.connect(str(tmp_path / "warehouse.duckdb"), read_only=True) as reader:
        found = reader.execute(
            "select tokenizer, sequence_id, document_id, ngram from contaminated_sequences"
        ).fetchall()
    ids = sorted(listed["document_id"].to_list())
    # The one document of a sequence has its id and 1,000,000.
    assert found == [("bpe", id_ - 1_000_000, id_, "one two three") for id_ in ids]


def test_a_reader_reads_on_while_a_newer_catalog_takes_its_place(tmp_path: Path, shown: list[CatalogTable]):
    target = tmp_path / "warehouse.duckdb"
    write_catalog(target, shown, warehouse=tmp_path)
    with duckdb.connect(str(target), read_only=True) as reader:
        only_half = [
            CatalogTable(
                name="selection_cutoff",
                description="One row a selection.",
                columns={},
                files={("half",): table.files[("half",)], ("empty",): []},
                name_columns=("selection",),
            )
            for table in shown
            if table.name == "selection_cutoff"
        ]
        write_catalog(target, only_half, warehouse=tmp_path)
        assert reader.execute("select count(*) from selection_cutoff").fetchall() == [(2,)]
    with duckdb.connect(str(target), read_only=True) as reader:
        assert reader.execute("select selection from selection_cutoff").fetchall() == [("half",)]
        assert [row[0] for row in reader.execute("show tables").fetchall()] == ["selection_cutoff"]
    assert list(tmp_path.glob("*duckdb*")) == [target]


def test_a_failed_catalog_leaves_the_old_one(tmp_path: Path, shown: list[CatalogTable]):
    target = tmp_path / "warehouse.duckdb"
    write_catalog(target, shown, warehouse=tmp_path)
    before = target.read_bytes()
    gone = CatalogTable(name="x", description="", columns={}, files={(): [tmp_path / "gone.parquet"]})
    with pytest.raises(duckdb.IOException, match=r"gone\.parquet"):
        write_catalog(target, [gone], warehouse=tmp_path)
    assert target.read_bytes() == before
    assert list(tmp_path.glob("*duckdb*")) == [target]


def test_pieces_are_told_apart_by_their_seed_and_absent_columns_have_no_comment(tmp_path: Path):
    files = {}
    for student, seed, loss in (("small", 10, 3.0), ("small", 9, 3.5), ("large", 9, 2.0)):
        path = tmp_path / f"{student}{seed}.parquet"
        pl.DataFrame({"loss": [loss]}).write_parquet(path)
        files[student, seed] = [path]
    table = CatalogTable(
        name="losses",
        description="One row a student and seed.",
        columns={"loss": "in nats", "gone": "a column that only other files have"},
        files=files,
        name_columns=("student", "seed"),
        is_copied=True,
    )
    write_catalog(tmp_path / "warehouse.duckdb", [table], warehouse=tmp_path)
    with duckdb.connect(str(tmp_path / "warehouse.duckdb"), read_only=True) as reader:
        rows = reader.execute("select student, seed, loss from losses order by all").fetchall()
        assert rows == [("large", 9, 2.0), ("small", 9, 3.5), ("small", 10, 3.0)]
        comments = dict(
            reader.execute("select column_name, comment from duckdb_columns() where not internal").fetchall()
        )
        assert comments == {
            "student": "Which student of the experiment file.",
            "seed": "Which seed of the experiment file.",
            "loss": "in nats",
        }


def test_a_column_texts_that_holds_a_single_word_is_left_as_it_is(tmp_path: Path):
    lists, words = tmp_path / "lists.parquet", tmp_path / "words.parquet"
    pl.DataFrame({"texts": [["one", "two"]]}).write_parquet(lists)
    pl.DataFrame({"texts": ["candidates"]}).write_parquet(words)
    tables = [
        CatalogTable(name=path.stem, description="", columns={"texts": "of it"}, files={(): [path]})
        for path in (lists, words)
    ]
    write_catalog(tmp_path / "warehouse.duckdb", tables, warehouse=tmp_path)
    with duckdb.connect(str(tmp_path / "warehouse.duckdb"), read_only=True) as reader:
        assert reader.execute("select text from lists").fetchall() == [("one\n\ntwo",)]
        assert reader.execute("select * from words").fetchall() == [("candidates",)]
