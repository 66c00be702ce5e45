"""What an experiment may say of a selection: what the candidates are ranked by, and which of them are kept."""

from typing import Final, Literal

from pydantic import Field, model_validator

from miniplm_assets.experiment.models import Owners, Seed
from miniplm_assets.experiment.proxy import Proxy
from miniplm_assets.experiment.scoring import Agreement, Rescoring
from miniplm_assets.experiment.settings import Settings

Who = Literal["teacher", "reference"]
Score = Literal["difference", "teacher", "reference", "prior", "random"]
RankBy = Literal["nats_per_token", "nats_per_sequence", "nats_per_byte"]
ScaleCorrection = Literal["none", "standardised", "residual"]

DIFFERENCE: Final = "difference"
PER_BYTE: Final = "nats_per_byte"
# Whose log-probabilities a score is made of; of the others, of no model's.
MODELS_OF_SCORE: Final[dict[str, tuple[Who, ...]]] = {
    DIFFERENCE: ("teacher", "reference"),
    "teacher": ("teacher",),
    "reference": ("reference",),
    "prior": (),
    "random": (),
}


class Selection(Settings):
    """Which candidates are kept: Difference Sampling, or what it is held against."""

    score: Score = Field(
        DIFFERENCE,
        description="difference: log p_teacher - log p_reference. teacher, reference: one model's log-probability. "
        "prior: how usual the frequencies of its tokens are, without a model. random: a hash of the sequence id",
    )
    teacher: str | None = Field(None, description="of score difference or teacher")
    reference: str | None = Field(None, description="of score difference or reference")
    tokenizer: str | None = Field(None, description="of score prior or random, which name no model: whose sequences")
    keep_fraction: float | None = Field(None, gt=0, le=1, description="alpha: share of the candidates")
    token_budget: int | None = Field(None, ge=1, description="keep the best until they hold this many tokens")
    rank_by: RankBy = Field(
        "nats_per_token",
        description="nats_per_token as published, nats_per_sequence as in the paper's formula, nats_per_byte for a "
        "teacher and a reference of different tokenizers",
    )
    scale_correction: ScaleCorrection = Field(
        "none",
        description="of the difference, against a teacher so large that it ranks alone. standardised: each model's "
        "log-probabilities in standard deviations from the mean of the domain. residual: what the reference's do not "
        "explain of the teacher's, by one regression over all candidates",
    )
    order: Literal["highest", "lowest"] = Field("highest", description="which end of the ranking is kept")
    temperature: float | None = Field(
        None,
        gt=0,
        description="draw in proportion to exp(score / temperature), without putting back, in place of the very best; "
        "in the unit of the score",
    )
    seed: Seed | None = Field(None, description="of score random and of temperature; default: the experiment's one")
    unwanted_domains: tuple[str, ...] = Field(
        (),
        description="of score random: kept only where all others do not suffice; the control that a filter by label is",
    )
    within: Literal["domain"] | None = Field(None, description="domain: keep the same share of each domain")
    pre_filter: str | None = Field(
        None,
        description="another selection: only what it keeps is a candidate here, and scored by the teacher; "
        "keep_fraction is then of what survives",
    )
    proxy: Proxy | None = Field(
        None, description="teacher and reference score a share alone; a small model learns it and predicts the others"
    )
    agreement: Agreement | None = Field(None, description="a gate: a sample must score alike in another way")
    rescoring: Rescoring | None = Field(None, description="the band around another selection's cutoff is scored again")
    owners: Owners = ()

    @model_validator(mode="after")
    def _one_amount(self) -> "Selection":
        if (self.keep_fraction is None) == (self.token_budget is None):
            raise ValueError("give exactly one of keep_fraction and token_budget")
        return self

    @property
    def models(self) -> dict[Who, str]:
        """The names of the models that it ranks by; none are left out once the experiment is checked."""
        named = ((who, getattr(self, who)) for who in MODELS_OF_SCORE[self.score])
        return {who: name for who, name in named if name is not None}

    def spares(self, who: Who) -> bool:
        """Say whether it asks a model for the scores of some candidates alone."""
        return self.proxy is not None or (who == "teacher" and self.pre_filter is not None)

    @property
    def is_drawn(self) -> bool:
        """Whether random numbers decide."""
        return self.score == "random" or self.temperature is not None

    @property
    def is_control(self) -> bool:
        """Whether it is made by chance, or is the wrong end of the differences: nobody expects it to help."""
        return self.score == "random" or (self.score == DIFFERENCE and self.order == "lowest")

    @property
    def is_plain(self) -> bool:
        """Whether it is Difference Sampling as published: the highest differences of the whole corpus, as they are."""
        return (
            self.score == DIFFERENCE
            and self.rank_by != PER_BYTE
            and self.order == "highest"
            and self.scale_correction == "none"
            and self.temperature is None
            and self.within is None
            and self.pre_filter is None
            and self.proxy is None
        )
