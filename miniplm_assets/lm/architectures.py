"""Models from scratch: any causal language model of transformers, by its model_type and configuration.

An architecture is what an experiment file writes down: `model_type` and the keys of that type's
configuration. What follows from the data is filled in here: the vocabulary, the end-of-document token
and the room for the longest sequence. transformers accepts any key in silence; here a key that the
configuration does not have is an error that names the nearest one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from miniplm_assets.core.doors import explained_as
from miniplm_assets.core.errors import ModelError
from miniplm_assets.experiment.settings import nearest

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# How the configurations of transformers call the longest sequence that a model takes; the first is by far the
# commonest, and older ones (gpt2's n_positions) are mapped to it by the library.
_MAX_TOKENS_KEYS = ("max_position_embeddings", "max_seq_len", "context_length")
# vLLM takes a prompt only where one more token fits, as it always generates one.
_GENERATED_TOKENS = 1


@dataclass(frozen=True, kw_only=True)
class ParameterCount:
    """How large a model is.

    Attributes:
        total: all parameters; an output layer tied to the input embedding counts once.
        non_embedding: without the input embedding and the output layer.
    """

    total: int
    non_embedding: int


def build_model(
    architecture: Mapping[str, Any],
    *,
    vocab_size: int,
    end_of_document_id: int,
    max_sequence_tokens: int | None,
    seed: int,
) -> "PreTrainedModel":
    """Build a model with random weights, float32, on the CPU.

    Args:
        architecture: `model_type` and keys of its configuration. `vocab_size` there may be larger than the
            tokenizer's (padded to a round number, as published models are).
        vocab_size: number of ids of the tokenizer.
        end_of_document_id: the token between documents; it begins and ends a text.
        max_sequence_tokens: tokens of the longest sequence: sequence_length and the one that begins it; None
            where the model will see none.
        seed: the same seed gives the same weights. The caller's random state is left alone.

    Raises:
        ModelError: for an unknown model_type or key, a value that does not fit, or too little room for a sequence.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = build_config(
        architecture,
        vocab_size=vocab_size,
        end_of_document_id=end_of_document_id,
        max_sequence_tokens=max_sequence_tokens,
    )
    cannot = f"architecture {_shown(architecture)}: transformers cannot build it"
    with torch.random.fork_rng(devices=[]), explained_as(ModelError, cannot, "correct it in the experiment file"):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config)


def count_parameters(architecture: Mapping[str, Any], *, vocab_size: int) -> ParameterCount:
    """Count the parameters of an architecture without allocating them.

    Learned positions (gpt2) are counted as the architecture, or else transformers, has them.

    Raises:
        ModelError: as `build_model`.
    """
    return count_model_parameters(_build_unallocated(architecture, vocab_size, max_sequence_tokens=None))


def require_buildable(architecture: Mapping[str, Any], *, vocab_size: int, max_sequence_tokens: int) -> None:
    """Make sure that a model can be built, without allocating it; the arguments are those of `build_model`.

    Raises:
        ModelError: as `build_model`.
    """
    _build_unallocated(architecture, vocab_size, max_sequence_tokens)


def _build_unallocated(
    architecture: Mapping[str, Any], vocab_size: int, max_sequence_tokens: int | None
) -> "PreTrainedModel":
    import torch

    with torch.device("meta"):
        return build_model(
            architecture,
            vocab_size=vocab_size,
            end_of_document_id=0,
            max_sequence_tokens=max_sequence_tokens,
            seed=0,
        )


def count_model_parameters(model: "PreTrainedModel") -> ParameterCount:
    """Count the parameters of a model."""
    total = sum(parameter.numel() for parameter in model.parameters())
    ends = {
        id(parameter): parameter.numel()
        for layer in (model.get_input_embeddings(), model.get_output_embeddings())
        if layer is not None
        for parameter in layer.parameters()
    }
    return ParameterCount(total=total, non_embedding=total - sum(ends.values()))


def build_config(
    architecture: Mapping[str, Any], *, vocab_size: int, end_of_document_id: int, max_sequence_tokens: int | None
) -> "PretrainedConfig":
    """Return the transformers configuration of an architecture; the arguments are those of `build_model`.

    Raises:
        ModelError: for an unknown model_type or key, a value that does not fit, or too little room for a sequence.
    """
    from transformers import CONFIG_MAPPING, PretrainedConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    model_type = architecture.get("model_type")
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelError(
            f"architecture: model_type {model_type!r} is not a causal language model of transformers; "
            f"{nearest(str(model_type), list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))}"
        )
    config_class = CONFIG_MAPPING[model_type]
    stated = {key: value for key, value in architecture.items() if key != "model_type"}
    general = {field.name for field in fields(PretrainedConfig)}
    own = {field.name for field in fields(config_class)} - general
    known = own | set(config_class.attribute_map)
    for key in stated:
        if key not in known:
            raise ModelError(f"architecture: {model_type} has no key '{key}'; {nearest(key, sorted(known))}")
    stated_vocab_size = stated.get("vocab_size", vocab_size)
    if not isinstance(stated_vocab_size, int) or stated_vocab_size < vocab_size:
        raise ModelError(
            f"architecture: vocab_size {stated_vocab_size} is below the tokenizer's {vocab_size:,}; leave it out, or "
            "give at least that"
        )
    # No pad token: a model that is told of one may freeze that token's embedding, and nothing here needs it.
    derived = {
        "vocab_size": vocab_size,
        "bos_token_id": end_of_document_id,
        "eos_token_id": end_of_document_id,
        "pad_token_id": None,
    }
    max_tokens_key = next((key for key in _MAX_TOKENS_KEYS if key in known), None)
    if max_tokens_key is not None and max_sequence_tokens is not None:
        derived[max_tokens_key] = max_sequence_tokens + _GENERATED_TOKENS
    aliases = config_class.attribute_map
    named = {aliases.get(key, key) for key in stated}
    derived = {key: value for key, value in derived.items() if key in known and aliases.get(key, key) not in named}
    with explained_as(ModelError, f"architecture {_shown(architecture)}: no configuration", "correct it"):
        config = config_class(**derived, **stated)
    room = getattr(config, max_tokens_key) if max_tokens_key else None
    if (
        max_sequence_tokens is not None and isinstance(room, int) and room < max_sequence_tokens - 1
    ):  # the last token is predicted, never read
        stated_key = next(key for key in stated if aliases.get(key, key) == aliases.get(max_tokens_key, max_tokens_key))
        raise ModelError(
            f"architecture: {stated_key} {room:,} is below the sequence_length of {max_sequence_tokens - 1:,}; "
            "raise it, leave it out, or shorten the sequences"
        )
    return config


def _shown(architecture: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in architecture.items())
