"""Where corpus, tokenizers and models come from, and what a selection keeps, in words for whoever did not run it."""

import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from miniplm_assets.core.recipe import key_of
from miniplm_assets.experiment import FolderModel, FolderTokenizer, HubModel, HubTokenizer, TrainedTokenizer
from miniplm_assets.experiment.sources import DemoSource, HuggingFaceSource, Source, TextSource
from miniplm_assets.kinds.agreement import CUTOFF
from miniplm_assets.kinds.models import MODELS, CopiedModel, OwnModel
from miniplm_assets.kinds.parameters import WORDS_OF_UNIT, SelectionParameters
from miniplm_assets.kinds.tokenizer import TOKENIZER
from miniplm_assets.lineage.fingerprints import RAW_CORPUS
from miniplm_assets.lineage.kind import Node
from miniplm_assets.lineage.origins import Origins, without_local_places

_MODEL_KINDS = frozenset(kind.name for kind in MODELS.values())


def corpus_source(origins: Origins) -> Source:
    """Return where the raw corpus is."""
    source: Source = origins.graph[RAW_CORPUS].settings.source
    return source


def corpus_id(origins: Origins) -> str | None:
    """Return the id of the data set on the hub that the corpus is; None where it is none."""
    source = corpus_source(origins)
    return source.id if isinstance(source, HuggingFaceSource) else None


def rows_behind(origins: Origins, key: str) -> dict[str, str]:
    """Return what an asset comes from, a row a thing: corpus, tokenizers, models, selections.

    Raises:
        MissingResultError: if the cutoff of one of the selections is not stored.
    """
    rows = {"corpus": _corpus_words(corpus_source(origins))}
    for node in origins.behind(key):
        if node.kind.name == TOKENIZER.name:
            rows[f"tokenizer {node.names[0]}"] = _tokenizer_words(node)
        elif node.kind.name in _MODEL_KINDS:
            rows[f"{node.kind.section} {node.names[0]}"] = _model_words(node)
        elif node.kind.name == CUTOFF:
            rows[f"selection {node.names[0]}"] = _selection_words(origins, node.names[0])
    return rows


def model_sections(origins: Origins, key: str) -> frozenset[str]:
    """Return whether a teacher, a reference or both are behind an asset."""
    return frozenset(node.kind.section for node in origins.behind(key) if node.kind.name in _MODEL_KINDS)


def in_words(settings: dict[str, Any]) -> str:
    """Return settings on one line."""
    return ", ".join(
        f"{name} {value if isinstance(value, str) else json.dumps(value)}" for name, value in settings.items()
    )


def _corpus_words(source: Source) -> str:
    match source:
        case HuggingFaceSource():
            return f"{source.id} at {source.revision} (Hugging Face), files {source.files}"
        case DemoSource():
            return "the demo corpus: sources and documentation of the Python interpreter that ran it, with noise"
        case _:
            place = without_local_places(source.path)
            pattern = f", files {source.pattern}" if isinstance(source, TextSource) else ""
            return f"{source.type} files: {place}{pattern}"


def _tokenizer_words(node: Node[Any]) -> str:
    match node.settings:
        case HubTokenizer() as source:
            return f"{source.id} at {source.revision} (Hugging Face)"
        case FolderTokenizer() as source:
            return f"from a folder: {PurePosixPath(source.path).name}"
        case TrainedTokenizer() as source:
            return f"byte-level BPE of {source.vocab_size:,} entries, trained on the reference split"
        case other:
            raise AssertionError(f"{node.key}: settings of {type(other).__name__}")


def _model_words(node: Node[Any]) -> str:
    match node.settings:
        case CopiedModel(model=HubModel() as model):
            return f"{model.id} at {model.revision} (Hugging Face)"
        case CopiedModel(model=FolderModel() as model):
            return f"from a folder: {PurePosixPath(model.path).name}"
        case OwnModel() as own:
            return (
                f"{own.architecture['model_type']}, trained from scratch on {own.training.token_budget:,} tokens of "
                f"the {own.split} split; {in_words(own.architecture)}"
            )
        case other:
            raise AssertionError(f"{node.key}: settings of {type(other).__name__}")


def _selection_words(origins: Origins, name: str) -> str:
    cutoff = origins.result(key_of(CUTOFF, name)).facts
    settings = dict(_selection_settings(origins, name))
    return (
        f"keeps {cutoff['num_kept']:,} of {cutoff['num_candidates']:,} candidate sequences, "
        f"{cutoff['num_kept_tokens']:,} of {cutoff['num_candidate_tokens']:,} tokens; the last one kept has "
        f"{cutoff['cutoff_difference']:.6g} {WORDS_OF_UNIT[cutoff['rank_by']]}; settings that are not the default: "
        f"{in_words(settings) or 'none'}"
    )


def _selection_settings(origins: Origins, name: str) -> Iterator[tuple[str, Any]]:
    """Go through the settings of a selection's tables; the cutoff's own unit stands in another sentence."""
    for node in [*origins.behind(key_of(CUTOFF, name)), origins.graph[key_of(CUTOFF, name)]]:
        if node.names == (name,) and isinstance(node.settings, SelectionParameters):
            for setting, value in node.settings.identity().items():
                if node.kind.name != CUTOFF or setting != "rank_by":
                    yield setting, value
