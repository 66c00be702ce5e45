"""How much work an asset is: tokens that are there to be read, entries of a tokenizer, parameters of a model.

Counted where a result, a folder or a file can be looked into; else what the experiment file states; else estimated
from the size of the corpus files. What an asset costs, its kind says from these.
"""

import json
from collections import Counter
from collections.abc import Collection, Mapping
from functools import cache, cached_property
from math import log2
from pathlib import Path
from typing import Any, Final

from miniplm_assets.core.errors import ModelError
from miniplm_assets.core.recipe import canonical_json
from miniplm_assets.core.splits import CANDIDATE
from miniplm_assets.corpus.shards import ObservedShard
from miniplm_assets.corpus.tokenizer import load_tokenizer
from miniplm_assets.experiment import DemoSource, TrainedTokenizer
from miniplm_assets.lineage.fingerprints import RAW_CORPUS, Fingerprints
from miniplm_assets.lineage.kind import Node
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.snapshot import Snapshot
from miniplm_assets.storage.store import Result

# What a tokenizer of a hub has that is not here yet: as many as published ones of this age.
UNKNOWN_VOCAB_SIZE: Final = 151_936
# Text of the web and code, in zstd or gzip, or in Parquet.
COMPRESSION: Final = {".zst": 3.0, ".gz": 3.0, ".bz2": 3.5, ".xz": 4.0, ".parquet": 2.0}
DOCUMENTS: Final = "documents"


class Sizes:
    """Sizes of what the assets of one experiment work on."""

    def __init__(self, pipeline: Pipeline, snapshot: Snapshot | None, fingerprints: Fingerprints | None) -> None:
        """Count nothing yet.

        Args:
            pipeline: the experiment.
            snapshot: the corpus files; None where they are unknown.
            fingerprints: of the results on them; None where they are unknown.
        """
        self._pipeline = pipeline
        self._shards = {} if snapshot is None else {shard.name: shard for shard in snapshot.shards}
        self._fingerprints = fingerprints
        self._tokens_of_shard = cache(self._count_tokens_of_shard)
        self._bytes_per_token = cache(self._measure_bytes_per_token)
        self.vocab_size = cache(self._count_entries)

    def input_node(self, node: Node[Any], role: str) -> Node[Any]:
        """Return the node of an input."""
        return self._pipeline.graph[node.inputs[role]]

    def tokens_per_split(self, key: str, shards: Collection[str] | None = None) -> Mapping[str, int] | None:
        """Return the tokens of an asset of packed sequences, by split.

        Args:
            key: of the asset.
            shards: the corpus files to count; None for all.

        Returns:
            None where nothing is known of the corpus, nor stated.
        """
        if not self._shards:
            num_tokens = self._stated_tokens() or self._demo_tokens(key)
            return None if num_tokens is None else self._by_split(num_tokens)
        whole = self._pipeline.store.find(self._fingerprints.recipe(key)) if self._fingerprints else None
        if whole is not None and shards is None:
            return dict(whole.facts["tokens_per_split"])
        total: Counter[str] = Counter()
        for shard in self._shards if shards is None else shards:
            total.update(self._tokens_of_shard(key, shard))
        return total

    def _count_tokens_of_shard(self, key: str, shard: str) -> Mapping[str, int]:
        """Return the tokens of one corpus file, by split."""
        stored = self._stored_piece(key, shard)
        if stored is not None:
            return {split: int(count) for split, count in stored.facts["tokens_per_split"].items()}
        stated = self._stated_tokens()
        if stated is not None:
            return self._by_split(stated * self._shards[shard].num_bytes / self._corpus_bytes)
        documents = self._stored_piece(DOCUMENTS, shard)
        num_bytes = _text_bytes(self._shards[shard]) if documents is None else documents.facts["num_bytes"]
        return self._by_split(num_bytes / self._bytes_per_token(key))

    @cached_property
    def _corpus_bytes(self) -> int:
        return sum(shard.num_bytes for shard in self._shards.values())

    def _stated_tokens(self) -> int | None:
        return self._pipeline.graph[RAW_CORPUS].settings.expected_tokens  # type: ignore[no-any-return]

    def _demo_tokens(self, key: str) -> float | None:
        """Return the tokens of the demo corpus, before it is written."""
        source = self._pipeline.graph[RAW_CORPUS].settings.source
        return source.megabytes * 1e6 / self._bytes_per_token(key) if isinstance(source, DemoSource) else None

    def _by_split(self, num_tokens: float) -> dict[str, int]:
        shares = dict(self._pipeline.graph[DOCUMENTS].settings.splits.shares)
        shares[CANDIDATE] = 1 - sum(shares.values())
        return {split: round(num_tokens * share) for split, share in shares.items()}

    def _measure_bytes_per_token(self, key: str) -> float:
        """Return the bytes of text that a token stands for: as in the files that are packed, else as is usual."""
        packed = [self._stored_piece(key, shard) for shard in self._shards]
        facts = [piece.facts for piece in packed if piece is not None]
        num_tokens = sum(int(each["num_tokens"]) for each in facts)
        if num_tokens:
            return sum(int(each["num_bytes"]) for each in facts) / num_tokens
        # 1 with bytes alone, 2 with 1,024 entries (the demo, with its noise), 4.5 with 32,000.
        return 1 + log2(max(256, self.vocab_size(self._pipeline.graph[key].inputs["tokenizer"])) / 256) / 2

    def _stored_piece(self, key: str, shard: str) -> Result | None:
        if self._fingerprints is None:
            return None
        return self._pipeline.store.find(self._fingerprints.pieces(key)[shard])

    def stored_pieces(self, key: str) -> list[Result]:
        """Return the results of an asset that are stored already, on the corpus as it is now."""
        if self._fingerprints is None:
            return []
        found = map(self._pipeline.store.find, self._fingerprints.pieces(key).values())
        return [result for result in found if result is not None]

    def _count_entries(self, key: str) -> int:
        """Return the entries of a tokenizer: as its folder has them, or as the file states them."""
        node = self._pipeline.graph[key]
        if isinstance(node.settings, TrainedTokenizer):
            return node.settings.vocab_size
        folder = self.folder_of(node)
        return UNKNOWN_VOCAB_SIZE if folder is None else load_tokenizer(folder).vocab_size

    def folder_of(self, node: Node[Any]) -> Path | None:
        """Return where the files of a model or a tokenizer lie that others made; None where they are not here yet."""
        if node.folder is not None:
            return node.folder
        stored = self._pipeline.store.find(self._pipeline.fingerprints(None).recipe(node.key))
        return None if stored is None else stored.folder

    def num_parameters(self, architecture: Mapping[str, Any], tokenizer: Node[Any]) -> int | None:
        """Return the parameters of an architecture with the vocabulary of a tokenizer; None where it has none."""
        return _num_parameters(canonical_json(architecture), self.vocab_size(tokenizer.key))


def _text_bytes(shard: ObservedShard) -> float:
    """Return about how many bytes of text a corpus file holds."""
    return shard.num_bytes * COMPRESSION.get(Path(shard.name).suffix.lower(), 1.0)


@cache  # both students of a pair, their training and their evaluation ask for the same
def _num_parameters(architecture: str, vocab_size: int) -> int | None:
    from miniplm_assets.lm.architectures import count_parameters

    try:
        return count_parameters(json.loads(architecture), vocab_size=vocab_size).total
    except ModelError:
        return None  # making the model says what is wrong with it; a plan goes on
