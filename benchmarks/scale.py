"""Whether time grows with the work alone: not with the square of the domains, nor of the corpus files.

    python benchmarks/scale.py                                           # some minutes
    python benchmarks/scale.py --domains 10 100_000 --shards 10 20_000   # an hour and more: 40 ms and more a file

Domains: the same 100,000 short documents in one corpus file, spread over more and more domains, are packed, counted by
domain, and measured by domain. What stands there is microseconds a document.

Corpus files: more and more files of eight documents each are looked at, read, packed and put into the catalog by the
project's own assets, run a second time with everything stored, and planned anew with everything missing; made-up scores
of their sequences go through the SQL of a selection. What stands there is milliseconds a file.

At the end: for each stage, the time of the largest by that of the next smaller one. Linear is 1.
"""

import argparse
import json
import queue
import random
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from miniplm_assets.core.stop import Stop
from miniplm_assets.corpus.sequences import write_sequences
from miniplm_assets.corpus.tables import DOCUMENTS
from miniplm_assets.corpus.tokenizer import train_tokenizer
from miniplm_assets.evaluation.held_out import held_out_table
from miniplm_assets.evaluation.plots import plot_domain_shares
from miniplm_assets.experiment.schema import Sequences
from miniplm_assets.kinds.registry import PROJECT, open_pipeline
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.plan import plan_on
from miniplm_assets.lineage.snapshot import Snapshot, latest_snapshot
from miniplm_assets.lineage.tally import Tally
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.sql_project import load_sql_project
from miniplm_assets.storage.sql_run import run_model

SQL = load_sql_project(PROJECT / "dbt_like_sql")
WORDS = ("river", "reads.", "island", "token", "keeps!", "winter", "the", "a", "of")
NUM_DOCUMENTS = 100_000
DOCUMENTS_PER_SHARD = 8
# Of one stage, by the number of domains or of corpus files: seconds for each document, or for each file.
Seconds = dict[str, dict[int, float]]


@dataclass(frozen=True)
class QuietRun:
    """A run that tells nobody anything."""

    pipeline: Pipeline
    stop: Stop = field(default_factory=Stop)
    errands: "queue.SimpleQueue[Callable[[], object]]" = field(default_factory=queue.SimpleQueue)
    run_id: None = None

    def progressed(self, tally: Tally, pieces: Collection[str]) -> None:
        """Show nobody how far it is."""

    def report(self, line: str) -> None:
        """Say nothing."""

    def snapshot(self) -> Snapshot:
        """Return the state of the corpus that was seen last."""
        return latest_snapshot(self.pipeline.graph["raw_corpus"], self.pipeline.store)

    def asked_snapshot(self) -> Snapshot | None:
        """Return None: it looks by itself."""
        return None

    def maker_of(self, _key: str) -> str | None:
        """Return None: nobody else is at work."""
        return None

    def pin(self, snapshot: Snapshot) -> None:
        """Do nothing: nobody else works on this warehouse."""

    def device(self) -> AbstractContextManager[None]:
        """Lock nothing: no model is loaded."""
        return nullcontext()

    def connect_ray(self) -> None:
        """Do nothing: nothing is scored."""


@contextmanager
def timed(found: Seconds, stage: str, size: int, *, per: int) -> Iterator[None]:
    """Note how long a stage took, for each of so many documents or files."""
    started = time.perf_counter()
    yield
    found.setdefault(stage, {})[size] = (time.perf_counter() - started) / per
    print(f"  {stage}: {1e3 * found[stage][size]:.3f} ms each", flush=True)


def texts(number: int, *, seed: int) -> list[str]:
    """Return so many short texts."""
    generator = random.Random(seed)  # noqa: S311 - no secret
    return [" ".join(generator.choices(WORDS, k=40)) for _ in range(number)]


def measure_domains(num_domains: int, folder: Path, found: Seconds) -> None:
    """Pack and measure one corpus file whose documents are of so many domains."""
    (folder / "tokenizer").mkdir(parents=True)
    train_tokenizer(iter(texts(50, seed=1)), vocab_size=280, folder=folder / "tokenizer")
    rows = [
        {
            "document_id": place,
            "shard": "s.jsonl",
            "line": place + 1,
            "domain": f"https://example.org/{place % num_domains}",
            "split": "candidate",
            "text": text,
            "num_bytes": len(text),
        }
        for place, text in enumerate(texts(NUM_DOCUMENTS, seed=0))
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=DOCUMENTS), folder / "documents.parquet", row_group_size=4_096)
    with timed(found, "sequences", num_domains, per=NUM_DOCUMENTS):
        write_sequences(
            folder / "documents.parquet",
            shard="s.jsonl",
            tokenizer_folder=folder / "tokenizer",
            sequences=Sequences(sequence_length=64),
            shard_fingerprint="ab" * 16,
            folder=folder,
            report=lambda _: None,
        )
    sequences = pl.read_parquet(folder / "sequences.parquet", columns=["sequence_id", "domain"], glob=False)
    scores = sequences.select("sequence_id", logprob_nats=-pl.lit(1.0), num_scored_tokens=pl.lit(1))
    with timed(found, "student_evaluation", num_domains, per=NUM_DOCUMENTS):
        held_out_table(sequences.with_columns(num_scored_bytes=pl.lit(4)), scores)
    measure_selection(folder, num_domains, found, per=NUM_DOCUMENTS, sequences=[folder / "sequences.parquet"])
    shift = pl.read_parquet(folder / "domain_shift" / "domain_shift.parquet", glob=False)
    with timed(found, "domain_shares.png", num_domains, per=NUM_DOCUMENTS):
        plot_domain_shares(shift)


def measure_shards(num_shards: int, folder: Path, found: Seconds) -> None:
    """Run the project's own assets over so many corpus files."""
    (folder / "corpus").mkdir(parents=True)
    lines = [json.dumps({"text": text, "domain": "web"}) for text in texts(num_shards * DOCUMENTS_PER_SHARD, seed=0)]
    for place in range(num_shards):
        own = lines[place * DOCUMENTS_PER_SHARD : (place + 1) * DOCUMENTS_PER_SHARD]
        (folder / "corpus" / f"{place:06d}.jsonl").write_text("\n".join(own) + "\n", encoding="utf-8")
    train_tokenizer(iter(texts(50, seed=1)), vocab_size=280, folder=folder)
    experiment = {
        "warehouse": str(folder / "warehouse"),
        "corpus": {
            "source": {"type": "jsonl", "path": str(folder / "corpus")},
            "fields": {"domain_field": "domain"},
        },
        "sequences": {"sequence_length": 64},
        "tokenizers": {"bpe": {"source": "folder", "path": str(folder)}},
    }
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment), encoding="utf-8")
    made = []
    for again in ("", " (stored)"):
        pipeline = open_pipeline(folder / "experiment.yaml")
        for node in pipeline.graph.values():
            if node.key != "bpe/tokenizer" or not again:
                with timed(found, f"{node.key}{again}", num_shards, per=num_shards):
                    made.append(node.kind.make(Work(pipeline, node, QuietRun(pipeline))))
    snapshot = latest_snapshot(pipeline.graph["raw_corpus"], pipeline.store)
    changed = experiment | {"sequences": {"sequence_length": 63}, "seed": 1}
    (folder / "experiment.yaml").write_text(yaml.safe_dump(changed), encoding="utf-8")
    with timed(found, "plan (all missing)", num_shards, per=num_shards):
        plan_on(open_pipeline(folder / "experiment.yaml"), snapshot)
    stored = folder / "warehouse"
    sequences, documents = (
        sorted(stored.glob(f"{key}/*/{key[-9:]}.parquet")) for key in ("bpe/sequences", "documents")
    )
    measure_selection(folder, num_shards, found, per=num_shards, sequences=sequences, documents=documents)


def measure_selection(
    folder: Path, size: int, found: Seconds, *, per: int, sequences: list[Path], documents: list[Path] | None = None
) -> None:
    """Select by made-up scores, a file of them for each file of sequences."""
    generator = np.random.default_rng(0)
    inputs = {"sequences": sequences, "documents": documents or [folder / "documents.parquet"]}
    for model in ("teacher_scores", "reference_scores"):
        (folder / model).mkdir()
        inputs[model] = []
        for place, path in enumerate(sequences):
            rows = pq.read_table(path, columns=["sequence_id", "split", "num_tokens"]).to_pydict()
            scored = [at for at, split in enumerate(rows["split"]) if split in ("candidate", "validation")]
            table = {
                "sequence_id": [rows["sequence_id"][at] for at in scored],
                "logprob_nats": -generator.gamma(9.0, 0.3, len(scored)),
                "num_scored_tokens": pa.array([rows["num_tokens"][at] - 1 for at in scored], pa.int32()),
            }
            inputs[model].append(folder / model / f"{place}.parquet")
            pq.write_table(pa.table(table), inputs[model][-1])
    parameters = {"rank_by": "nats_per_token", "keep_fraction": 0.5, "token_budget": None}
    for mart in ("difference_scores", "selection_cutoff", "domain_shift", "corpus_profile", "refined_corpus"):
        (folder / mart).mkdir()
        with timed(found, mart, size, per=per):
            run_model(SQL, mart, inputs=inputs, parameters=parameters, target=folder / mart)
        inputs[mart] = sorted((folder / mart).glob("*.parquet"))


def main() -> None:
    """Measure both, and compare the largest with the next smaller one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", type=int, nargs="*", default=[10, 1_000, 10_000])
    parser.add_argument("--shards", type=int, nargs="*", default=[10, 100, 1_000])
    parser.add_argument("--folder", type=Path, help="for the generated data; default: a temporary one")
    options = parser.parse_args()
    for what, sizes, measure in (
        ("domains", options.domains, measure_domains),
        ("corpus files", options.shards, measure_shards),
    ):
        found: Seconds = {}
        for size in sorted(sizes):
            print(f"{size:,} {what}", flush=True)
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                measure(size, Path(folder) / "data", found)
        for stage, by_size in found.items():
            if len(by_size) > 1:
                *_, before, last = by_size
                print(f"{stage}: {by_size[last] / by_size[before]:.2f} from {before:,} to {last:,} {what}")


if __name__ == "__main__":
    main()
