"""How a selection comes from scores to a rank: which tables of dbt_like_sql it has, and which reads which.

A ranking is a score and steps, each a table with the columns of `difference_scores`, in which `rank_difference` is what
ranks, the higher the better. So each stands in the place of `difference_scores` for the next, and the last for the
cutoff and all that follows, whose SQL knows of nothing else. The plain difference has no step.
"""

from collections.abc import Mapping
from typing import Final

from miniplm_assets.core.recipe import key_of
from miniplm_assets.experiment import Selection
from miniplm_assets.experiment.selections import PER_BYTE
from miniplm_assets.kinds.agreement import CUTOFF, DIFFERENCES
from miniplm_assets.storage.sql_checks import Trait

LIKELIHOODS: Final = "likelihood_scores"
# The role of the scores of the one model that these are of.
MODEL_SCORES: Final = "model_scores"
PROXY_SCORES: Final = "proxy_scores"
PRIORS: Final = "prior_scores"
PRIOR_STATISTICS: Final = "prior_statistics"
RANDOM: Final = "random_scores"
PER_BYTE_SCORES: Final = "per_byte_scores"
SCALES: Final = "score_scales"
SCALE_CORRECTED: Final = "scale_corrected_scores"
LABELLED: Final = "labelled_scores"
REVERSED: Final = "reversed_scores"
PERTURBED: Final = "perturbed_scores"
DOMAIN_PLACES: Final = "domain_places"

TABLE_OF_SCORE: Final[Mapping[str, str]] = {
    "difference": DIFFERENCES,
    "teacher": LIKELIHOODS,
    "reference": LIKELIHOODS,
    "prior": PRIORS,
    "random": RANDOM,
}
# What a table of a ranking rests on, beside the one before it.
HELPERS: Final[Mapping[str, tuple[str, ...]]] = {
    PRIORS: ("token_priors", PRIOR_STATISTICS),
    SCALE_CORRECTED: (SCALES,),
    PERTURBED: (RANDOM,),
}
STEPS: Final = (PER_BYTE_SCORES, SCALE_CORRECTED, LABELLED, REVERSED, PERTURBED, DOMAIN_PLACES)
# A row for each candidate, with what it ranks by.
RANKINGS: Final = frozenset({*TABLE_OF_SCORE.values(), PROXY_SCORES, *STEPS})
# Of a pre_filter: what survives it, and the scores that the reference has of that.
SURVIVORS: Final = "surviving_sequences"
SURVIVING_REFERENCE_SCORES: Final = "surviving_reference_scores"
# Every table that only some selections have.
TABLES: Final = frozenset(
    {
        *RANKINGS,
        *(helper for helpers in HELPERS.values() for helper in helpers),
        SURVIVORS,
        SURVIVING_REFERENCE_SCORES,
    }
)
# Not one row for each candidate.
SMALL_TABLES: Final = frozenset({"token_priors", SCALES})


def ranking_of(selection: Selection) -> tuple[str, ...]:
    """Return the tables of a selection's ranking: that of its score, and of each step; the last one ranks."""
    taken = {
        PER_BYTE_SCORES: selection.rank_by == PER_BYTE,
        SCALE_CORRECTED: selection.scale_correction != "none",
        LABELLED: bool(selection.unwanted_domains),
        REVERSED: selection.order == "lowest",
        PERTURBED: selection.temperature is not None,
        DOMAIN_PLACES: selection.within is not None,
    }
    score = TABLE_OF_SCORE[selection.score] if selection.proxy is None else PROXY_SCORES
    return score, *(step for step in STEPS if taken[step])


def has_table(selection: Selection, table: str) -> bool:
    """Say whether a selection has a table of dbt_like_sql: all but those of other rankings."""
    if table not in TABLES:
        return True
    has = [*ranking_of(selection), *(helper for one in ranking_of(selection) for helper in HELPERS.get(one, ()))]
    if selection.pre_filter is not None:
        has += [SURVIVORS, *([SURVIVING_REFERENCE_SCORES] if "reference" in selection.models else [])]
    return table in has


def reads_survivors(selection: Selection, table: str) -> bool:
    """Say whether what survives a pre_filter stands in the place of `sequences`: for all that ranks, and the cutoff."""
    return selection.pre_filter is not None and table in (TABLES | {CUTOFF}) - {SURVIVORS}


def ranked_before(selection: Selection, table: str) -> str:
    """Return what stands in the place of `difference_scores` for a table of a selection."""
    ranking = ranking_of(selection)
    if table == SCALES:
        return ranking[0]
    return ranking[max(0, ranking.index(table) - 1)] if table in ranking else ranking[-1]


def rank_key(name: str, selection: Selection) -> str:
    """Return the key of the table that ranks a selection's candidates."""
    return key_of(ranking_of(selection)[-1], name)


def traits_of(selection: Selection) -> frozenset[Trait]:
    """Return what decides which tests of dbt_like_sql speak of a selection."""
    # A proxy's are partly predicted, and no difference of two log-probabilities.
    is_difference = selection.score == "difference" and selection.proxy is None
    traits: dict[Trait, bool] = {
        "plain": selection.is_plain,
        "ranked": not selection.is_plain,
        "differences": is_difference,
        "transformed": is_difference and not selection.is_plain,
        "within_domain": selection.within is not None,
    }
    return frozenset(trait for trait, has_it in traits.items() if has_it)
