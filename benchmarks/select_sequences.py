"""Selection at scale: the differences, the exact cutoff and the marks of every candidate.

    python benchmarks/select_sequences.py --num-sequences 100_000_000 --data <folder to keep the generated scores in>

Ours is the project's own SQL, run as the assets run it: scores paired by key, every test of the two models, Parquet
to Parquet. The published way loads two bare arrays, subtracts by position and sorts: no key, no test, no tie rule,
float32; re-written here plainly, as the yardstick. Both run in turn, round after round, in processes of their own, and
the medians are reported: seconds, CPU seconds, which other work on the machine does not stretch, and peak memory. The
generated scores are full of ties, and every outcome is compared with NumPy's.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from miniplm_assets.core.identity import row_ids
from miniplm_assets.core.recipe import fingerprint_of
from miniplm_assets.storage.sql_project import load_sql_project
from miniplm_assets.storage.sql_run import run_model

SQL_FOLDER = Path(__file__).parents[1] / "dbt_like_sql"
DOMAINS = ("code", "papers", "web")
KEEP_FRACTION = 0.5


def generate(folder: Path, *, num_sequences: int, num_shards: int) -> None:
    """Write sequences and scores, a Parquet file a shard, and the same scores as bare arrays."""
    generator = np.random.default_rng(0)
    bare: dict[str, list[Any]] = {"teacher": [], "reference": []}
    for number, rows in enumerate(np.array_split(np.arange(num_sequences), num_shards)):
        shard, n = f"shard-{number:04d}.jsonl", len(rows)
        ids = row_ids(fingerprint_of(shard), num_rows=n, shard=shard)
        num_tokens = generator.integers(16, 1026, n, dtype=np.int32)
        empty = pa.array(np.zeros(n + 1, np.int32))
        lists = {
            "token_ids": pa.ListArray.from_arrays(empty, pa.array([], pa.int32())),
            "spans": pa.ListArray.from_arrays(empty, pa.array([], pa.struct([("document_id", pa.int64())]))),
            "texts": pa.ListArray.from_arrays(empty, pa.array([], pa.string())),
        }
        table = {
            "sequence_id": ids,
            "shard": pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), [shard]).cast(pa.string()),
            "domain": pa.array(np.array(DOMAINS)[generator.integers(0, len(DOMAINS), n)]),
            "split": pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), ["candidate"]).cast(pa.string()),
            "num_tokens": num_tokens,
            "num_bytes": num_tokens.astype(np.int64) * 4,
            **lists,
        }
        _write(folder / "sequences", number, table)
        # A sixteenth of a nat: ties everywhere.
        teacher = -np.round(num_tokens * generator.gamma(9.0, 0.3, n) * 16) / 16
        reference = np.minimum(teacher - np.round(num_tokens * generator.normal(0.6, 0.4, n) * 16) / 16, 0.0)
        order = generator.permutation(n)
        for model, logprobs in (("teacher", teacher), ("reference", reference)):
            scores = {
                "sequence_id": ids[order],
                "logprob_nats": logprobs[order],
                "num_scored_tokens": num_tokens[order] - 1,
            }
            _write(folder / f"{model}_scores", number, scores)
            bare[model].append((logprobs / (num_tokens - 1)).astype(np.float32))
    for model, arrays in bare.items():
        np.save(folder / f"{model}.npy", np.concatenate(arrays))


def select_with_sql(data: Path, folder: Path, memory_limit: str) -> dict[str, Any]:
    """Run the two models and mark every candidate."""
    sql = load_sql_project(SQL_FOLDER)
    inputs = {path.name: sorted(path.glob("*.parquet")) for path in data.iterdir() if path.is_dir()}
    parameters = {"rank_by": "nats_per_token", "keep_fraction": KEEP_FRACTION, "token_budget": None}
    seconds: dict[str, float] = {}
    for name in ("difference_scores", "selection_cutoff"):
        target = folder / name
        target.mkdir()
        started = time.monotonic()
        checks = run_model(sql, name, inputs=inputs, parameters=parameters, target=target, memory_limit=memory_limit)
        seconds[name] = time.monotonic() - started
        assert all(check.passed for check in checks), checks
        inputs[name] = sorted(target.glob("*.parquet"))
    started = time.monotonic()
    with duckdb.connect(config={"memory_limit": memory_limit, "temp_directory": str(folder / "spill")}) as connection:
        connection.execute("set enable_progress_bar = false")
        for name in ("difference_scores", "selection_cutoff"):
            connection.read_parquet([str(path) for path in inputs[name]]).create_view(name)
        connection.execute(
            f"copy (select sequence_id, is_kept from ({sql.model('int_marked_candidates').sql})) to $path "  # noqa: S608
            "(format parquet, compression zstd)",
            {"path": str(folder / "marks.parquet")},
        )
    seconds["marks"] = time.monotonic() - started
    return {"seconds": seconds, "cutoff": pq.read_table(inputs["selection_cutoff"][0]).to_pylist()[0]}


def select_as_published(data: Path, folder: Path) -> dict[str, Any]:
    """Load both arrays, subtract by position, sort, keep the first."""
    started = time.monotonic()
    differences = np.load(data / "teacher.npy") - np.load(data / "reference.npy")
    order = np.argsort(-differences)
    np.save(folder / "kept.npy", order[: int(len(order) * KEEP_FRACTION)])
    return {"seconds": {"all": time.monotonic() - started}}


def check_with_numpy(data: Path, folder: Path, cutoff: dict[str, Any]) -> None:
    """Find the cutoff by sorting everything, in float64, and compare; then count the marks."""
    scores = {}
    for model in ("teacher", "reference"):
        tables = [pq.read_table(path) for path in sorted((data / f"{model}_scores").glob("*.parquet"))]
        ids, logprobs, tokens = (pa.concat_tables(tables).column(place).to_numpy() for place in range(3))
        scores[model] = logprobs
    differences = (scores["teacher"] - scores["reference"]) / tokens
    num_kept = len(ids) // 2
    kth = -np.partition(-differences, num_kept - 1)[num_kept - 1]
    num_ties_kept = num_kept - int((differences > kth).sum())
    last_id = np.sort(ids[differences == kth])[num_ties_kept - 1]
    assert (cutoff["num_kept"], cutoff["cutoff_difference"], cutoff["cutoff_sequence_id"]) == (num_kept, kth, last_id)
    marks = pq.read_table(folder / "marks.parquet", columns=["is_kept"]).column(0)
    assert marks.to_numpy(zero_copy_only=False).sum() == num_kept
    print(f"  same cutoff as NumPy: {kth:.6f} nats per token, sequence {last_id}; {num_ties_kept:,} of its ties kept")


def measure(work: Callable[..., dict[str, Any]], *arguments: object) -> dict[str, Any]:
    """Run a function in a fresh process; add its CPU time and peak memory."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_with_peak_memory, (work, *arguments))


def _with_peak_memory(work: Callable[..., dict[str, Any]], *arguments: object) -> dict[str, Any]:
    outcome = work(*arguments)
    # Not ru_maxrss, which a new process takes over from the one that started it.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    [peak_kib] = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
    return {**outcome, "cpu_seconds": time.process_time(), "peak_gib": peak_kib / 2**20}


def select_once(data: Path, folder: Path, memory_limit: str) -> dict[str, Any]:
    """Measure this project's way, into an empty folder, and hold its outcome against NumPy's."""
    with tempfile.TemporaryDirectory(dir=folder) as target:
        outcome = measure(select_with_sql, data, Path(target), memory_limit)
        check_with_numpy(data, Path(target), outcome["cutoff"])
    return outcome


def report(outcomes: dict[str, list[dict[str, Any]]]) -> None:
    """Print the medians, one line for each way."""
    for name, rounds in outcomes.items():
        parts = {part: statistics.median(one["seconds"][part] for one in rounds) for part in rounds[0]["seconds"]}
        total = statistics.median(sum(one["seconds"].values()) for one in rounds)
        cpu_seconds = statistics.median(one["cpu_seconds"] for one in rounds)
        peak_gib = max(one["peak_gib"] for one in rounds)
        print(
            f"{name}: {total:.1f} s ({', '.join(f'{part} {seconds:.1f} s' for part, seconds in parts.items())}), "
            f"{cpu_seconds:.0f} s of CPU time, peak memory {peak_gib:.2f} GiB; median of {len(rounds)}"
        )


def _write(folder: Path, number: int, columns: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), folder / f"{number:04d}.parquet", compression="zstd", row_group_size=100_000)


def main() -> None:
    """Generate, measure, compare, clean up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-sequences", type=int, default=1_000_000)
    parser.add_argument("--num-shards", type=int, default=30, help="the Pile has 30 files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-limit", default="2GB", help="of DuckDB's buffers; the process needs some more")
    parser.add_argument("--data", type=Path, help="keeps the generated scores for the next run; default: they go")
    options = parser.parse_args()
    if options.data:
        options.data.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.data) as temporary:
        folder = Path(temporary)
        data = (options.data or folder) / f"{options.num_sequences}-sequences-{options.num_shards}-shards"
        if not data.exists():
            generated = folder / "generated"
            generated.mkdir()
            generate(generated, num_sequences=options.num_sequences, num_shards=options.num_shards)
            generated.rename(data)
        ways: dict[str, Callable[[], dict[str, Any]]] = {
            "this project's SQL": lambda: select_once(data, folder, options.memory_limit),
            "the published way": lambda: measure(select_as_published, data, folder),
        }
        outcomes: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
        for number in range(options.rounds):
            for name, way in ways.items():
                outcomes[name].append(way())
                print(f"round {number + 1}: {name} {sum(outcomes[name][-1]['seconds'].values()):.1f} s", flush=True)
        report(outcomes)


if __name__ == "__main__":
    main()
