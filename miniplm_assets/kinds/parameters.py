"""What a selection ranks by and how much it keeps: the values that its SQL is run with."""

from collections.abc import Collection
from typing import Literal

from miniplm_assets.experiment import Selection
from miniplm_assets.experiment.settings import Settings


class SelectionParameters(Settings):
    """Values of the parameters of dbt_like_sql, by their names there; of a model that does not use one, its default.

    The defaults are those of `Selection`.
    """

    rank_by: Literal["nats_per_token", "nats_per_sequence"] = "nats_per_token"
    keep_fraction: float | None = None
    token_budget: int | None = None


def parameters_of(selection: Selection, names: Collection[str] | None = None) -> SelectionParameters:
    """Return the parameters of a selection; where names are given, those alone."""
    wanted = SelectionParameters.model_fields.keys() if names is None else names
    return SelectionParameters.model_validate({name: getattr(selection, name) for name in wanted})
