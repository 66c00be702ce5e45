"""What training and scoring a model costs: tokens, floating-point operations, disk, and what goes through it."""

import math
from collections.abc import Iterator
from typing import Any, Final

from miniplm_assets.core.flops import training_flops
from miniplm_assets.core.recipe import canonical_json
from miniplm_assets.core.splits import VALIDATION
from miniplm_assets.experiment import HubModel, ProxyTraining, Training
from miniplm_assets.experiment.objectives import CrossEntropy, Objective, TeacherBeside
from miniplm_assets.kinds.budgets import flops_per_token
from miniplm_assets.kinds.sequences import SEQUENCES
from miniplm_assets.kinds.tokenizer import TOKENIZER
from miniplm_assets.lineage.kind import Cost, Node
from miniplm_assets.lineage.sizes import Sizes
from miniplm_assets.lm.device_speed import ModelPass
from miniplm_assets.lm.stored_parameters import count_stored_parameters
from miniplm_assets.training.objectives import objective_of

BYTES_PER_PARAMETER: Final = 4


def training_cost(
    node: Node[Any],
    sizes: Sizes,
    *,
    token_budget: int | None,
    objective: Objective | None = None,
    num_models: int = 1,
) -> Cost:
    """Return what training some models of one shape takes, held-out losses along the way included.

    Args:
        node: its settings have an architecture and a training.
        sizes: of what it reads.
        token_budget: of each model; None where it is not known.
        objective: that they are trained with; cross-entropy where absent.
        num_models: how many.
    """
    training: Training = node.settings.training
    if token_budget is None:
        return Cost()
    num_tokens = token_budget * num_models
    num_parameters = num_parameters_of(node, sizes)
    objective = objective or CrossEntropy()
    per_token = flops_per_token(
        objective, num_parameters, lambda role: num_parameters_of(sizes.input_node(node, role), sizes)
    )
    if num_parameters is None or per_token is None:
        return Cost(num_tokens=num_tokens)
    held_out_tokens = training.num_held_out_sequences * node.settings.max_sequence_tokens
    per_split = sizes.tokens_per_split(node.inputs[SEQUENCES.name])
    if per_split is not None:
        held_out_tokens = min(held_out_tokens, per_split[VALIDATION])
    measured = held_out_tokens * training.num_evaluations * num_models
    shape = _shape(node, sizes, num_parameters)
    at_once = training.sequences_per_device or math.ceil(training.sequences_per_step / training.num_processes)
    return Cost(
        num_tokens=num_tokens,
        flops=per_token * num_tokens,
        num_bytes=num_parameters * BYTES_PER_PARAMETER * num_models,
        passes=(
            ModelPass(
                **shape, num_tokens=num_tokens, is_training=True, dtype=training.dtype, sequences_at_once=at_once
            ),
            ModelPass(**shape, num_tokens=measured),
            *_passes_beside(node, sizes, objective, num_tokens),
        ),
    )


def _passes_beside(node: Node[Any], sizes: Sizes, objective: Objective, num_tokens: int) -> Iterator[ModelPass]:
    """Return what goes through the models that run beside a student."""
    dtype = objective.dtype if isinstance(objective, TeacherBeside) else "float32"
    for role in objective_of(objective).models_beside(objective):
        model = sizes.input_node(node, role)
        num_parameters = num_parameters_of(model, sizes)
        if num_parameters is not None:
            yield ModelPass(**_shape(model, sizes, num_parameters), num_tokens=num_tokens, dtype=dtype)


def scoring_cost(model: Node[Any], sizes: Sizes, *, num_tokens: int, dtype: str, num_bytes: int | None = None) -> Cost:
    """Return what scoring so many tokens takes.

    Args:
        model: the node of the model.
        sizes: of what it reads.
        num_tokens: that are scored.
        dtype: that is computed in.
        num_bytes: that the scores take.
    """
    num_parameters = num_parameters_of(model, sizes)
    if num_parameters is None:
        return Cost(num_tokens=num_tokens, num_bytes=num_bytes)
    scored = ModelPass(**_shape(model, sizes, num_parameters), num_tokens=num_tokens, dtype=dtype)
    return Cost(num_tokens=num_tokens, flops=scored.flops, num_bytes=num_bytes, passes=(scored,))


def regression_cost(model: Node[Any], sizes: Sizes, *, training: ProxyTraining, num_held_out_tokens: int) -> Cost:
    """Return what it takes to teach a model a number of each sequence.

    Args:
        model: the node of the model that it begins as; its output layer, which it lacks, is counted.
        sizes: of what it reads.
        training: budget and dtype.
        num_held_out_tokens: that it is asked about at the end.
    """
    num_tokens, num_parameters = training.token_budget, num_parameters_of(model, sizes)
    if num_parameters is None:
        return Cost(num_tokens=num_tokens)
    shape = _shape(model, sizes, num_parameters)
    at_once = training.sequences_per_device or training.sequences_per_step
    learning = ModelPass(
        **shape, num_tokens=num_tokens, is_training=True, dtype=training.dtype, sequences_at_once=at_once
    )
    return Cost(
        num_tokens=num_tokens,
        flops=training_flops(num_parameters, num_tokens),
        num_bytes=num_parameters * BYTES_PER_PARAMETER,
        passes=(learning, ModelPass(**shape, num_tokens=num_held_out_tokens, dtype=training.dtype)),
    )


def num_parameters_of(node: Node[Any], sizes: Sizes) -> int | None:
    """Return the parameters of a model: by its architecture, else as its files have them, else as is stated.

    Raises:
        ModelError: if its files are not what their names say.
    """
    settings = node.settings
    if hasattr(settings, "architecture"):
        return sizes.num_parameters(settings.architecture, sizes.input_node(node, TOKENIZER.name))
    folder = sizes.folder_of(node)
    if folder is not None:
        return count_stored_parameters(folder)
    return settings.model.num_parameters if isinstance(settings.model, HubModel) else None


def _shape(node: Node[Any], sizes: Sizes, num_parameters: int) -> dict[str, Any]:
    settings = node.settings
    shape = {"num_parameters": num_parameters, "max_sequence_tokens": settings.max_sequence_tokens}
    if not hasattr(settings, "architecture"):
        return shape
    vocab_size = sizes.vocab_size(node.inputs[TOKENIZER.name])
    return shape | {"architecture": canonical_json(settings.architecture), "vocab_size": vocab_size}
