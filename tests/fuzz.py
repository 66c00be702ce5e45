"""Damaged inputs by the thousand, through every door: nothing may come of them but our own errors, in bounded memory.

    python -m tests.fuzz DOOR [SECONDS]

Each input is a good one with some damage; hypothesis chooses the damage, and shrinks what goes wrong to its least form.
"""

import gzip
import io
import json
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
import zstandard
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from miniplm_assets.core.errors import MiniplmError
from miniplm_assets.core.recipe import Recipe
from miniplm_assets.corpus.contamination import Protected, protect_texts, texts_of_file
from miniplm_assets.corpus.documents import write_documents
from miniplm_assets.corpus.duplicates import KeptDocuments
from miniplm_assets.corpus.shards import FileSource, observe_corpus
from miniplm_assets.corpus.tokenizer import load_tokenizer, train_tokenizer
from miniplm_assets.evaluation.task_files import check_tasks
from miniplm_assets.experiment import Cleaning, DocumentFields, JsonlSource, ParquetSource, Scoring, load_experiment
from miniplm_assets.experiment.cleaning import NearDuplicates
from miniplm_assets.kinds.registry import DEMO, PROJECT, all_kinds
from miniplm_assets.lineage.graph import build_graph
from miniplm_assets.storage.sql_project import load_sql_project
from miniplm_assets.storage.store import Result, Store

SECONDS_FOR_ONE = 10.0
MAX_BYTES = 1 << 30
# The header of a Parquet page names its size in 31 bits, and Arrow makes room for that before it reads the page.
MAX_PARQUET_BYTES = 3 << 30
EXAMPLES_AT_ONCE = 200
# What parsers stumble over: borders of numbers and texts, structure where a value was, structure without an end.
TOKENS = (
    *(b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\n", b"{", b"[", b'"', b"]" * 9, b"[" * 2_000, b"{}"),
    *(b"null", b"-1", b"0", b"1e999", b".nan", b"9" * 30, b"true", b"&a ", b"*a", b"<<: ", b"!!binary ", b"../"),
    *(b"$", b"~", b"%00"),
)  # fmt: skip


@dataclass(frozen=True)
class Door:
    """Where an input comes in.

    Attributes:
        name: of the file that is damaged.
        good: contents of it that are right.
        enter: lets a folder that holds the file in; may raise our own errors.
        prepare: puts what is needed beside the file into the folder.
        max_bytes: how much more memory one input may take.
    """

    name: str
    good: Sequence[bytes]
    enter: Callable[[Path], None]
    prepare: Callable[[Path], None] = lambda _folder: None
    max_bytes: int = MAX_BYTES


def damages(good: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Return a strategy for damaged contents."""
    token = st.one_of(st.sampled_from(TOKENS), st.binary(max_size=8))
    place = st.floats(0, 1)
    edit = st.tuples(st.sampled_from(["flip", "insert", "replace", "cut", "repeat", "drop"]), place, place, token)
    return st.builds(damaged, st.sampled_from(good), st.lists(edit, min_size=1, max_size=6))


def damaged(content: bytes, edits: list[tuple[str, float, float, bytes]]) -> bytes:
    """Return the content with some edits, one after the other."""
    for kind, first, second, token in edits:
        start, end = sorted(round(place * len(content)) for place in (first, second))
        match kind:
            case "flip" if start < len(content):
                changed = bytearray(content)
                changed[start] ^= 1 << (end % 8)
                content = bytes(changed)
            case "insert":
                content = content[:start] + token + content[start:]
            case "replace":
                content = content[:start] + token + content[start + len(token) :]
            case "cut":
                content = content[:end]
            case "repeat":
                content = content[:end] + content[start:end][:4_096] + content[end:]
            case "drop":
                content = content[:start] + content[min(end, start + 64) :]
    return content


def fuzz(door: Door, *, seconds: float, first_seed: int | None = None) -> int:
    """Send damaged inputs through a door for some time; return how many.

    Args:
        door: which.
        seconds: how long.
        first_seed: of hypothesis, for the same inputs again; None for others each time.

    Raises:
        Exception: what came of an input beside our own errors, or AssertionError for too much memory or time.
    """
    number = 0
    before = peak_bytes()
    deadline = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        door.prepare(root)

        @settings(
            max_examples=EXAMPLES_AT_ONCE,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(damages(door.good))
        def one(content: bytes) -> None:
            nonlocal number
            number += 1
            if time.monotonic() > deadline:
                return
            (root / door.name).write_bytes(content)
            try:
                with within(SECONDS_FOR_ONE):
                    door.enter(root)
            except MiniplmError as error:
                assert str(error).strip(), "an error without a word"
            assert peak_bytes() - before < door.max_bytes, f"{(peak_bytes() - before) / 1e6:,.0f} MB for one input"

        while time.monotonic() < deadline:
            (one if first_seed is None else seed(first_seed + number)(one))()
    return number


def peak_bytes() -> int:
    """Return the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Interrupt what computes for longer; waiting for a busy machine does not count."""

    def interrupt(*_: object) -> None:
        raise AssertionError(f"no end after {seconds} s")

    before = signal.signal(signal.SIGPROF, interrupt)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@cache
def _kinds() -> tuple[Any, Any]:
    sql = load_sql_project(PROJECT / "dbt_like_sql")
    return all_kinds(sql), sql


def _enter_experiment(folder: Path) -> None:
    kinds, sql = _kinds()
    build_graph(kinds, load_experiment(folder / "experiment.yaml"), sql)


def _enter_shard(source: type[JsonlSource] | type[ParquetSource], name: str) -> Callable[[Path], None]:
    def enter(folder: Path) -> None:
        kind = "jsonl" if source is JsonlSource else "parquet"
        files: FileSource = source(type=kind, path=str(folder / name))  # type: ignore[arg-type]  # goes with the class
        (shard,) = observe_corpus(files, known={}, now_ns=0).shards
        target = folder / "out"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        write_documents(
            shard,
            source=files,  # type: ignore[arg-type]
            fields=DocumentFields(domain_field="meta.source", max_document_bytes=100_000),
            shares={"validation": 0.1, "reference": 0.1, "teacher": 0.1},
            seed=1,
            shard_fingerprint="0" * 32,
            folder=target,
            report=lambda _line: None,
            cleaning=Cleaning(languages=("*",), duplicates="near"),
            kept=KeptDocuments(NearDuplicates()),
        )

    return enter


def _rows() -> list[dict[str, Any]]:
    return [{"text": f"text {i} \u00e9 \U0001f600", "meta": {"source": "web", "n": [i, None]}} for i in range(40)]


def _jsonl() -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in _rows())


def _parquets() -> Iterator[bytes]:
    table = pa.Table.from_pylist(_rows())
    for options in (
        {},
        {"compression": "zstd", "write_page_checksum": True},
        {"compression": "none", "version": "1.0"},
    ):
        target = io.BytesIO()
        pq.write_table(table, target, **options)
        yield target.getvalue()


def _enter_benchmark(folder: Path) -> None:
    protect_texts(Protected(3), texts_of_file(folder / "a.jsonl"), num_words=3, found_in="a.jsonl")


def _enter_tokenizer(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    tokenizer.encode(["some text of ours \u00e9\U0001f600 123\n", "x"])


def _tokenizer() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        train_tokenizer(iter(["some text to learn from, some more of it"] * 20), vocab_size=265, folder=Path(folder))
        return (Path(folder) / "tokenizer.json").read_bytes()


def _tokenizer_config(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))


def _model(folder: Path) -> None:
    from miniplm_assets.lm.architectures import build_model

    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = build_model(
        {"model_type": "qwen2", "num_key_value_heads": 1, "tie_word_embeddings": True, **shape},
        vocab_size=16,
        end_of_document_id=0,
        max_sequence_tokens=8,
        seed=1,
    )
    model.save_pretrained(folder)


def _model_file(name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        _model(Path(folder))
        return (Path(folder) / name).read_bytes()


def _enter_model(folder: Path) -> None:
    from miniplm_assets.lm.model_folder import check_model, load_model
    from miniplm_assets.lm.scorer import check_model_length

    check_model(folder, named="the model", backend="torch")
    check_model_length(folder, 8, "the model")
    load_model(folder, Scoring(device="cpu"), lambda _line: None)


RECIPE = Recipe(kind="lengths", code_version="1", settings={"a": 1}, inputs={"b": "c"})


def _stored(folder: Path) -> Result:
    def write(draft: Any) -> None:
        pq.write_table(pa.table({"a": [1, 2, 3]}), draft.path / "a.parquet")
        draft.facts = {"num_rows": 3, "nested": {"share": 0.5}}

    return Store(folder).make(RECIPE, write)


def _manifest() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return (_stored(Path(folder)).folder / "manifest.json").read_bytes()


def _prepare_manifest(folder: Path) -> None:
    _stored(folder)


def _enter_manifest(folder: Path) -> None:
    store = Store(folder)
    result = store.find(RECIPE)
    if result is not None:
        assert result.facts["num_rows"] == 3, "a damaged manifest was believed"
        list(result.problems())
    problems: list[str] = []
    list(store.results(on_problem=problems.append))


def doors() -> dict[str, Callable[[], Door]]:
    """Return all doors by name, each made when it is needed."""
    return {
        "experiment": lambda: Door(
            "experiment.yaml",
            [DEMO.read_bytes(), (PROJECT / "experiments" / "paper.yaml").read_bytes(), _plain_experiment()],
            _enter_experiment,
        ),
        "jsonl": lambda: Door("a.jsonl", [_jsonl()], _enter_shard(JsonlSource, "a.jsonl")),
        "gzip": lambda: Door("a.jsonl.gz", [gzip.compress(_jsonl())], _enter_shard(JsonlSource, "a.jsonl.gz")),
        "zstandard": lambda: Door(
            "a.jsonl.zst", [zstandard.compress(_jsonl())], _enter_shard(JsonlSource, "a.jsonl.zst")
        ),
        "benchmark": lambda: Door("a.jsonl", [_jsonl()], _enter_benchmark),
        "parquet": lambda: Door(
            "a.parquet",
            list(_parquets()),
            _enter_shard(ParquetSource, "a.parquet"),
            max_bytes=MAX_PARQUET_BYTES,
        ),
        "tokenizer": lambda: Door("tokenizer.json", [_tokenizer()], _enter_tokenizer, _tokenizer_config),
        "safetensors": lambda: Door("model.safetensors", [_model_file("model.safetensors")], _enter_model, _model),
        "model_config": lambda: Door("config.json", [_model_file("config.json")], _enter_model, _model),
        "task": lambda: Door(
            "task.yaml", [_task()], lambda folder: check_tasks(["mine"], folder, with_data=True), _data
        ),
        "manifest": lambda: Door(
            f"lengths/{RECIPE.fingerprint}/manifest.json",
            [_manifest()],
            _enter_manifest,
            lambda root: [_stored(root)][1:],
        ),
    }


def _task() -> bytes:
    """Return a task file: each damage of it is one of YAML, or of what stands in it."""
    definition = {
        "task": "mine",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": ["mine.jsonl"]}},
        "metadata": {"version": 1.0, "data_from": "Ask for it."},
        "metric_list": [{"metric": "acc", "aggregation": "mean"}],
    }
    return (yaml.safe_dump(definition) + "doc_to_text: !function tools.text\n").encode()


def _data(folder: Path) -> None:
    (folder / "mine.jsonl").write_text("{}\n", encoding="utf-8")


def _plain_experiment() -> bytes:
    """Return the demo without its anchors: each damage is of one place."""
    return yaml.safe_dump(yaml.safe_load(DEMO.read_bytes()), sort_keys=False).encode()


if __name__ == "__main__":
    name, *duration = sys.argv[1:]
    print(f"{name}: {fuzz(doors()[name](), seconds=float((duration or ['600'])[0])):,} inputs")
