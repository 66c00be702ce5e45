"""How much work an asset is: tokens that are there to be read, parameters of a model.

Counted where the packed sequences are stored, else estimated from what the experiment file states; unknown where it
states nothing. What an asset costs, its kind says from these.
"""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from miniplm_assets.core.errors import ModelError
from miniplm_assets.core.recipe import canonical_json
from miniplm_assets.core.splits import CANDIDATE
from miniplm_assets.experiment import TrainedTokenizer
from miniplm_assets.lineage.fingerprints import RAW_CORPUS, Fingerprints
from miniplm_assets.lineage.kind import Node
from miniplm_assets.lineage.pipeline import Pipeline

# Only a tokenizer that is trained here has a size that the file states; published ones have about as many entries.
UNKNOWN_VOCAB_SIZE: Final = 151_936


class Sizes:
    """Sizes of what the assets of one experiment work on."""

    def __init__(self, pipeline: Pipeline, fingerprints: Fingerprints | None) -> None:
        """Count nothing yet.

        Args:
            pipeline: the experiment.
            fingerprints: of the results on the present state of the corpus; None where that is unknown.
        """
        self._pipeline = pipeline
        self._fingerprints = fingerprints
        self.tokens_per_split = cache(self._tokens_per_split)

    def input_node(self, node: Node[Any], role: str) -> Node[Any]:
        """Return the node of an input."""
        return self._pipeline.graph[node.inputs[role]]

    def _tokens_per_split(self, key: str) -> Mapping[str, int] | None:
        """Return the tokens of an asset of packed sequences, by split; None where nothing is known of them."""
        stored = self._pipeline.store.find(self._fingerprints.recipe(key)) if self._fingerprints else None
        shares = dict(self._pipeline.graph["documents"].settings.splits.shares)
        shares[CANDIDATE] = 1 - sum(shares.values())
        if stored is not None:
            counted = stored.facts["tokens_per_split"]
            return {split: int(counted.get(split, 0)) for split in shares}
        expected = self._pipeline.graph[RAW_CORPUS].settings.expected_tokens
        return None if expected is None else {split: round(expected * share) for split, share in shares.items()}

    def num_parameters(self, architecture: Mapping[str, Any], tokenizer: Node[Any]) -> int | None:
        """Return the parameters of an architecture with the vocabulary of a tokenizer; None where it has none."""
        return _num_parameters(canonical_json(architecture), self.vocab_size(tokenizer))

    def vocab_size(self, tokenizer: Node[Any]) -> int:
        """Return the entries of a tokenizer, or a usual number where nobody knows."""
        match tokenizer.settings:
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
        return None  # making the model says what is wrong with it; a plan goes on
