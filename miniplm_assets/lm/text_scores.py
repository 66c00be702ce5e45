"""Scoring sequences of another tokenizer's text: what of it is asked for is marked, and long ones are read in windows.

Where the tokens of a sequence come from another tokenizer than those that it was cut by, some are context alone
(`corpus.retokenised`), and there may be more of them than a model reads at once. Then it reads windows of `max_tokens`
tokens, each of which begins half a window before what the one before it has left over:

    tokens    0 1 2 3 4 5 6 7 8 9 10 11 12      max_tokens = 8
    windows   0 1 2 3 4 5 6 7                   asked for 1 to 7
                      4 5 6 7 8 9 10 11         asked for 8 to 11
                              8 9 10 11 12      asked for 12

So each token is asked for once, with half a window before it at least, or all that comes before it.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from miniplm_assets.lm.scorer import Scorer
from miniplm_assets.lm.scores import Scores, TokenRule, sum_by_sequence
from miniplm_assets.storage.tables import CONTEXT_PLACES


class TextScorer:
    """Scores sequences that were tokenised anew.

    Attributes:
        columns: of such sequences, that `score` needs.
    """

    columns: Final = ("sequence_id", "token_ids", CONTEXT_PLACES, "num_scored_tokens")

    def __init__(self, scorer: Scorer, *, rule: TokenRule, max_tokens: int) -> None:
        """Wrap a scorer.

        Args:
            scorer: of the model.
            rule: by which it scores, without the token that it reads in front of each sequence.
            max_tokens: of a window.
        """
        self._scorer, self._rule, self._max_tokens = scorer, rule, max_tokens

    def score(self, rows: pl.DataFrame) -> Scores:
        """Return the scores of sequences: num_scored_tokens counts those of the tokenizer that cut them.

        Args:
            rows: the columns `columns`.

        Raises:
            ScoringError: as `Scorer.score`.
        """
        windows: list[NDArray[np.int32]] = []
        owners: list[int] = []
        # Of each token that the scorer scores, whether it counts.
        counts: list[NDArray[np.bool_]] = [np.empty(0, np.bool_)]
        for place, (tokens, context) in enumerate(zip(rows["token_ids"], rows[CONTEXT_PLACES], strict=True)):
            token_ids = tokens.to_numpy().astype(np.int32, copy=False)
            is_asked = np.ones(len(token_ids), np.bool_)
            is_asked[context.to_numpy()] = False
            for start, first, stop in windows_of(len(token_ids), self._max_tokens):
                window, asked = token_ids[start:stop], is_asked[start + 1 : stop].copy()
                asked[: first - start - 1] = False
                if not asked.any():
                    continue
                scored = self._rule.scored(window)
                assert scored[asked].all(), "what has no prediction is context"
                windows.append(window)
                owners.append(place)
                counts.append(asked[scored])
        ids, counted = rows["sequence_id"].to_numpy(), np.concatenate(counts)
        window_of_token = np.repeat(np.array(owners, dtype=np.intp), [len(one) for one in counts[1:]])
        logprobs = np.empty(0, np.float32)
        if windows:
            logprobs = self._scorer.score(windows, ids[owners]).token_logprobs_nats()
        summed = sum_by_sequence(logprobs[counted], window_of_token[counted], ids)
        return Scores(
            logprob_nats=summed.logprob_nats,
            num_scored_tokens=rows["num_scored_tokens"].to_numpy(),
            logprobs=summed.logprobs,
            owners=summed.owners,
        )

    def num_read_tokens(self, num_tokens: Iterable[int]) -> int:
        """Return how many tokens the model reads of sequences of so many tokens each."""
        return sum(stop - start for one in num_tokens for start, _, stop in windows_of(one, self._max_tokens))


def windows_of(num_tokens: int, max_tokens: int) -> Iterator[tuple[int, int, int]]:
    """Go through the windows of a sequence: the first token read, the first asked for, and where both end."""
    start, first = 0, 1
    while True:
        stop = min(num_tokens, start + max_tokens)
        yield start, first, stop
        if stop == num_tokens:
            return
        start, first = stop - max_tokens // 2, stop
