"""Where corpus, tokenizers and models come from, and how a selection ranks, in words for whoever did not run it."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from miniplm_assets.experiment import FolderModel, FolderTokenizer, HubModel, HubTokenizer, TrainedTokenizer
from miniplm_assets.experiment.selections import PER_BYTE
from miniplm_assets.experiment.sources import DemoSource, HuggingFaceSource, Source, TextSource
from miniplm_assets.kinds.agreement import CUTOFF
from miniplm_assets.kinds.models import MODELS, CopiedModel, OwnModel
from miniplm_assets.kinds.parameters import WORDS_OF_UNIT, SelectionParameters
from miniplm_assets.kinds.rankings import PER_BYTE_SCORES
from miniplm_assets.kinds.tokenizer import TOKENIZER
from miniplm_assets.lineage.kind import Node
from miniplm_assets.lineage.origins import without_local_places

MODEL_KINDS = frozenset(kind.name for kind in MODELS.values())


def in_words(settings: Mapping[str, Any]) -> str:
    """Return settings on one line."""
    return ", ".join(
        f"{name} {value if isinstance(value, str) else json.dumps(value)}" for name, value in settings.items()
    )


def corpus_words(source: Source) -> str:
    """Return where a corpus is from; of a place on this machine, its name alone."""
    match source:
        case HuggingFaceSource():
            return f"{source.id} at {source.revision} (Hugging Face), files {source.files}"
        case DemoSource():
            return "the demo corpus: sources and documentation of the Python interpreter that ran it, with noise"
        case _:
            pattern = f", files {source.pattern}" if isinstance(source, TextSource) else ""
            return f"{source.type} files: {without_local_places(source.path)}{pattern}"


def source_words(nodes: Iterable[Node[Any]]) -> dict[str, str]:
    """Return where the tokenizers and models among some assets are from, a row for each."""
    rows = {}
    for node in nodes:
        if node.kind.name == TOKENIZER.name:
            rows[f"tokenizer {node.names[0]}"] = _tokenizer_words(node)
        elif node.kind.name in MODEL_KINDS:
            rows[f"{node.kind.section} {node.names[0]}"] = _model_words(node)
    return rows


def selection_words(nodes: Iterable[Node[Any]]) -> dict[str, str]:
    """Return the settings of each selection whose cutoff is among some assets, by its name."""
    found = list(nodes)
    return {
        node.names[0]: in_words(_selection_settings(found, node.names)) or "none"
        for node in found
        if node.kind.name == CUTOFF
    }


def cutoff_words(cutoff: Mapping[str, Any]) -> str:
    """Return how much a selection keeps, by the facts of its cutoff."""
    return (
        f"keeps {cutoff['num_kept']:,} of {cutoff['num_candidates']:,} candidate sequences, "
        f"{cutoff['num_kept_tokens']:,} of {cutoff['num_candidate_tokens']:,} tokens; the last one kept has "
        f"{cutoff['cutoff_difference']:.6g} {WORDS_OF_UNIT[cutoff['rank_by']]}"
    )


def _tokenizer_words(node: Node[Any]) -> str:
    match node.settings:
        case HubTokenizer() as source:
            return f"{source.id} at {source.revision} (Hugging Face)"
        case FolderTokenizer():
            return "from a folder, whose content is in the fingerprint"
        case TrainedTokenizer() as source:
            return f"byte-level BPE of {source.vocab_size:,} entries, trained on the reference split"
        case other:
            raise AssertionError(f"{node.key}: settings of {type(other).__name__}")


def _model_words(node: Node[Any]) -> str:
    match node.settings:
        case CopiedModel(model=HubModel() as model):
            return f"{model.id} at {model.revision} (Hugging Face)"
        case CopiedModel(model=FolderModel()):
            return "from a folder, whose content is in the fingerprint"
        case OwnModel() as own:
            return (
                f"trained from scratch on {own.training.token_budget:,} tokens of the {own.split} split; "
                f"{in_words(own.architecture)}"
            )
        case other:
            raise AssertionError(f"{node.key}: settings of {type(other).__name__}")


def _selection_settings(nodes: Iterable[Node[Any]], names: tuple[str, ...]) -> dict[str, Any]:
    """Return what the tables of a selection read; the unit of its cutoff follows from that."""
    own = [node for node in nodes if node.names == names and isinstance(node.settings, SelectionParameters)]
    settings = {
        setting: value
        for node in own
        for setting, value in node.settings.identity().items()
        if node.kind.name != CUTOFF or setting != "rank_by"
    }
    # Bytes are a step of their own, after a table that is told to rank by sequences.
    is_per_byte = any(node.kind.name == PER_BYTE_SCORES for node in own)
    return settings | ({"rank_by": PER_BYTE} if is_per_byte else {})
