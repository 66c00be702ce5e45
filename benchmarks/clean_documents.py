"""How fast documents are cleaned: text hashes, MinHash signatures, finding twins, languages.

    python benchmarks/clean_documents.py                   # 20 MB of text
    python benchmarks/clean_documents.py --megabytes 5

Each on one core, over the demo's documents in batches as `documents` has them.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from miniplm_assets.corpus.demo import write_demo_corpus
from miniplm_assets.corpus.duplicates import KeptDocuments
from miniplm_assets.corpus.hashes import Hashes
from miniplm_assets.corpus.languages import languages_of
from miniplm_assets.corpus.signatures import signatures_of
from miniplm_assets.experiment import DemoSource
from miniplm_assets.experiment.cleaning import NearDuplicates

BATCH = 1_024


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=20.0)
    megabytes = parser.parse_args().megabytes
    with tempfile.TemporaryDirectory() as folder:
        write_demo_corpus(DemoSource(type="demo", num_shards=1, megabytes=megabytes), Path(folder), print)
        [shard] = Path(folder).glob("*.jsonl")
        texts = [json.loads(line)["text"] for line in shard.read_text(encoding="utf-8").splitlines()]
    batches = [texts[first : first + BATCH] for first in range(0, len(texts), BATCH)]
    num_bytes = sum(len(text.encode()) for text in texts)
    print(f"{len(texts):,} documents, {num_bytes / 1e6:.1f} MB")
    near = NearDuplicates()
    languages_of(["loads the model"])
    kept, exact = KeptDocuments(near), KeptDocuments(None)
    kept.begin_shard(0)
    exact.begin_shard(0)
    hashed = [Hashes.of(batch, near) for batch in batches]
    steps: dict[str, Callable[[int], object]] = {
        "text hash": lambda place: Hashes.of(batches[place], None),
        "text hash and its twins": lambda place: exact.twins(Hashes.of(batches[place], None)),
        "signature": lambda place: signatures_of(batches[place], near),
        "twins of signatures": lambda place: kept.twins(hashed[place]),
        "language": lambda place: languages_of(batches[place]),
    }
    for name, step in steps.items():
        begun = time.process_time()
        for place in range(len(batches)):
            step(place)
        seconds = time.process_time() - begun
        print(f"{name:24} {num_bytes / seconds / 1e6:8.1f} MB/s {len(texts) / seconds:10,.0f} documents/s")


if __name__ == "__main__":
    main()
