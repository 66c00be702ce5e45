"""How fast corpus files become documents, against datatrove, and how many processes help.

    python benchmarks/read_documents.py --datatrove .venv-datatrove/bin/python     # 105 MB of JSON lines in four files
    python benchmarks/read_documents.py --megabytes 20 --rounds 1

`here`: the project's own step, with everything that it does (fields, checks, splits by a hash of the text, ids,
rejected rows, checksums, manifests), in one process and in two. `datatrove`: its JsonlReader, one filter (texts that
are not empty) and its ParquetWriter, in two workers; its environment is one of its own, whose Python is named.
CPU seconds are those of all processes, their starts included. Where other work shares the machine, only these mean
anything.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from miniplm_assets.corpus.demo import write_demo_corpus
from miniplm_assets.experiment import DemoSource

NUM_FILES = 4
DATATROVE = """
import sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.filters import LambdaFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import ParquetWriter

def is_text(document):
    return bool(document.text)

if __name__ == "__main__":
    corpus, target = sys.argv[1:]
    steps = [JsonlReader(corpus), LambdaFilter(is_text), ParquetWriter(target + "/documents")]
    LocalPipelineExecutor(steps, tasks=4, workers=2, logging_dir=target + "/logs").run()
"""


def write_corpus(folder: Path, *, megabytes: float) -> float:
    """Write files of JSON lines, the demo's texts as often as it takes, no two the same; return their megabytes."""
    write_demo_corpus(DemoSource(type="demo", num_shards=1, megabytes=min(megabytes, 16)), folder, lambda _: None)
    [shard] = folder.glob("*.jsonl")
    rows = [json.loads(line) for line in shard.read_text(encoding="utf-8").splitlines()]
    shard.unlink()
    number, total = 0, 0
    for place in range(NUM_FILES):
        with (folder / f"shard-{place}.jsonl").open("wb") as file:
            while file.tell() < megabytes * 1e6 / NUM_FILES:
                row = rows[number % len(rows)]
                row = row | {"text": f"{number} {row['text']}"}
                file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
                number += 1
            total += file.tell()
    return total / 1e6


def read_here(corpus: Path, warehouse: Path, *, num_processes: int) -> None:
    """Make `documents` of the files."""
    import dagster as dg

    from miniplm_assets.assets.build import build_assets
    from miniplm_assets.kinds.registry import open_pipeline

    experiment = warehouse.parent / f"{warehouse.name}.yaml"
    content: dict[str, Any] = {
        "warehouse": str(warehouse),
        "corpus": {"source": {"type": "jsonl", "path": str(corpus)}, "fields": {"domain_field": "domain"}},
        "tokenizers": {"bpe": {"source": "trained", "vocab_size": 1_000}},
        "processing": {"num_processes": num_processes},
    }
    experiment.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
    pipeline = open_pipeline(experiment)
    before = _cpu_seconds()
    started = time.perf_counter()
    with dg.DagsterInstance.ephemeral() as instance:
        selection = ["raw_corpus", "documents"]
        assert dg.materialize(build_assets(pipeline), instance=instance, selection=selection).success
    print(json.dumps({"seconds": time.perf_counter() - started, "cpu_seconds": _cpu_seconds() - before}))


def _cpu_seconds() -> float:
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in usage)


def measure(way: str, corpus: Path, scratch: Path, datatrove: str) -> dict[str, float]:
    """Run one way in processes of its own; return its seconds and CPU seconds."""
    target = scratch / way
    if way == "datatrove":
        script = scratch / "with_datatrove.py"
        script.write_text(DATATROVE, encoding="utf-8")
        before, started = _cpu_seconds(), time.perf_counter()
        subprocess.run([datatrove, str(script), str(corpus), str(target)], check=True, capture_output=True)  # noqa: S603
        return {"seconds": time.perf_counter() - started, "cpu_seconds": _cpu_seconds() - before}
    command = [sys.executable, __file__, "--here", way.removeprefix("here_"), str(corpus), str(target)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def main() -> None:
    """Make the files, measure, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=105)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--datatrove", default="", help="the Python of an environment that has datatrove")
    parser.add_argument("--here", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here is not None:
        num_processes, corpus, warehouse = options.here
        read_here(Path(corpus), Path(warehouse), num_processes=int(num_processes))
        return
    ways = ["here_1", "here_2", *(["datatrove"] if options.datatrove else [])]
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        megabytes = write_corpus(corpus, megabytes=options.megabytes)
        for number in range(options.rounds):
            for way in ways:
                scratch = Path(folder) / str(number)
                scratch.mkdir(exist_ok=True)
                runs[way].append(measure(way, corpus, scratch, options.datatrove))
                print(f"round {number + 1}: {way} {runs[way][-1]}", flush=True)
    print(f"\n{megabytes:,.0f} MB in {NUM_FILES} files, median of {options.rounds}")
    for way, done in runs.items():
        seconds, cpu_seconds = (statistics.median(run[name] for run in done) for name in ("seconds", "cpu_seconds"))
        print(f"{way:<12}{megabytes / seconds:>8.1f} MB/s {cpu_seconds:>8.2f} CPU seconds")


if __name__ == "__main__":
    main()
