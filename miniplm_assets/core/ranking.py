"""Every way to rank candidates in its plainest form, over frames in memory: what the SQL of dbt_like_sql must give.

The pipeline ranks in SQL, over any number of files and rows. These are the same rules written from their definitions,
by other means, for those who want to hold the one against the other: `python -m miniplm_assets verify`, and the tests.
A rank value is better the higher it is; `docs/selections.md` has the formula, the unit and the source of each.
"""

import math
from collections.abc import Collection, Sequence
from fractions import Fraction
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from miniplm_assets.core.sampling import hash_fractions

# Logarithms of priors are added up as whole multiples of this, so that no order of the terms counts.
NATS_PER_UNIT: Final = 2.0**-40
# Half of the smallest step of a hash fraction: its logarithm is finite.
SMALLEST_FRACTION: Final = 2.0**-54


def logprob_values(scores: pl.DataFrame, rank_by: str, scored_bytes: pl.DataFrame | None = None) -> pl.DataFrame:
    """Return sequence_id and value: one model's log-probability, in nats a token, a sequence or a byte.

    Args:
        scores: sequence_id, logprob_nats, num_scored_tokens.
        rank_by: `nats_per_token`, `nats_per_sequence` or `nats_per_byte`. A sequence in which nothing was scored has 0
            a token and 0 a byte.
        scored_bytes: sequence_id, num_scored_bytes; for `nats_per_byte`.
    """
    value = pl.col("logprob_nats")
    if rank_by == "nats_per_byte":
        assert scored_bytes is not None
        scores = scores.join(scored_bytes, on="sequence_id", validate="1:1")
        value = (value / pl.when(pl.col("num_scored_bytes") > 0).then(pl.col("num_scored_bytes"))).fill_null(0.0)
    if rank_by == "nats_per_token":
        tokens = pl.when(pl.col("num_scored_tokens") > 0).then(pl.col("num_scored_tokens"))
        value = (value / tokens).fill_null(0.0)
    return scores.select("sequence_id", value=value)


def difference_values(
    candidates: pl.DataFrame,
    *,
    teacher_scores: pl.DataFrame,
    reference_scores: pl.DataFrame,
    rank_by: str,
    scale_correction: str,
    predicted: pl.DataFrame | None = None,
    scored_bytes: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Return sequence_id and value: log p_teacher - log p_reference, as it is or brought to one scale.

    Args:
        candidates: sequence_id, domain.
        teacher_scores: sequence_id, logprob_nats, num_scored_tokens.
        reference_scores: the same under the reference.
        rank_by: as in `logprob_values`.
        scale_correction: `none`; `standardised`: of each model's values, the distance from the mean of the domain in
            standard deviations (0 where they do not vary); `residual`: the teacher's values less those that one
            regression on the reference's, over all candidates, gives.
        predicted: of the candidates without scores, sequence_id, predicted_difference_nats_per_token and
            num_scored_tokens.
        scored_bytes: as in `logprob_values`.
    """
    if scale_correction == "none":
        joined = teacher_scores.join(reference_scores, on="sequence_id", validate="1:1", suffix="_reference")
        nats = pl.col("logprob_nats") - pl.col("logprob_nats_reference")
        scores = joined.select("sequence_id", "num_scored_tokens", logprob_nats=nats)
        values = logprob_values(scores.join(candidates, on="sequence_id", how="semi"), rank_by, scored_bytes)
        return values if predicted is None else pl.concat([values, _predicted_values(predicted, rank_by)])
    both = candidates.select("sequence_id", "domain")
    for who, scores in (("teacher", teacher_scores), ("reference", reference_scores)):
        values = logprob_values(scores, rank_by).rename({"value": who})
        both = both.join(values, on="sequence_id", validate="1:1")
    teacher, reference = pl.col("teacher"), pl.col("reference")
    if scale_correction == "standardised":
        value = _standardised(teacher) - _standardised(reference)
    else:
        variance = both["reference"].var(ddof=0)
        covariance = both.select(pl.cov(teacher, reference, ddof=0)).item()
        slope = covariance / variance if variance else 0.0
        intercept = both["teacher"].mean() - slope * both["reference"].mean()  # type: ignore[operator]
        value = teacher - (intercept + slope * reference)
    return both.select("sequence_id", value=value)


def _predicted_values(predicted: pl.DataFrame, rank_by: str) -> pl.DataFrame:
    value = pl.col("predicted_difference_nats_per_token")
    return predicted.select(
        "sequence_id", value=value * pl.col("num_scored_tokens") if rank_by == "nats_per_sequence" else value
    )


def _standardised(value: pl.Expr) -> pl.Expr:
    spread = value.std(ddof=0)
    return pl.when(spread > 0).then((value - value.mean()) / spread).otherwise(0.0).over("domain")


def random_values(sequence_ids: pl.Series, *, seed: int) -> pl.DataFrame:
    """Return sequence_id and value: a number in [0, 1) by the hash of the id and the seed."""
    values = hash_fractions(sequence_ids.to_numpy(), seed=seed)
    return pl.DataFrame({"sequence_id": sequence_ids, "value": values})


def prior_values(sequence_ids: pl.Series, token_ids: Sequence[NDArray[Any]]) -> pl.DataFrame:
    """Return sequence_id and value: minus the share of the candidates that are as usual as this one, or more so.

    After the token-prior filter (Seo et al. 2025, arXiv 2509.18577, section 3), with the frequencies of the candidates'
    own tokens as the prior p: of each sequence the mean of log p and the standard deviation of p (not of its logarithm)
    over its tokens; of each of the two the distance from the median of all candidates. Published is to drop as many of
    the one's largest distances as of the other's until enough are left: to keep those whose larger share is smallest.

    Args:
        sequence_ids: of the candidates.
        token_ids: of each.
    """
    counts = np.bincount(np.concatenate(token_ids))
    total = int(counts.sum())
    log_units = np.array([round(math.log(count / total) / NATS_PER_UNIT) if count else 0 for count in counts])
    means, deviations = [], []
    for tokens in token_ids:
        found, n = [int(count) for count in counts[tokens]], len(tokens)
        means.append(int(log_units[tokens].sum()) * NATS_PER_UNIT / n)
        squares = n * sum(count * count for count in found) - sum(found) ** 2
        deviations.append(math.sqrt(squares / (n * (n - 1))) / total if n > 1 else 0.0)
    shares = [_share_as_near(np.array(values)) for values in (means, deviations)]
    return pl.DataFrame({"sequence_id": sequence_ids, "value": -np.maximum(*shares)})


def _share_as_near(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of the values that are as near to the median (of an even number, the lower) or nearer."""
    distances = np.abs(values - np.sort(values)[(len(values) - 1) // 2])
    nearer: NDArray[np.float64] = np.searchsorted(np.sort(distances), distances, side="right") / len(values)
    return nearer


def perturbed(values: pl.DataFrame, *, temperature: float, seed: int) -> pl.DataFrame:
    """Return the values divided by the temperature, with Gumbel noise: the highest are then a draw.

    Taking the highest k draws k without putting back, each time in proportion to exp(value / temperature) (Gumbel
    top-k, Kool et al. 2019, arXiv 1903.06059). The noise follows from the hash of the id and the seed.
    """
    fractions = hash_fractions(values["sequence_id"].to_numpy(), seed=seed)
    noise = pl.Series(-np.log(-np.log(np.maximum(fractions, SMALLEST_FRACTION))))
    return values.with_columns(value=pl.col("value") / temperature + noise)


def within_domains(
    ranked: pl.DataFrame, *, keep_fraction: float | None = None, token_budget: int | None = None
) -> pl.DataFrame:
    """Return the candidates with values by which the best of all are the best of each domain, in fair shares.

    With a fraction, a domain's quota is that share of its candidates, and the value how many places a candidate is
    above it: those above all quotas come first, then the next of each domain by the largest remainder. With a token
    budget the quota is the domain's share of it in tokens, and the value how many are missing when its turn comes. Both
    are given as shares of all candidates, or of all their tokens.

    Args:
        ranked: sequence_id, domain, num_tokens, value.
        keep_fraction: share of the candidates.
        token_budget: instead, tokens.
    """
    num_candidates, num_tokens = len(ranked), int(ranked["num_tokens"].sum())
    values: dict[int, float] = {}
    for _, rows in ranked.sort("value", "sequence_id", descending=[True, False]).group_by("domain"):
        tokens_of_domain, tokens_before = int(rows["num_tokens"].sum()), 0
        for place, (sequence_id, tokens) in enumerate(rows.select("sequence_id", "num_tokens").iter_rows(), 1):
            if keep_fraction is not None:
                values[sequence_id] = float(Fraction(str(keep_fraction)) * len(rows) - place) / num_candidates
            else:
                assert token_budget is not None
                missing = min(token_budget, num_tokens) * tokens_of_domain - tokens_before * num_tokens
                values[sequence_id] = float(missing) / (float(num_tokens) * num_tokens)
            tokens_before += tokens
    return ranked.with_columns(value=pl.col("sequence_id").replace_strict(values, return_dtype=pl.Float64))


def best_first(
    candidates: pl.DataFrame,
    *,
    score: str = "difference",
    teacher_scores: pl.DataFrame | None = None,
    reference_scores: pl.DataFrame | None = None,
    predicted: pl.DataFrame | None = None,
    scored_bytes: pl.DataFrame | None = None,
    token_ids: Sequence[NDArray[Any]] = (),
    rank_by: str = "nats_per_token",
    scale_correction: str = "none",
    unwanted_domains: Collection[str] = (),
    order: str = "highest",
    temperature: float | None = None,
    seed: int | None = None,
    within: str | None = None,
    keep_fraction: float | None = None,
    token_budget: int | None = None,
) -> pl.DataFrame:
    """Return the candidates of a selection, the best first, with the value that ranks them.

    Args:
        candidates: sequence_id, domain, num_tokens.
        score: what they are ranked by: `difference`, `teacher`, `reference`, `prior` or `random`.
        teacher_scores: sequence_id, logprob_nats, num_scored_tokens; where the score asks the teacher.
        reference_scores: the same, where it asks the reference.
        predicted: as in `difference_values`, where a proxy stands for both.
        scored_bytes: as in `logprob_values`.
        token_ids: of each candidate, where the score is `prior`.
        rank_by: as in `logprob_values`.
        scale_correction: as in `difference_values`.
        unwanted_domains: where the score is `random`: after all others.
        order: `highest` or `lowest`: which end comes first.
        temperature: as in `perturbed`; None draws nothing.
        seed: of what is drawn.
        within: `domain` ranks as `within_domains` does.
        keep_fraction: share of the candidates.
        token_budget: instead, tokens.

    Returns:
        sequence_id, domain, num_tokens, value, and value_in_domain, which is what `value` is without `within`; of equal
        values the smaller id comes first.
    """
    ids = candidates["sequence_id"]
    if score == "prior":
        values = prior_values(ids, token_ids)
    elif score == "random":
        values = random_values(ids, seed=seed or 0)
        is_unwanted = candidates["domain"].is_in(list(unwanted_domains))
        values = values.with_columns(value=pl.col("value") - is_unwanted.cast(pl.Float64))
    elif score == "difference":
        assert teacher_scores is not None and reference_scores is not None
        values = difference_values(
            candidates,
            teacher_scores=teacher_scores,
            reference_scores=reference_scores,
            rank_by=rank_by,
            scale_correction=scale_correction,
            predicted=predicted,
            scored_bytes=scored_bytes,
        )
    else:
        scores = teacher_scores if score == "teacher" else reference_scores
        assert scores is not None
        values = logprob_values(scores, rank_by, scored_bytes)
    if order == "lowest":
        values = values.with_columns(value=0.0 - pl.col("value"))
    if temperature is not None:
        values = perturbed(values, temperature=temperature, seed=seed or 0)
    ranked = candidates.select("sequence_id", "domain", "num_tokens").join(values, on="sequence_id", validate="1:1")
    ranked = ranked.with_columns(value_in_domain="value")
    if within is not None:
        ranked = within_domains(ranked, keep_fraction=keep_fraction, token_budget=token_budget)
    return ranked.sort("value", "sequence_id", descending=[True, False])


def kept_sequences(
    candidates: pl.DataFrame, *, keep_fraction: float | None = None, token_budget: int | None = None, **ranking: Any
) -> set[int]:
    """Return the ids of the sequences that a selection keeps: the first of `best_first`.

    Args:
        candidates: sequence_id, domain, num_tokens.
        keep_fraction: share of the candidates, rounded down to whole sequences, at least one.
        token_budget: instead, keep the best until they hold this many tokens.
        ranking: as in `best_first`.
    """
    ranked = best_first(candidates, keep_fraction=keep_fraction, token_budget=token_budget, **ranking)
    return set(ranked["sequence_id"].head(num_kept(ranked, keep_fraction=keep_fraction, token_budget=token_budget)))


def num_kept(ranked: pl.DataFrame, *, keep_fraction: float | None, token_budget: int | None) -> int:
    """Return how many of the best are kept.

    Args:
        ranked: num_tokens, the best first.
        keep_fraction: as in `kept_sequences`.
        token_budget: as there.
    """
    if keep_fraction is not None:
        return max(1, int(Fraction(str(keep_fraction)) * len(ranked)))
    tokens_before = ranked["num_tokens"].cum_sum() - ranked["num_tokens"]
    return int((tokens_before < token_budget).sum())
