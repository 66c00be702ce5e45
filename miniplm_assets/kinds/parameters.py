"""What a selection ranks by and how much it keeps: the values that its SQL is run with."""

from collections.abc import Collection
from typing import ClassVar, Final, Literal

from pydantic import Field

from miniplm_assets.experiment import Experiment, Processing, Selection
from miniplm_assets.experiment.selections import PER_BYTE, ScaleCorrection, Score
from miniplm_assets.experiment.settings import Settings

# What the cutoff is in; see `unit_of`, and docs/selections.md.
Unit = Literal[
    "nats_per_token",
    "nats_per_sequence",
    "nats_per_byte",
    "standard_deviations",
    "prior_share",
    "random_number",
    "perturbed_score",
    "share_above_quota",
]
WORDS_OF_UNIT: Final[dict[str, str]] = {
    "nats_per_token": "nats per token",
    "nats_per_sequence": "nats per sequence",
    "nats_per_byte": "nats per byte",
    "standard_deviations": "standard deviations",
    "prior_share": "minus the share of the candidates that are as usual",
    "random_number": "a random number",
    "perturbed_score": "score by temperature, with Gumbel noise",
    "share_above_quota": "how far above the quota of its domain",
}


class SelectionParameters(Settings):
    """Values of the parameters of dbt_like_sql, by their names there; of a model that does not use one, its default.

    The defaults are those of `Selection`. What is no parameter of any SQL is there for those who rank in other ways, or
    says where the corpus files of a table are made.
    """

    runtime_only: ClassVar[frozenset[str]] = frozenset({"processing"})

    score: Score = "difference"
    rank_by: Unit = "nats_per_token"
    scale_correction: ScaleCorrection = "none"
    order: Literal["highest", "lowest"] = "highest"
    temperature: float | None = None
    seed: int | None = None
    unwanted_domains: tuple[str, ...] = ()
    within: Literal["domain"] | None = None
    keep_fraction: float | None = None
    token_budget: int | None = None
    processing: Processing = Field(Processing(), exclude=True)  # no value of any SQL


def parameters_of(
    experiment: Experiment, selection: Selection, names: Collection[str] | None = None
) -> SelectionParameters:
    """Return the parameters of a selection; where names are given, those alone: of a table of dbt_like_sql.

    What ranks by nats per byte is a table of its own, which divides what the tables before it have per sequence.
    """
    wanted = SelectionParameters.model_fields.keys() - {"processing"} if names is None else names
    values = {name: getattr(selection, name) for name in wanted}
    if names is not None and values.get("rank_by") == PER_BYTE:
        values["rank_by"] = "nats_per_sequence"
    if "seed" in values:
        values["seed"] = seed_of(experiment, selection)
    return SelectionParameters.model_validate(values)


def seed_of(experiment: Experiment, selection: Selection) -> int | None:
    """Return what a selection draws with: its own seed or the experiment's; None where nothing is drawn."""
    if not selection.is_drawn:
        return None
    return experiment.seed if selection.seed is None else selection.seed


def unit_of(selection: Selection) -> Unit:
    """Return what the values that rank a selection's candidates are in: that of the last step of its ranking."""
    if selection.within is not None:
        return "share_above_quota"
    if selection.temperature is not None:
        return "perturbed_score"
    if selection.scale_correction == "standardised":
        return "standard_deviations"
    if selection.score == "prior":
        return "prior_share"
    return "random_number" if selection.score == "random" else selection.rank_by
