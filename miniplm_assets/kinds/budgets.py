"""How many tokens a student is trained on: those that its file says, or as many as cost what another student costs."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from miniplm_assets.core.flops import equal_flops_tokens
from miniplm_assets.experiment import Experiment, Student, StudentTraining
from miniplm_assets.experiment.objectives import CrossEntropy, Objective
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.training.objectives import objective_of

# Of the other student's inputs, beside those of its own.
OTHER: Final = "same_flops_as_"

CountParameters = Callable[[Mapping[str, Any]], int | None]
ParametersOf = Callable[[str], int | None]


class OtherStudent(Settings):
    """The student whose training FLOPs are the measure.

    Attributes:
        architecture: `model_type` and its settings.
        objective: that it is trained with.
        token_budget: that it is trained on.
    """

    architecture: dict[str, Any]
    objective: Objective
    token_budget: int


class Budgeted(Settings):
    """A student, as far as its training costs something.

    Attributes:
        architecture: `model_type` and its settings.
        training: budget, schedule and optimiser.
        objective: the loss.
        other: the student that it is to cost as much as, in place of a token budget.
    """

    architecture: dict[str, Any]
    training: StudentTraining
    objective: Objective = CrossEntropy()
    other: OtherStudent | None = None


def other_of(experiment: Experiment, student: Student) -> OtherStudent | None:
    """Return the student that one is to cost as much as: at the end of the chain, where it names such a one itself."""
    if student.training.same_flops_as is None:
        return None
    other = student
    while other.training.same_flops_as is not None:
        other = experiment.students[other.training.same_flops_as]
    assert other.training.token_budget is not None, "a chain ends with a student that has a budget"
    return OtherStudent(
        architecture=experiment.architectures[other.architecture],
        objective=other.objective,
        token_budget=other.training.token_budget,
    )


def models_needed(other: OtherStudent | None) -> dict[str, tuple[str, str]]:
    """Return what must be there to know what the other student costs: by role, the kind and the name of a model."""
    if other is None:
        return {}
    kind = objective_of(other.objective)
    inputs = kind.inputs(other.objective)
    return {f"{OTHER}{role}": inputs[role] for role in kind.models_beside(other.objective)}


def flops_per_token(objective: Objective, num_parameters: int | None, parameters_of: ParametersOf) -> int | None:
    """Return what training on a token costs; None where it is not known how large a model is.

    Args:
        objective: that the student is trained with.
        num_parameters: of the student.
        parameters_of: of a model that runs beside it, by role.
    """
    kind = objective_of(objective)
    others = {role: parameters_of(role) for role in kind.models_beside(objective)}
    known = {role: number for role, number in others.items() if number is not None}
    if num_parameters is None or len(known) < len(others):
        return None
    return kind.flops_per_token(objective, num_parameters, known)


def token_budget(student: Budgeted, *, count: CountParameters, parameters_of: ParametersOf) -> int | None:
    """Return the tokens that a student is trained on; None where it is not known how large a model is.

    Args:
        student: its settings.
        count: gives the parameters of an architecture.
        parameters_of: gives those of a model, by the role that it plays for the student, or, behind `OTHER`, for the
            other.
    """
    other = student.other
    if other is None:
        return student.training.token_budget
    own = flops_per_token(student.objective, count(student.architecture), parameters_of)
    others = flops_per_token(other.objective, count(other.architecture), lambda role: parameters_of(f"{OTHER}{role}"))
    if own is None or others is None:
        return None
    return equal_flops_tokens(other.token_budget, flops_per_token=others, own_flops_per_token=own)
