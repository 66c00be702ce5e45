"""What a model costs on whole documents, of any length: every token but the first of each, once."""

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from miniplm_assets.corpus.encoding import PackingTokenizer
from miniplm_assets.lm.text_scores import TextScorer
from miniplm_assets.storage.tables import CONTEXT_PLACES

# Some megabytes of text.
_DOCUMENTS_AT_ONCE: Final = 256


def text_losses(
    documents: pl.DataFrame, scorer: TextScorer, tokenizer: PackingTokenizer, report: Callable[[str], None]
) -> pl.DataFrame:
    """Return what each document costs.

    The first token of a document is read and not asked for, as in training; nor is one behind an end of document that
    a text itself spells. A document longer than a window is read in windows that overlap by half (`lm.text_scores`).

    Args:
        documents: document_id, domain, text.
        scorer: of the model.
        tokenizer: of the model.
        report: told how far it is.

    Returns:
        document_id, domain, num_scored_tokens, num_scored_bytes, nll_nats; in the order of the documents.
    """
    measured = []
    for rows in documents.iter_slices(_DOCUMENTS_AT_ONCE):
        made = [_row(tokens, tokenizer) for tokens in _token_ids(rows["text"].to_list(), tokenizer)]
        asked = rows.select(pl.col("document_id").alias("sequence_id")).with_columns(
            pl.DataFrame(
                made,
                schema={
                    "token_ids": pl.List(pl.Int32),
                    CONTEXT_PLACES: pl.List(pl.Int32),
                    "num_scored_tokens": pl.Int64,
                    "num_scored_bytes": pl.Int64,
                },
                orient="row",
            )
        )
        scores = scorer.score(asked.select(TextScorer.columns))
        measured.append(
            rows.select("document_id", "domain").with_columns(
                asked["num_scored_tokens"], asked["num_scored_bytes"], pl.Series("nll_nats", -scores.logprob_nats)
            )
        )
        report(f"{sum(map(len, measured)):,} of {len(documents):,} documents measured")
    return pl.concat(measured)


def _token_ids(texts: list[str], tokenizer: PackingTokenizer) -> Iterator[NDArray[np.int32]]:
    encoded = tokenizer.encode(texts)
    yield from np.split(encoded.token_ids, encoded.text_starts[1:-1])


def _row(tokens: NDArray[np.int32], tokenizer: PackingTokenizer) -> tuple[list[int], list[int], int, int]:
    is_context = np.zeros(len(tokens), np.bool_)
    is_context[:1] = True
    is_context[1:] |= tokens[:-1] == tokenizer.end_of_document_id
    num_bytes = int(tokenizer.token_num_bytes[tokens[~is_context]].sum())
    return tokens.tolist(), np.flatnonzero(is_context).tolist(), int((~is_context).sum()), num_bytes
