"""The write stage: from the stored differences and the cutoff to the refined corpus, with its tokens and texts.

    python benchmarks/write_refined_corpus.py --num-sequences 200_000

Ours is the project's own SQL, run as the asset runs it: marks, tokens, texts and scores joined by key, every test,
compressed Parquet. The published way goes through the kept positions in a Python loop, reads each sequence's
tokens from a memory map, and appends them to a new binary file and its line to a new file of texts: no key, no test, no
compression; re-written here plainly, as the yardstick. The two run in turn, a fresh process each time, and the medians
are compared. MB are those of the kept tokens (int32) and texts, before any compression.
"""

import argparse
import json
import shutil
import statistics
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from select_sequences import KEEP_FRACTION, SQL_FOLDER, measure

from miniplm_assets.core.identity import row_ids
from miniplm_assets.core.recipe import fingerprint_of
from miniplm_assets.corpus.tables import DOCUMENTS, SEQUENCES, SPAN, RowGroupWriter
from miniplm_assets.storage.sql_project import load_sql_project
from miniplm_assets.storage.sql_run import run_model

NUM_TOKENS = 1024
BYTES_PER_TOKEN = 4  # as in English text
ROWS_AT_ONCE = 1024


def generate(folder: Path, *, num_sequences: int, num_shards: int) -> None:
    """Write what the steps before write, all of it candidates, and the same tokens and texts for the published way.

    The text is Python's own sources, so that it compresses as text does. Four bytes of it are a token.
    """
    generator = np.random.default_rng(0)
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    text = b"".join(source.read_bytes() for source in sources).decode("ascii", errors="ignore")
    text = text[: len(text) // BYTES_PER_TOKEN * BYTES_PER_TOKEN]
    tokens = np.unique(np.frombuffer(text.encode(), np.uint32), return_inverse=True)[1].astype(np.int32)
    for table in ("sequences", "documents", "teacher_scores", "reference_scores"):
        (folder / table).mkdir()
    offsets = [np.zeros(1, np.int64)]
    with (folder / "tokens.bin").open("wb") as bare_tokens, (folder / "texts.jsonl").open("w") as bare_texts:
        for number, rows in enumerate(np.array_split(np.arange(num_sequences), num_shards)):
            shard, name = f"shard-{number:04d}.jsonl", f"{number:04d}.parquet"
            ids = row_ids(fingerprint_of(shard), num_rows=len(rows), shard=shard)
            lengths = generator.integers(NUM_TOKENS * 7 // 8, NUM_TOKENS + 1, len(rows), dtype=np.int32)
            starts = generator.integers(0, len(tokens) - NUM_TOKENS, len(rows))
            offsets.append(offsets[-1][-1] + np.cumsum(lengths, dtype=np.int64))
            with (
                RowGroupWriter(folder / "sequences" / name, SEQUENCES) as sequences,
                RowGroupWriter(folder / "documents" / name, DOCUMENTS) as documents,
            ):
                for first in range(0, len(rows), ROWS_AT_ONCE):
                    part = slice(first, first + ROWS_AT_ONCE)
                    spans = list(zip(starts[part], starts[part] + lengths[part], strict=True))
                    part_tokens = [tokens[start:end] for start, end in spans]
                    part_texts = [text[start * BYTES_PER_TOKEN : end * BYTES_PER_TOKEN] for start, end in spans]
                    _write_part(sequences, documents, shard, ids[part], part_tokens, part_texts)
                    bare_tokens.write(np.concatenate(part_tokens).tobytes())
                    bare_texts.writelines(json.dumps({"text": one}) + "\n" for one in part_texts)
            for model in ("teacher", "reference"):
                logprobs = -generator.gamma(9.0, 0.3, len(rows)) * lengths
                scores = {"sequence_id": ids, "logprob_nats": logprobs, "num_scored_tokens": lengths - 1}
                pq.write_table(pa.table(scores), folder / f"{model}_scores" / name, compression="zstd")
    np.save(folder / "offsets.npy", np.concatenate(offsets))


def _write_part(
    sequences: RowGroupWriter,
    documents: RowGroupWriter,
    shard: str,
    ids: NDArray[np.int64],
    tokens: list[NDArray[np.int32]],
    texts: list[str],
) -> None:
    """Write sequences of one document each, which has the sequence's id."""
    num_bytes = [len(text) for text in texts]
    same = {"shard": [shard] * len(ids), "domain": ["code"] * len(ids), "split": ["candidate"] * len(ids)}
    documents.write({"document_id": ids, **same, "line": ids - ids[0], "text": texts, "num_bytes": num_bytes})
    spans = [[{"document_id": id_, "char_start": 0, "char_end": end}] for id_, end in zip(ids, num_bytes, strict=True)]
    sequences.write(
        {
            "sequence_id": ids,
            **same,
            "num_tokens": [len(one) for one in tokens],
            "num_bytes": num_bytes,
            "token_ids": tokens,
            "spans": pa.array(spans, pa.list_(SPAN)),
            "texts": [[text] for text in texts],
        }
    )


def select(data: Path) -> None:
    """Store the differences and the cutoff, and the kept positions in the corpus as the published way has them."""
    sql = load_sql_project(SQL_FOLDER)
    parameters = {"rank_by": "nats_per_token", "keep_fraction": KEEP_FRACTION, "token_budget": None}
    for name in ("difference_scores", "selection_cutoff"):
        (data / name).mkdir()
        run_model(sql, name, inputs=_inputs(data), parameters=parameters, target=data / name)
    [cutoff] = pq.read_table(data / "selection_cutoff").to_pylist()
    differences = pq.read_table(data / "difference_scores", columns=["sequence_id", "rank_difference"])
    rank = dict(zip(*(column.to_pylist() for column in differences.columns), strict=True))
    ids = pa.concat_tables(pq.read_table(path, columns=["sequence_id"]) for path in _inputs(data)["sequences"])
    best_first = (cutoff["cutoff_difference"], -cutoff["cutoff_sequence_id"])
    np.save(data / "kept.npy", [at for at, id_ in enumerate(ids[0].to_pylist()) if (rank[id_], -id_) >= best_first])


def write_with_sql(data: Path, target: Path) -> dict[str, Any]:
    """Run the model."""
    target.mkdir()
    started = time.monotonic()
    checks = run_model(
        load_sql_project(SQL_FOLDER), "refined_corpus", inputs=_inputs(data), parameters={}, target=target
    )
    seconds = time.monotonic() - started
    assert all(check.passed for check in checks), checks
    return {"seconds": seconds}


def write_as_published(data: Path, target: Path) -> dict[str, Any]:
    """Read, append, for each kept position."""
    target.mkdir()
    started = time.monotonic()
    offsets, kept = np.load(data / "offsets.npy"), np.load(data / "kept.npy")
    tokens = np.memmap(data / "tokens.bin", np.int32, "r")
    lengths: list[int] = []
    with (
        (data / "texts.jsonl").open("rb") as all_texts,
        (target / "tokens.bin").open("wb") as kept_tokens,
        (target / "texts.jsonl").open("wb") as kept_texts,
    ):
        lines = enumerate(all_texts)
        for position in kept:
            sequence = np.array(tokens[offsets[position] : offsets[position + 1]])
            kept_tokens.write(sequence.tobytes(order="C"))
            lengths.append(len(sequence))
            kept_texts.write(next(line for at, line in lines if at == position))
    np.save(target / "lengths.npy", lengths)
    return {"seconds": time.monotonic() - started}


def compare(ours: Path, published: Path) -> tuple[int, int]:
    """Compare every token and every text of the two outcomes; return the number of sequences, and of bytes."""
    num_sequences = num_tokens = num_text_bytes = 0
    bare_tokens = np.memmap(published / "tokens.bin", np.int32, "r")
    with (published / "texts.jsonl").open() as bare_texts:
        for path in sorted(ours.glob("*.parquet")):
            for batch in pq.ParquetFile(path).iter_batches(ROWS_AT_ONCE, columns=["token_ids", "texts"]):
                tokens = batch["token_ids"].flatten().to_numpy()
                assert np.array_equal(tokens, bare_tokens[num_tokens : num_tokens + len(tokens)])
                texts = batch["texts"].flatten().to_pylist()
                assert texts == [json.loads(next(bare_texts))["text"] for _ in texts]
                num_sequences += len(batch)
                num_tokens += len(tokens)
                num_text_bytes += sum(map(len, texts))
        assert next(bare_texts, None) is None
    assert num_tokens == len(bare_tokens)
    return num_sequences, bare_tokens.nbytes + num_text_bytes


def _inputs(data: Path) -> dict[str, list[Path]]:
    return {path.name: sorted(path.glob("*.parquet")) for path in data.iterdir() if path.is_dir()}


def main() -> None:
    """Generate, measure in turn, compare, clean up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-sequences", type=int, default=50_000)
    parser.add_argument("--num-shards", type=int, default=4)
    parser.add_argument("--num-rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="for the generated data; default: a temporary one")
    options = parser.parse_args()
    ways = {"this project's SQL": write_with_sql, "the published way": write_as_published}
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        data = folder / "data"
        data.mkdir()
        generate(data, num_sequences=options.num_sequences, num_shards=options.num_shards)
        select(data)
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
        for _ in range(options.num_rounds):
            for name, write in ways.items():
                shutil.rmtree(folder / name, ignore_errors=True)
                rounds[name].append(measure(write, data, folder / name))
        num_sequences, num_bytes = compare(*(folder / name for name in ways))
        print(f"{num_sequences:,} kept sequences, {num_bytes / 1e6:,.0f} MB of tokens and texts, the same both ways")
        for name, outcomes in rounds.items():
            seconds = [outcome["seconds"] for outcome in outcomes]
            median = statistics.median(seconds)
            speed = f"{num_bytes / 1e6 / median:,.0f} MB/s, {num_sequences / median:,.0f} sequences/s"
            cpu_seconds = statistics.median(outcome["cpu_seconds"] for outcome in outcomes)
            peak_gib = max(outcome["peak_gib"] for outcome in outcomes)
            stored = sum(path.stat().st_size for path in (folder / name).iterdir())
            print(
                f"{name}: {median:.2f} s ({min(seconds):.2f} to {max(seconds):.2f}), {speed}; "
                f"{cpu_seconds:.2f} s of CPU time, peak memory {peak_gib:.2f} GiB, {stored / 1e6:,.0f} MB stored"
            )


if __name__ == "__main__":
    main()
