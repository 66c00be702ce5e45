"""What grows with the number of domains, or of corpus files, grows no faster than they do.

Counted in steps of the interpreter, which are the same on every machine: four times as many domains, or files, may take
at most 4.8 times as many. (benchmarks/scale.py measures the time.)
"""

import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from miniplm_assets.assets.pages import behind_a_button, json_entry, markdown_table, shown
from miniplm_assets.core.facts import sum_facts
from miniplm_assets.core.recipe import Recipe
from miniplm_assets.corpus.sequences import write_sequences
from miniplm_assets.corpus.tables import DOCUMENTS
from miniplm_assets.corpus.tokenizer import train_tokenizer
from miniplm_assets.experiment.schema import Sequences
from miniplm_assets.kinds.scores import rows_of
from miniplm_assets.lineage.page import Rows
from miniplm_assets.lineage.plan import reasons_of
from miniplm_assets.storage.manifest import Manifest
from miniplm_assets.storage.shard_ranges import IdIndex, ShardRange

WORDS = ("river", "reads.", "island", "token", "keeps!", "winter")


def count_steps(work: Callable[[], object]) -> int:
    steps = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal steps
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        steps += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return steps


def require_linear(work_of: Callable[[int], Callable[[], object]], *, size: int) -> None:
    few, many = (count_steps(work_of(number)) for number in (size, 4 * size))
    assert many <= 4.8 * few, f"{few:,} steps for {size}, {many:,} for {4 * size}"


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(iter([" ".join(WORDS) * 20]), vocab_size=270, folder=folder)
    return folder


def test_a_domain_for_each_document(tokenizer_folder: Path, tmp_path: Path) -> None:
    generator = random.Random(0)
    for number in (60, 240):
        rows = [
            {
                "document_id": place,
                "shard": "s.jsonl",
                "line": place + 1,
                "domain": f"https://example.org/page?id={place}",
                "split": "candidate",
                "text": " ".join(generator.choices(WORDS, k=12)),
                "num_bytes": 60,
            }
            for place in range(number)
        ]
        pq.write_table(pa.Table.from_pylist(rows, schema=DOCUMENTS), tmp_path / f"documents-{number}.parquet")

    def packing(number: int) -> Callable[[], object]:
        folder = tmp_path / f"sequences-{number}"
        folder.mkdir()
        return lambda: write_sequences(
            tmp_path / f"documents-{number}.parquet",
            shard="s.jsonl",
            tokenizer_folder=tokenizer_folder,
            sequences=Sequences(sequence_length=16),
            shard_fingerprint="ab" * 16,
            folder=folder,
            report=lambda _: None,
        )

    require_linear(packing, size=60)
    written = pl.read_parquet(tmp_path / "sequences-240" / "sequences.parquet", glob=False)
    assert written["domain"].n_unique() == 240
    texts = written.group_by("domain").agg(pl.col("texts").list.explode().str.join("")).sort("domain")
    read = pl.read_parquet(tmp_path / "documents-240.parquet", glob=False).sort("domain")
    assert texts["texts"].to_list() == read["text"].to_list()


def test_facts_of_files_that_each_have_domains_of_their_own() -> None:
    def facts(number: int) -> list[dict[str, Any]]:
        return [{"num_tokens": 1, "by_domain": {f"d{place}": {"num_tokens": place}}} for place in range(number)]

    require_linear(lambda number: lambda: sum_facts(facts(number)), size=50)
    assert sum_facts(facts(3)) == {
        "num_tokens": 3,
        "by_domain": {"d0": {"num_tokens": 0}, "d1": {"num_tokens": 1}, "d2": {"num_tokens": 2}},
    }


def test_sums_leave_the_facts_of_the_files_alone() -> None:
    first = {"by_domain": {"a": {"num_tokens": 1}}}
    assert sum_facts([first, first, first])["by_domain"]["a"]["num_tokens"] == 3
    assert first == {"by_domain": {"a": {"num_tokens": 1}}}


def test_why_files_are_missing() -> None:
    def recipe(version: str, place: int) -> Recipe:
        return Recipe(kind="documents", code_version=version, shard=f"{place}.jsonl")

    def manifest(place: int) -> Manifest:
        made = recipe("1", place)
        return Manifest(
            key="documents", kind="documents", fingerprint=made.fingerprint, ingredients=made.ingredients,
            files=(), facts={}, seconds=1, created_at="", versions={},
        )  # fmt: skip

    def reasons(number: int) -> Callable[[], list[str]]:
        absent, earlier = ([one(place) for place in range(number)] for one in (lambda n: recipe("2", n), manifest))
        return lambda: list(reasons_of([*absent, recipe("2", number)], earlier))

    require_linear(reasons, size=40)
    assert reasons(2)() == ["code_version: '1' -> '2' (2 results)", "new file 2.jsonl"]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A file for each thousand of ids, of which it holds the first three; in no order."""
    folder = tmp_path_factory.mktemp("tables")
    paths = [folder / f"{place}.parquet" for place in range(160)]
    for place, path in enumerate(paths):
        pq.write_table(pa.table({"sequence_id": np.arange(3, dtype=np.int64) + 1_000 * place}), path)
    return random.Random(0).sample(paths, len(paths))


def test_the_files_of_a_range_of_ids(tables: list[Path]) -> None:
    def lookups(number: int) -> Callable[[], object]:
        index = IdIndex({"scores": [path for path in tables if int(path.stem) < number]}, ["scores"])
        return lambda: [index.files("scores", ShardRange("s", 1_000 * n, 1_000 * n + 999)) for n in range(number)]

    require_linear(lookups, size=40)


def test_files_overlap_a_range_whatever_their_order(tables: list[Path], tmp_path: Path) -> None:
    wide, empty = tmp_path / "wide.parquet", tmp_path / "empty.parquet"
    pq.write_table(pa.table({"sequence_id": [2_500, 90_000]}), wide)
    pq.write_table(pa.table({"sequence_id": pa.array([], pa.int64())}), empty)
    index = IdIndex({"scores": [*tables, wide, empty]}, ["scores"])

    def found(first_id: int, last_id: int) -> set[str]:
        return {path.stem for path in index.files("scores", ShardRange("s", first_id, last_id))}

    assert found(1_000, 1_999) == {"1"}
    assert found(1_002, 2_000) == {"1", "2"}
    assert found(1_003, 1_999) == set()
    assert found(50_000, 50_999) == {"50", "wide"}
    assert found(2_003, 2_500) == {"wide"}
    assert found(159_000, 10**9) == {"159"}


def test_rows_of_chosen_ids_are_found_file_by_file() -> None:
    chosen = pl.Series([7, 3, 11, 4, 100], dtype=pl.Int64)
    choose = rows_of(chosen)
    kept = [choose(pl.DataFrame({"sequence_id": ids}))["sequence_id"].to_list() for ids in ([0, 3, 4, 5], [6, 7], [8])]
    assert kept == [[3, 4], [7], []]
    assert choose(pl.DataFrame(schema={"sequence_id": pl.Int64})).is_empty()


def test_a_page_shows_no_more_than_can_be_read() -> None:
    rows = [[f"d{place}", place] for place in range(1_000)]
    table = markdown_table(["domain", "tokens"], rows).splitlines()
    assert table[2] == "| d0 | 0 |"
    assert table[201] == "| d199 | 199 |"
    assert table[202:] == ["", "800 more rows are in manifest.json in the folder."]
    assert markdown_table(["domain", "tokens"], rows[:200]).splitlines()[-1] == "| d199 | 199 |"
    few, whole = shown("domains", Rows(("domain", "tokens"), rows)).items()
    assert few[0] == "domains: first 12 of 1,000" and len(few[1].records) == 12
    assert whole[0] == "domains" and "| d199 | 199 |" in whole[1].md_str

    assert markdown_table(["why"], [["new file; " * 20_000]]).splitlines()[2] == "| " + 50 * "new file; " + " … |"
    odd = [[name] for name in ("a|b", "no_kd", "__init__", "<b>", "`x` *y* $z$ [u](v)", "a\nb")]
    assert markdown_table(["domain"], odd).splitlines()[2:] == [
        r"| a\|b |",
        "| no_kd |",
        r"| \_\_init\_\_ |",
        r"| \<b\> |",
        r"| \`x\` \*y\* \$z\$ \[u\](v) |",
        "| a b |",
    ]

    by_domain = {f"d{place}": {"num_tokens": place} for place in range(20_000)}
    assert "20,000 entries" in behind_a_button(by_domain).text
    assert json_entry({"a": 1}).data == {"a": 1}
