"""How fast corpus files become documents, against datatrove, and how many processes help.

    python benchmarks/read_documents.py --datatrove .venv-datatrove/bin/python     # 105 MB of JSON lines in four files
    python benchmarks/read_documents.py --datatrove .venv-datatrove/bin/python --cleaning exact languages
    python benchmarks/read_documents.py --megabytes 20 --rounds 1

`here`: the project's own step, with everything that it does (fields, checks, splits by a hash of the text, ids,
rejected rows, checksums, manifests), in one process and in two. `datatrove`: its JsonlReader, one filter (texts that
are not empty) and its ParquetWriter, in two workers; its environment is one of its own, whose Python is named. With
`--cleaning exact` both drop repeated texts (datatrove by its three blocks of exact deduplication), every tenth of them;
with `--cleaning languages` both find the language of each text by py3langid and its first 2,000 characters.
`seconds` begin where the libraries are imported and the run is asked for, and end with it: those of workers that are
started count. `whole` is the command from its start, on both sides. CPU seconds here are those of all processes;
datatrove's own workers are not counted in its. So the two are held against each other by seconds, on a quiet machine.
"""

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from miniplm_assets.corpus.demo import write_demo_corpus
from miniplm_assets.experiment import DemoSource

NUM_FILES = 4
# Every so many rows one is the one before.
REPEATED_EVERY = 10
CLEANINGS: Final[dict[str, dict[str, Any]]] = {
    "none": {},
    "exact": {"duplicates": "exact"},
    "languages": {"languages": ["*"]},
}
DATATROVE = """
import json
import sys
import time
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import ExactDedupFilter, ExactDedupSignature, ExactFindDedups
from datatrove.pipeline.dedup.exact_dedup import ExactDedupConfig
from datatrove.pipeline.filters import LambdaFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import ParquetWriter

def is_text(document):
    return bool(document.text)

def text_of(document) -> bytes:
    return document.text.encode()

def name_language(document):
    from py3langid import langid
    document.metadata["language"] = langid.classify(document.text[:2000])[0]
    return bool(document.text)

if __name__ == "__main__":
    corpus, target, cleaning = sys.argv[1:]
    started = time.perf_counter()

    def run(name, steps, tasks=4):
        LocalPipelineExecutor(steps, tasks=tasks, workers=2, logging_dir=f"{target}/logs/{name}").run()

    cleaned = [LambdaFilter(name_language if cleaning == "languages" else is_text)]
    if cleaning == "exact":
        config = ExactDedupConfig(content_getter=text_of)
        run("signatures", [JsonlReader(corpus), *cleaned, ExactDedupSignature(target + "/signatures", config, 2)])
        run("find", [ExactFindDedups(target + "/signatures", target + "/twins", config)], tasks=2)
        cleaned.append(ExactDedupFilter(target + "/twins", config))
    run("write", [JsonlReader(corpus), *cleaned, ParquetWriter(target + "/documents")])
    print(json.dumps({"seconds": time.perf_counter() - started}))
"""


def write_corpus(folder: Path, *, megabytes: float) -> float:
    """Write files of JSON lines, the demo's texts as often as it takes, few the same; return their megabytes."""
    write_demo_corpus(DemoSource(type="demo", num_shards=1, megabytes=min(megabytes, 16)), folder, lambda _: None)
    [shard] = folder.glob("*.jsonl")
    rows = [json.loads(line) for line in shard.read_text(encoding="utf-8").splitlines()]
    shard.unlink()
    number, total = 0, 0
    for place in range(NUM_FILES):
        with (folder / f"shard-{place}.jsonl").open("wb") as file:
            while file.tell() < megabytes * 1e6 / NUM_FILES:
                new = number - (number % REPEATED_EVERY == 0)
                row = rows[new % len(rows)]
                row = row | {"text": f"{new} {row['text']}"}
                file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
                number += 1
            total += file.tell()
    return total / 1e6


def read_here(corpus: Path, warehouse: Path, *, num_processes: int, cleaning: str) -> None:
    """Make `documents` of the files."""
    import dagster as dg

    from miniplm_assets.assets.build import build_assets
    from miniplm_assets.kinds.registry import open_pipeline

    experiment = warehouse.parent / f"{warehouse.name}.yaml"
    content: dict[str, Any] = {
        "warehouse": str(warehouse),
        "corpus": {
            "source": {"type": "jsonl", "path": str(corpus)},
            "fields": {"domain_field": "domain"},
            "cleaning": CLEANINGS[cleaning],
        },
        "tokenizers": {"bpe": {"source": "trained", "vocab_size": 1_000}},
        "processing": {"num_processes": num_processes},
    }
    experiment.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
    pipeline = open_pipeline(experiment)
    assets, selection = build_assets(pipeline), ["raw_corpus", "documents"]
    with dg.DagsterInstance.ephemeral() as instance:
        before, started = _cpu_seconds(), time.perf_counter()
        assert dg.materialize(assets, instance=instance, selection=selection).success
    seconds, cpu_seconds = time.perf_counter() - started, _cpu_seconds() - before
    counts = [pq.read_metadata(path).num_rows for path in (warehouse / "documents").glob("*/documents.parquet")]
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "documents": sum(counts)}))


def _cpu_seconds() -> float:
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in usage)


def measure(way: str, cleaning: str, corpus: Path, scratch: Path, datatrove: str) -> dict[str, float]:
    """Run one way in processes of its own; return its seconds, CPU seconds, and how many documents stayed."""
    target = scratch / f"{way}-{cleaning}"
    if way == "datatrove":
        script = scratch / "with_datatrove.py"
        script.write_text(DATATROVE, encoding="utf-8")
        command = [datatrove, str(script), str(corpus), str(target), cleaning]
    else:
        command = [sys.executable, __file__, "--here", way.removeprefix("here_"), str(corpus), str(target), cleaning]
    before, started = _cpu_seconds(), time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    whole, cpu_seconds = time.perf_counter() - started, _cpu_seconds() - before
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1]) | {"whole": whole}
    if way == "datatrove":
        counts = [pq.read_metadata(path).num_rows for path in target.glob("documents/*.parquet")]
        measured |= {"cpu_seconds": cpu_seconds, "documents": sum(counts)}
    return measured


def main() -> None:
    """Make the files, measure, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=105)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--datatrove", default="", help="the Python of an environment that has datatrove")
    parser.add_argument("--cleaning", nargs="+", choices=list(CLEANINGS), default=["none"])
    parser.add_argument("--here", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here is not None:
        num_processes, corpus, warehouse, cleaning = options.here
        read_here(Path(corpus), Path(warehouse), num_processes=int(num_processes), cleaning=cleaning)
        return
    ways = ["here_1", "here_2", *(["datatrove"] if options.datatrove else [])]
    runs: dict[tuple[str, str], list[dict[str, float]]] = {pair: [] for pair in product(options.cleaning, ways)}
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        megabytes = write_corpus(corpus, megabytes=options.megabytes)
        for number in range(options.rounds):
            scratch = Path(folder) / str(number)
            scratch.mkdir()
            for cleaning, way in runs:
                done = measure(way, cleaning, corpus, scratch, options.datatrove)
                runs[cleaning, way].append(done)
                print(f"round {number + 1}: {cleaning} {way} {done}", flush=True)
            shutil.rmtree(scratch)
    print(f"\n{megabytes:,.0f} MB in {NUM_FILES} files, median of {options.rounds}")
    for (cleaning, way), all_done in runs.items():
        seconds, whole, cpu_seconds = (
            statistics.median(run[name] for run in all_done) for name in ("seconds", "whole", "cpu_seconds")
        )
        print(
            f"{cleaning:<12}{way:<12}{seconds:>8.2f} s {megabytes / seconds:>8.1f} MB/s {cpu_seconds:>8.2f} CPU s "
            f"{whole:>8.2f} s whole {all_done[0]['documents']:>10,.0f} documents"
        )


if __name__ == "__main__":
    main()
