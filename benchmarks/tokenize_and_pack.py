"""How fast documents become packed sequences, against the published way.

    python benchmarks/tokenize_and_pack.py                          # 60 MB of text, five rounds
    python benchmarks/tokenize_and_pack.py --megabytes 10 --rounds 1

Every way reads the same documents (the demo's texts, as often as it takes) with the same
tokenizer, a byte-level BPE of Qwen's kind that is trained on them first, on all cores, in turn, round after round. The
published way is a plain re-implementation of its method: a pool of processes calls the tokenizer once a document, and
the parent joins the tokens, cuts them at the sequence length, trims to the last sentence end, and writes a binary file.
Ours is the project's own step, with everything that it does: batches, document spans, texts, Parquet; once with the
tokenizers library's batch call, once with gigatoken; the files that they write are compared. Where other work shares
the machine, only CPU seconds mean anything. In the end, ours on several files: by one process, and by as many as there
are cores, a thread each, as a run deals files out; their start is left out.
"""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from miniplm_assets.core.recipe import fingerprint_of
from miniplm_assets.corpus.cores import ALL_NUM_THREADS
from miniplm_assets.corpus.demo import write_demo_corpus
from miniplm_assets.corpus.encoding import PackingTokenizer
from miniplm_assets.corpus.sequences import write_sequences
from miniplm_assets.corpus.tables import DOCUMENTS
from miniplm_assets.experiment import DemoSource
from miniplm_assets.experiment.schema import Sequences

SEQUENCE_LENGTH = 1_024
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
END_OF_DOCUMENT = "<|endoftext|>"
WAYS = ("published", "tokenizers", "gigatoken")
NUM_PROCESSES = multiprocessing.cpu_count()
FILES_OF_EACH = 2


def make_documents(folder: Path, *, megabytes: int) -> Path:
    """Write documents.parquet; return its path."""
    write_demo_corpus(DemoSource(type="demo", num_shards=1, megabytes=min(megabytes, 16)), folder, print)
    [shard] = folder.glob("*.jsonl")
    rows = [json.loads(line) for line in shard.read_text(encoding="utf-8").splitlines()]
    documents: list[dict[str, Any]] = []
    num_bytes = 0
    while num_bytes < megabytes * 1e6:
        row = rows[len(documents) % len(rows)]
        size = len(row["text"].encode())
        documents.append(
            {
                "document_id": len(documents),
                "shard": shard.name,
                "line": len(documents) + 1,
                "domain": row["domain"],
                "split": "candidate",
                "text": row["text"],
                "num_bytes": size,
            }
        )
        num_bytes += size
    path = folder / "documents.parquet"
    pq.write_table(pa.Table.from_pylist(documents, schema=DOCUMENTS), path, compression="zstd", row_group_size=4_096)
    return path


def make_tokenizer(folder: Path, documents: Path, *, vocab_size: int) -> None:
    """Train a byte-level BPE of Qwen's kind, as `AutoTokenizer` reads it."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = pq.read_table(documents, columns=["text"]).column(0).to_pylist()
    tokenizer.train_from_iterator(texts[: len(set(texts))], trainer)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END_OF_DOCUMENT}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


_tokenizer: Any = None


def _load(folder: Path) -> None:
    global _tokenizer
    from transformers import AutoTokenizer

    _tokenizer = AutoTokenizer.from_pretrained(folder)


def _encode(text: str) -> list[int]:
    return [*_tokenizer.encode(text, add_special_tokens=False), _tokenizer.eos_token_id]


def pack_as_published(documents: Path, tokenizer_folder: Path, target: Path) -> int:
    """Tokenise one document at a time in two processes; join, cut, trim and write in this one. Return the tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    ends = {
        token_id
        for token, token_id in tokenizer.get_vocab().items()
        if token.endswith((".", "!", "?", "\u010a"))  # the last is a line break, spelt in bytes
    } | {tokenizer.eos_token_id}
    num_tokens, buffer = 0, []
    texts = (text for table in _row_groups(documents) for text in table.column("text").to_pylist())
    with multiprocessing.Pool(NUM_PROCESSES, _load, (tokenizer_folder,)) as pool, target.open("wb") as file:
        for token_ids in pool.imap(_encode, texts, chunksize=10):
            buffer.extend(token_ids)
            while len(buffer) >= SEQUENCE_LENGTH + 1:
                stop = SEQUENCE_LENGTH + 1
                while stop > 0 and buffer[stop - 1] not in ends:
                    stop -= 1
                stop = stop or SEQUENCE_LENGTH + 1
                file.write(np.array(buffer[:stop], dtype=np.uint32).tobytes())
                num_tokens += stop
                buffer = buffer[stop:]
    return num_tokens


def _row_groups(path: Path) -> Any:
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns=["text"])


def pack_here(documents: Path, tokenizer_folder: Path, target: Path, *, with_gigatoken: bool) -> int:
    """Run the project's step; return the tokens."""
    if not with_gigatoken:
        PackingTokenizer.fast_merges = None  # type: ignore[assignment]
    facts = write_sequences(
        documents,
        shard="shard-0000.jsonl",
        tokenizer_folder=tokenizer_folder,
        sequences=Sequences(sequence_length=SEQUENCE_LENGTH),
        shard_fingerprint=fingerprint_of("benchmark"),
        folder=target,
        report=lambda _: None,
    )
    return int(facts["num_tokens"])


def measure(way: str, documents: Path, tokenizer_folder: Path, scratch: Path) -> dict[str, float]:
    """Run one way; return its seconds, CPU seconds and tokens. In a process of its own."""
    target = scratch / way
    started = time.perf_counter()
    if way == "published":
        num_tokens = pack_as_published(documents, tokenizer_folder, target)
    else:
        target.mkdir(exist_ok=True)
        num_tokens = pack_here(documents, tokenizer_folder, target, with_gigatoken=way == "gigatoken")
    seconds = time.perf_counter() - started
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu_seconds = sum(one.ru_utime + one.ru_stime for one in usage)
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "num_tokens": num_tokens}


def measure_files(num_processes: int, documents: Path, tokenizer_folder: Path, scratch: Path) -> float:
    """Return the seconds that packing the documents takes, once for each of as many files, by so many processes."""
    num_files = FILES_OF_EACH * NUM_PROCESSES
    targets = [scratch / f"file-{place}" for place in range(num_files)]
    context = multiprocessing.get_context("spawn")
    os.environ |= dict.fromkeys(ALL_NUM_THREADS, "1")
    with ProcessPoolExecutor(num_processes, mp_context=context, initializer=_import_all) as processes:
        list(processes.map(time.sleep, [0.5] * num_processes))
        started = time.perf_counter()
        for target in targets:
            target.mkdir(exist_ok=True)
        pack = partial(pack_here, documents, tokenizer_folder, with_gigatoken=True)
        list(processes.map(pack, targets))
        return time.perf_counter() - started


def _import_all() -> None:
    import transformers  # noqa: F401 - which takes seconds


def main() -> None:
    """Make the documents, measure, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vocab-size", type=int, default=32_000)
    options = parser.parse_args()
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        documents = make_documents(scratch, megabytes=options.megabytes)
        make_tokenizer(scratch / "tokenizer", documents, vocab_size=options.vocab_size)
        megabytes = pq.read_table(documents, columns=["num_bytes"]).column(0).to_numpy().sum() / 1e6
        context = multiprocessing.get_context("spawn")
        for number in range(options.rounds):
            for way in WAYS:
                # Not a pool, whose processes may have no pool of their own, as the published way has.
                with ProcessPoolExecutor(1, mp_context=context) as process:
                    measured = process.submit(measure, way, documents, scratch / "tokenizer", scratch)
                    runs[way].append(measured.result())
                print(f"round {number + 1}: {way} {megabytes / runs[way][-1]['seconds']:.2f} MB/s", flush=True)
        same = pq.read_table(scratch / "tokenizers" / "sequences.parquet").equals(
            pq.read_table(scratch / "gigatoken" / "sequences.parquet")
        )
        assert same, "gigatoken's sequences are not those of the tokenizers library"
        of_files: dict[int, list[float]] = {1: [], NUM_PROCESSES: []}
        for _ in range(options.rounds):
            for num_processes, done in of_files.items():
                done.append(measure_files(num_processes, documents, scratch / "tokenizer", scratch))
    cpu = {way: statistics.median(run["cpu_seconds"] for run in done) for way, done in runs.items()}
    medians = {way: statistics.median(run["seconds"] for run in done) for way, done in runs.items()}
    print(f"\n{megabytes:,.0f} MB of text, median of {options.rounds}; both of ours wrote the same rows")
    print(f"{'way':<12}{'MB/s':>8}{'vs published':>14}{'CPU seconds':>13}{'vs published':>14}{'tokens':>14}")
    for way, done in runs.items():
        ratio, cpu_ratio = (f"{figure['published'] / figure[way]:.2f} x" for figure in (medians, cpu))
        rate = f"{megabytes / medians[way]:.2f}"
        print(f"{way:<12}{rate:>8}{ratio:>14}{cpu[way]:>13.1f}{cpu_ratio:>14}{done[0]['num_tokens']:>14,}")
    of_all = FILES_OF_EACH * NUM_PROCESSES * megabytes
    print(f"\n{of_all:,.0f} MB in {FILES_OF_EACH * NUM_PROCESSES} files, a thread for each process")
    for num_processes, seconds in of_files.items():
        print(f"{num_processes} processes: {of_all / statistics.median(seconds):.2f} MB/s")
    ratios = [one / many for one, many in zip(*of_files.values(), strict=True)]
    print(f"ratio, round by round: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
