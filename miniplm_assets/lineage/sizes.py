"""How much work an asset is: tokens through a model, parameters of the model, bytes on the disk.

Counted where the packed sequences and the models are stored, else estimated from what the experiment
file states; unknown where it states nothing.
"""

import json
from collections.abc import Mapping
from functools import cache, cached_property
from typing import Final

from miniplm_assets.core.errors import ModelError
from miniplm_assets.core.recipe import canonical_json
from miniplm_assets.core.splits import CANDIDATE, VALIDATION
from miniplm_assets.experiment import HubModel, Scored, TrainedModel, TrainedTokenizer
from miniplm_assets.lineage.fingerprints import Fingerprints
from miniplm_assets.lineage.graph import Node, scored_model
from miniplm_assets.lineage.pipeline import Pipeline

# Bytes a row or token on the disk, as measured on the demo: token ids, spans and text, compressed.
BYTES_PER_SEQUENCE_TOKEN: Final = 4
BYTES_PER_SCORE: Final = 20
BYTES_PER_PARAMETER: Final = 4
# Only a tokenizer that is trained here has a size that the file states; published ones have about as many entries.
UNKNOWN_VOCAB_SIZE: Final = 151_936


class Sizes:
    """Sizes of the assets of one experiment."""

    def __init__(self, pipeline: Pipeline, fingerprints: Fingerprints | None) -> None:
        self._pipeline = pipeline
        self._experiment = pipeline.experiment
        self._fingerprints = fingerprints

    @staticmethod
    def is_training(node: Node) -> bool:
        """Whether the asset trains a model, rather than only running one."""
        return "training" in node.settings

    def tokens(self, node: Node, num_missing: int | None) -> int | None:
        """Return the tokens that would go through a model, None where none do or the number is unknown."""
        if self.is_training(node):
            return int(node.settings["training"]["token_budget"])
        total = self._packed_tokens.get(node.inputs.get("sequences", ""))
        if total is None:
            return None
        if "model" in node.inputs:
            num_shards = len(self._fingerprints.shards) if self._fingerprints else 1
            share = 1.0 if num_missing is None else num_missing / num_shards
            scored = self._scored_tokens(node, total)
            return None if scored is None else round(scored * share)
        return total[VALIDATION] if node.step == "student_evaluation" else None

    def _scored_tokens(self, node: Node, total: Mapping[str, int]) -> float | None:
        match node.step.partition("_")[0]:
            case "pilot":
                return total[CANDIDATE] * float(node.settings["share"])
            case "second":
                num_sequences = node.settings["num_random"] + node.settings["num_around_cutoff"]
                return float(min(num_sequences * self._experiment.sequences.sequence_length, total[CANDIDATE]))
            case "rescored":  # nobody knows before the first pass how many lie around its cutoff
                return None
            case _:
                return total[CANDIDATE] + total[VALIDATION]

    def parameters(self, node: Node) -> int | None:
        """Return the parameters of the model that the asset runs or trains, None where unknown."""
        architecture = node.settings.get("architecture")
        if architecture is not None:
            return self._count(architecture, node)
        if "model" in node.inputs:
            return self._scored_parameters(scored_model(self._experiment, node), node)
        if node.step == "student_evaluation":
            return self._count(self._experiment.architectures[self._experiment.students[node.name].architecture], node)
        return None

    def disk_bytes(self, node: Node, num_missing: int | None, num_parameters: int | None) -> int | None:
        """Return the bytes that the asset's results would take, None where unknown."""
        tokens = self.tokens(node, num_missing)
        if self.is_training(node) and num_parameters is not None:
            return num_parameters * BYTES_PER_PARAMETER
        if "model" in node.inputs and tokens is not None:
            return tokens // self._experiment.sequences.sequence_length * BYTES_PER_SCORE
        packed = self._packed_tokens.get(node.key)
        return sum(packed.values()) * BYTES_PER_SEQUENCE_TOKEN if packed is not None else None

    @cached_property
    def _packed_tokens(self) -> dict[str, dict[str, int]]:
        """Tokens by split of each `sequences/<tokenizer>`: counted where it is stored, else as the file expects."""
        expected = self._experiment.corpus.expected_tokens
        shares = dict(self._experiment.corpus.splits.shares)
        shares[CANDIDATE] = 1 - sum(shares.values())
        packed = {}
        for name in self._experiment.tokenizers:
            key = f"sequences/{name}"
            stored = self._pipeline.store.find(self._fingerprints.recipe(key)) if self._fingerprints else None
            if stored is not None:
                counted = stored.facts["tokens_per_split"]
                packed[key] = {split: int(counted.get(split, 0)) for split in shares}
            elif expected is not None:
                packed[key] = {split: round(expected * share) for split, share in shares.items()}
        return packed

    def _scored_parameters(self, scored: Scored, node: Node) -> int | None:
        match scored.model:
            case TrainedModel():
                return self._count(self._experiment.architectures[scored.model.architecture], node)
            case HubModel():
                return scored.model.num_parameters
            case _:
                return None

    def _count(self, architecture: Mapping[str, object], node: Node) -> int | None:
        return _num_parameters(canonical_json(architecture), self._vocab_size(node))

    def _vocab_size(self, node: Node) -> int:
        key = node.inputs.get("tokenizer") or node.inputs["sequences"].replace("sequences/", "tokenizer/")
        match self._experiment.tokenizers[key.partition("/")[2]]:
            case TrainedTokenizer(vocab_size=vocab_size):
                return vocab_size
            case _:
                return UNKNOWN_VOCAB_SIZE


@cache  # both students of a pair, their training and their evaluation ask for the same
def _num_parameters(architecture: str, vocab_size: int) -> int | None:
    from miniplm_assets.lm.architectures import count_parameters

    try:
        return count_parameters(json.loads(architecture), vocab_size=vocab_size).total
    except ModelError:
        return None  # the step itself says what is wrong with it; a plan goes on
