"""Selection at scale: the differences, the exact cutoff and the marks of every candidate.

    python benchmarks/select_sequences.py --num-sequences 100_000_000 --data <folder to keep the generated scores in>
    python benchmarks/select_sequences.py --num-sequences 100_000_000 --shuffled
    python benchmarks/select_sequences.py --num-sequences 1_000_000_000 --num-shards 300 --file-by-file

Scores stand in the order of the sequences, as scoring writes them, or shuffled in each file, as other tools may. Ours
is the project's own SQL, run as the assets run it: scores paired by key, every test of the two models, Parquet
to Parquet. The published way loads two bare arrays, subtracts by position and sorts: no key, no test, no tie rule,
float32; re-written here plainly, as the yardstick. Both run in turn, round after round, in processes of their own, and
the medians are reported: seconds, CPU seconds, which other work on the machine does not stretch, and peak memory. The
generated scores are full of ties, and every outcome is compared with NumPy's.

With --file-by-file each corpus file's scores are generated, paired, and removed before the next one's: for more than
the disk holds. Our way alone, once; the cutoff is proved by counting, in NumPy, what lies above it and beside it.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from miniplm_assets.core.identity import row_ids
from miniplm_assets.core.recipe import fingerprint_of
from miniplm_assets.storage.sql_project import load_sql_project
from miniplm_assets.storage.sql_run import run_model

SQL_FOLDER = Path(__file__).parents[1] / "dbt_like_sql"
DOMAINS = ("code", "papers", "web")
KEEP_FRACTION = 0.5


class Scored(NamedTuple):
    """What the generated scores of a corpus file say: ids, numbers of scored tokens, and nats by model."""

    ids: NDArray[np.int64]
    num_scored_tokens: NDArray[np.int32]
    logprobs_nats: dict[str, NDArray[np.float64]]

    @property
    def differences(self) -> NDArray[np.float64]:
        """Nats per token."""
        nats = self.logprobs_nats["teacher"] - self.logprobs_nats["reference"]
        return nats / self.num_scored_tokens


def generate(folder: Path, *, num_sequences: int, num_shards: int, is_shuffled: bool) -> None:
    """Write sequences and scores, a Parquet file a shard, and the same scores as bare arrays."""
    bare: dict[str, list[Any]] = {"teacher": [], "reference": []}
    for number in range(num_shards):
        scored = generate_shard(
            folder, number, num_rows=_rows_of(number, num_sequences, num_shards), is_shuffled=is_shuffled
        )
        for model, nats in scored.logprobs_nats.items():
            bare[model].append((nats / scored.num_scored_tokens).astype(np.float32))
    for model, arrays in bare.items():
        np.save(folder / f"{model}.npy", np.concatenate(arrays))


def _rows_of(number: int, num_sequences: int, num_shards: int) -> int:
    share, rest = divmod(num_sequences, num_shards)
    return share + (number < rest)


def generate_shard(folder: Path, number: int, *, num_rows: int, is_shuffled: bool) -> Scored:
    """Write the sequences and scores of one corpus file; return what they say."""
    generator, shard = np.random.default_rng(number), f"shard-{number:04d}.jsonl"
    ids = row_ids(fingerprint_of(shard), num_rows=num_rows, shard=shard)
    num_tokens = generator.integers(16, 1026, num_rows, dtype=np.int32)
    empty, zeros = pa.array(np.zeros(num_rows + 1, np.int32)), pa.array(np.zeros(num_rows, np.int32))
    table = {
        "sequence_id": ids,
        "shard": pa.DictionaryArray.from_arrays(zeros, [shard]).cast(pa.string()),
        "domain": pa.array(np.array(DOMAINS)[generator.integers(0, len(DOMAINS), num_rows)]),
        "split": pa.DictionaryArray.from_arrays(zeros, ["candidate"]).cast(pa.string()),
        "num_tokens": num_tokens,
        "num_bytes": num_tokens.astype(np.int64) * 4,
        "token_ids": pa.ListArray.from_arrays(empty, pa.array([], pa.int32())),
        "spans": pa.ListArray.from_arrays(empty, pa.array([], pa.struct([("document_id", pa.int64())]))),
        "texts": pa.ListArray.from_arrays(empty, pa.array([], pa.string())),
    }
    _write(folder / "sequences", number, table)
    # A sixteenth of a nat: ties everywhere.
    teacher = -np.round(num_tokens * generator.gamma(9.0, 0.3, num_rows) * 16) / 16
    reference = np.minimum(teacher - np.round(num_tokens * generator.normal(0.6, 0.4, num_rows) * 16) / 16, 0.0)
    order = generator.permutation(num_rows) if is_shuffled else np.arange(num_rows)
    for model, logprobs in (("teacher", teacher), ("reference", reference)):
        scores = {
            "sequence_id": ids[order],
            "logprob_nats": logprobs[order],
            "num_scored_tokens": num_tokens[order] - 1,
        }
        _write(folder / f"{model}_scores", number, scores)
    return Scored(ids, num_tokens - 1, {"teacher": teacher, "reference": reference})


def run_sql(name: str, inputs: dict[str, list[Path]], folder: Path, memory_limit: str) -> dict[str, Any]:
    """Run a model as its asset does, into an empty folder; return its seconds and its files."""
    started, target = time.monotonic(), folder / name
    target.mkdir()
    checks = run_model(
        load_sql_project(SQL_FOLDER),
        name,
        inputs=inputs,
        parameters={"rank_by": "nats_per_token", "keep_fraction": KEEP_FRACTION, "token_budget": None},
        target=target,
        memory_limit=memory_limit,
    )
    assert all(check.passed for check in checks), checks
    return {"seconds": time.monotonic() - started, "files": sorted(target.glob("*.parquet"))}


def mark(inputs: dict[str, list[Path]], folder: Path, memory_limit: str) -> dict[str, Any]:
    """Mark every candidate as kept or not; return the seconds."""
    started, sql = time.monotonic(), load_sql_project(SQL_FOLDER)
    with duckdb.connect(config={"memory_limit": memory_limit, "temp_directory": str(folder / "spill")}) as connection:
        connection.execute("set enable_progress_bar = false")
        for name in ("difference_scores", "selection_cutoff"):
            connection.read_parquet([str(path) for path in inputs[name]]).create_view(name)
        connection.execute(
            f"copy (select sequence_id, is_kept from ({sql.model('int_marked_candidates').sql})) to $path "  # noqa: S608
            "(format parquet, compression zstd)",
            {"path": str(folder / "marks.parquet")},
        )
    return {"seconds": time.monotonic() - started}


def select_with_sql(data: Path, folder: Path, memory_limit: str) -> dict[str, Any]:
    """Run the two models and mark every candidate."""
    inputs = {path.name: sorted(path.glob("*.parquet")) for path in data.iterdir() if path.is_dir()}
    seconds: dict[str, float] = {}
    for name in ("difference_scores", "selection_cutoff"):
        done = run_sql(name, inputs, folder, memory_limit)
        seconds[name], inputs[name] = done["seconds"], done["files"]
    seconds["marks"] = mark(inputs, folder, memory_limit)["seconds"]
    return {"seconds": seconds, "cutoff": pq.read_table(inputs["selection_cutoff"][0]).to_pylist()[0]}


def select_file_by_file(
    folder: Path, *, num_sequences: int, num_shards: int, is_shuffled: bool, memory_limit: str
) -> dict[str, Any]:
    """Generate the scores of a file, pair them, and remove them, file after file; then find the cutoff and mark."""
    differences, paired, seconds = (
        folder / "differences",
        [],
        dict.fromkeys(("difference_scores", "selection_cutoff"), 0.0),
    )
    differences.mkdir()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for number in range(num_shards):
            with tempfile.TemporaryDirectory(dir=folder) as one_file:
                data, target = Path(one_file) / "data", Path(one_file) / "target"
                data.mkdir()
                target.mkdir()
                num_rows = _rows_of(number, num_sequences, num_shards)
                scored = generate_shard(data, number, num_rows=num_rows, is_shuffled=is_shuffled)
                np.save(folder / f"{number}.npy", scored.differences)
                inputs = {path.name: sorted(path.glob("*.parquet")) for path in data.iterdir()}
                done = pool.apply(run_sql, ("difference_scores", inputs, target, memory_limit))
                seconds["difference_scores"] += done["seconds"]
                [made] = done["files"]
                paired.append(made.rename(differences / made.name))
            if number % 10 == 9:
                print(f"  {number + 1} files, {seconds['difference_scores']:,.0f} s", flush=True)
        inputs = {"difference_scores": paired}
        done = pool.apply(run_sql, ("selection_cutoff", inputs, folder, memory_limit))
        seconds["selection_cutoff"], inputs["selection_cutoff"] = done["seconds"], done["files"]
        seconds["marks"] = pool.apply(mark, (inputs, folder, memory_limit))["seconds"]
        usage = pool.apply(_usage)
    cutoff = pq.read_table(inputs["selection_cutoff"][0]).to_pylist()[0]
    check_by_counting(folder, cutoff, num_sequences=num_sequences, num_shards=num_shards)
    stored = sum(path.stat().st_size for path in paired) / 1e9
    print(f"  {stored:.1f} GB of differences, {(folder / 'marks.parquet').stat().st_size / 1e9:.1f} GB of marks")
    return {"seconds": seconds, "cutoff": cutoff, **usage}


def check_by_counting(folder: Path, cutoff: dict[str, Any], *, num_sequences: int, num_shards: int) -> None:
    """Prove a cutoff: as many lie above it, or beside it with no larger id, as are kept; and as many are marked."""
    num_above, beside = 0, []
    for number in range(num_shards):
        shard, differences = f"shard-{number:04d}.jsonl", np.load(folder / f"{number}.npy")
        num_above += int((differences > cutoff["cutoff_difference"]).sum())
        ids = row_ids(fingerprint_of(shard), num_rows=len(differences), shard=shard)
        beside.append(ids[differences == cutoff["cutoff_difference"]])
    num_ties = int((np.concatenate(beside) <= cutoff["cutoff_sequence_id"]).sum())
    assert num_above + num_ties == cutoff["num_kept"] == num_sequences // 2, (num_above, num_ties, cutoff)
    assert (np.concatenate(beside) == cutoff["cutoff_sequence_id"]).sum() == 1
    marks = duckdb.read_parquet(str(folder / "marks.parquet")).filter("is_kept")
    assert marks.count("*").fetchall()[0][0] == cutoff["num_kept"]
    print(
        f"  proved by counting: {num_above:,} above {cutoff['cutoff_difference']:.6f} nats a token, {num_ties:,} at it"
    )


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
    return {**work(*arguments), **_usage()}


def _usage() -> dict[str, float]:
    # Not ru_maxrss, which a new process takes over from the one that started it.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    [peak_kib] = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
    return {"cpu_seconds": time.process_time(), "peak_gib": peak_kib / 2**20}


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
    parser.add_argument("--shuffled", action="store_true", help="scores in another order than the sequences")
    parser.add_argument("--file-by-file", action="store_true", help="for more rows than the disk holds")
    parser.add_argument("--data", type=Path, help="keeps the generated scores for the next run; default: they go")
    options = parser.parse_args()
    if options.data:
        options.data.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.data) as temporary:
        folder = Path(temporary)
        generated = {
            "num_sequences": options.num_sequences,
            "num_shards": options.num_shards,
            "is_shuffled": options.shuffled,
        }
        if options.file_by_file:
            done = select_file_by_file(folder, **generated, memory_limit=options.memory_limit)
            report({"this project's SQL": [done]})
            return
        order = "shuffled" if options.shuffled else "ordered"
        data = (options.data or folder) / f"{options.num_sequences}-sequences-{options.num_shards}-shards-{order}"
        if not data.exists():
            making = folder / "generated"
            making.mkdir()
            generate(making, **generated)
            making.rename(data)
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
