"""How unlike the texts of a set are: the mean distance of two of them, each as the mean of its tokens' embeddings.

A text is the mean of its tokens' embeddings, of which a frequent token weighs less: a / (a + p(token)) with a = 0.001
(smooth inverse frequency, Arora et al. 2017, "A simple but tough-to-beat baseline for sentence embeddings", without
their step of taking the common component away). Two texts are as far apart as one less the cosine of their angle.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# As published; anything from 0.0001 to 0.01 does about as well.
SMOOTHING: Final = 1e-3
NUM_RESAMPLES: Final = 1_000
# Of the values that resampling gives, those that the interval leaves out on both sides together.
LEFT_OUT: Final = 0.05


@dataclass(frozen=True)
class Diversity:
    """The mean distance of two texts of a set.

    Attributes:
        mean: over all pairs.
        low: lower end of its 95 % interval, by resampling the texts (percentile bootstrap).
        high: upper end.
    """

    mean: float
    low: float
    high: float


def token_weights(token_ids: Sequence[NDArray[Any]], num_tokens: int) -> NDArray[np.float64]:
    """Return the weight of each token.

    Args:
        token_ids: of texts that stand for all, which say how frequent a token is.
        num_tokens: of the vocabulary.
    """
    counts = np.bincount(np.concatenate(token_ids), minlength=num_tokens)
    weights: NDArray[np.float64] = SMOOTHING / (SMOOTHING + counts / counts.sum())
    return weights


def directions(
    token_ids: Sequence[NDArray[Any]], embeddings: NDArray[Any], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return each text as a vector of length 1, of shape (num_texts, size); of length 0 where its tokens cancel out.

    Args:
        token_ids: of each text; none is empty.
        embeddings: of all tokens, of shape (num_tokens, size).
        weights: of all tokens.
    """
    texts = np.stack([weights[tokens] @ embeddings[tokens].astype(np.float64) for tokens in token_ids])
    lengths = np.linalg.norm(texts, axis=1, keepdims=True)
    unit: NDArray[np.float64] = np.divide(texts, lengths, out=np.zeros_like(texts), where=lengths > 0)
    return unit


def diversity(texts: NDArray[np.float64], *, seed: int) -> Diversity | None:
    """Return the mean distance over all pairs of texts, with its interval; None of fewer than two.

    Args:
        texts: as `directions` gives them.
        seed: of the resampling.
    """
    num_texts = len(texts)
    if num_texts < 2:
        return None
    distances = 1 - texts @ texts.T
    np.fill_diagonal(distances, 0.0)  # not quite 0 by rounding
    drawn = np.random.default_rng(seed).multinomial(num_texts, np.full(num_texts, 1 / num_texts), NUM_RESAMPLES)
    # A text that is drawn twice is no pair with itself: its distance of 0 would pull the mean down.
    num_pairs = num_texts**2 - (drawn**2).sum(1)
    means = ((drawn @ distances) * drawn).sum(1) / np.maximum(num_pairs, 1)
    low, high = np.quantile(means[num_pairs > 0], [LEFT_OUT / 2, 1 - LEFT_OUT / 2])
    return Diversity(float(distances.sum() / (num_texts * (num_texts - 1))), float(low), float(high))
