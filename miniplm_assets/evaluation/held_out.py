"""What a model costs on text that nobody learned from: by domain, per token and per byte.

Nats per token and perplexity compare models of one tokenizer only; bits per byte compare any two, as
the bytes of a text do not depend on who cuts it up (Gao et al. 2020, arXiv 2101.00027, section 3.1).
"""

import math
from collections.abc import Collection, Sequence
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from miniplm_assets.core.errors import ScoringError
from miniplm_assets.lm.scores import TokenRule

ALL_DOMAINS: Final = "all domains"
# As many as a label has room for.
NUM_NAMED_DOMAINS: Final = 3


def count_scored_bytes(
    sequences: Sequence[NDArray[np.int32]], *, rule: TokenRule, token_num_bytes: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the UTF-8 bytes of the scored tokens of each sequence, and of no others.

    Args:
        sequences: token ids, one array of shape (num_tokens,) a sequence.
        rule: which tokens are scored.
        token_num_bytes: bytes that each token id stands for, of shape (vocabulary,); 0 for special tokens.

    Returns:
        int64 of shape (num_sequences,).
    """
    return np.array(
        [int(token_num_bytes[token_ids[1:][rule.scored(token_ids)]].sum()) for token_ids in sequences], dtype=np.int64
    )


def losses_by_context(
    sequences: Sequence[NDArray[np.int32]], token_nll_nats: NDArray[np.float32], *, rule: TokenRule
) -> pl.DataFrame:
    """Add up the losses of tokens by how much of their own document stood before them in the sequence.

    A model that learns from its context loses less the more of it there is (Olsson et al. 2022, arXiv 2209.11895, who
    take the 50th and the 500th token).

    Args:
        sequences: token ids, one array of shape (num_tokens,) a sequence.
        token_nll_nats: of every scored token, sequence by sequence, of shape (total,).
        rule: which tokens are scored.

    Returns:
        min_context (1, 2, 4, 8 ...: from so many tokens to below twice as many), num_scored_tokens, nll_nats.
    """
    contexts = [np.empty(0, np.int64)]
    for token_ids in sequences:
        places = np.arange(1, len(token_ids))
        begins = np.where(token_ids[:-1] == rule.end_of_document_id, places, 0)
        contexts.append((places - np.maximum.accumulate(begins))[rule.scored(token_ids)])
    # What follows an end of document, where that is scored, has nothing before it.
    _, exponents = np.frexp(np.maximum(np.concatenate(contexts), 1).astype(np.float64))
    return (
        pl.DataFrame({"min_context": 1 << (exponents - 1), "nll_nats": token_nll_nats.astype(np.float64)})
        .with_columns(pl.col("min_context").cast(pl.Int64))
        .group_by("min_context")
        .agg(num_scored_tokens=pl.len().cast(pl.Int64), nll_nats=pl.col("nll_nats").sum())
        .sort("min_context")
    )


def in_context_gain(by_context: pl.DataFrame) -> float | None:
    """Return how much less a token costs with the longest contexts than with an eighth of them, in nats a token.

    Args:
        by_context: as `losses_by_context` returns it; rows of the same min_context are added up.

    Returns:
        Positive where context helps; None where one of the two has no tokens.
    """
    total = by_context.group_by("min_context").agg(pl.col("num_scored_tokens").sum(), pl.col("nll_nats").sum())
    if total.is_empty():
        return None
    means = {context: nats / count for context, count, nats in total.iter_rows()}
    longest = max(means)
    return means[longest // 8] - means[longest] if longest // 8 in means else None


def held_out_table(
    sequences: pl.DataFrame, scores: pl.DataFrame, *, excluded_domains: Collection[str] = ()
) -> pl.DataFrame:
    """Add up the scores of held-out sequences by domain, and in the last row over all that count.

    Args:
        sequences: sequence_id, domain, num_scored_bytes; one row for each sequence.
        scores: sequence_id, logprob_nats, num_scored_tokens; those of other sequences are left aside.
        excluded_domains: domains that no model should be good at, such as noise.

    Returns:
        domain (in order of name, then what `counted_domains` says), is_total (of the last row alone: a domain may
        have any name), num_sequences, num_scored_tokens, nll_nats (the sum), nll_nats_per_token,
        perplexity = exp(nll_nats_per_token), bits_per_byte = nll_nats / ln 2 / scored bytes. Where nothing was
        scored, the last three are null.

    Raises:
        ScoringError: if a sequence has no score, or more than one; names the first.
    """
    scored = sequences.join(scores, on="sequence_id", how="left", maintain_order="left")
    missing = scored.filter(pl.col("logprob_nats").is_null())
    if missing.height:
        raise ScoringError(
            f"held-out sequence {missing['sequence_id'][0]} has no score ({missing.height:,} of {sequences.height:,} "
            "have none): the scores are those of other sequences; materialise them again"
        )
    if scored.height != sequences.height:
        twice = scored.filter(pl.col("sequence_id").is_duplicated())["sequence_id"][0]
        raise ScoringError(f"held-out sequence {twice} has more than one score; materialise the scores again")
    by_domain = _add_up(scored.group_by("domain")).sort("domain")
    left_out = by_domain.filter(pl.col("domain").is_in(list(excluded_domains)))["domain"].to_list()
    wanted = scored.filter(~pl.col("domain").is_in(left_out))
    overall = _add_up(wanted.with_columns(domain=pl.lit(counted_domains(left_out))).group_by("domain"))
    nats_per_token = pl.col("nll_nats") / _unless_zero("num_scored_tokens")
    tables = (
        table.with_columns(is_total=pl.lit(is_total)) for table, is_total in ((by_domain, False), (overall, True))
    )
    return pl.concat(tables).select(
        "domain",
        "is_total",
        "num_sequences",
        "num_scored_tokens",
        "nll_nats",
        nll_nats_per_token=nats_per_token,
        perplexity=nats_per_token.exp(),
        bits_per_byte=pl.col("nll_nats") / math.log(2) / _unless_zero("num_scored_bytes"),
    )


def counted_domains(left_out: Collection[str]) -> str:
    """Return what a total over the domains is called: over all of them, or over all but those left out."""
    named = sorted(left_out)
    more = [f"{len(named) - NUM_NAMED_DOMAINS} more"] if len(named) > NUM_NAMED_DOMAINS else []
    names = ", ".join([*named[:NUM_NAMED_DOMAINS], *more])
    return f"{ALL_DOMAINS} but {names}" if names else ALL_DOMAINS


def _add_up(groups: "pl.dataframe.group_by.GroupBy") -> pl.DataFrame:
    return groups.agg(
        num_sequences=pl.len().cast(pl.Int64),
        num_scored_tokens=pl.col("num_scored_tokens").cast(pl.Int64).sum(),
        nll_nats=-pl.col("logprob_nats").sum(),
        num_scored_bytes=pl.col("num_scored_bytes").cast(pl.Int64).sum(),
    )


def _unless_zero(column: str) -> pl.Expr:
    return pl.when(pl.col(column) > 0).then(pl.col(column))
