"""The losses that a student may be trained with: one file each, one line each in the registry below."""

from typing import Any, Final

from miniplm_assets.experiment.objectives import CrossEntropy, MiniLlm, SparseKd, TokenSelection, VanillaKd
from miniplm_assets.training.objectives import cross_entropy, minillm, sparse_kd, token_selection, vanilla_kd
from miniplm_assets.training.objectives.objective import Input, Loss, Objective, ObjectiveKind, Setting

__all__ = ["Input", "Loss", "Objective", "ObjectiveKind", "Setting", "objective_of"]

OBJECTIVES: Final[dict[type[Any], ObjectiveKind[Any]]] = {
    CrossEntropy: cross_entropy.KIND,
    VanillaKd: vanilla_kd.KIND,
    MiniLlm: minillm.KIND,
    SparseKd: sparse_kd.KIND,
    TokenSelection: token_selection.KIND,
}


def objective_of(settings: Any) -> ObjectiveKind[Any]:
    """Return the objective that the settings of one ask for."""
    return OBJECTIVES[type(settings)]
