"""Scoring the sequences of one corpus file, in parts: a crash loses at most the part in work.

A part is a fixed range of the file's sequences, so that it holds the same bytes whoever scores it and
whenever. Finished parts lie in the work folder; a part that a crash left damaged is scored again.
"""

import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from miniplm_assets.core.splits import CANDIDATE, VALIDATION
from miniplm_assets.lm.scorer import Scorer
from miniplm_assets.storage.files import flush_to_disk
from miniplm_assets.storage.tables import SCORES

# Those that no model of the selection has learnt from: the candidates, and what held-out losses are measured on.
SCORED_SPLITS: Final = (CANDIDATE, VALIDATION)
# By split and domain.
Sums = dict[str, dict[str, dict[str, float]]]
SCHEMA: Final = pa.schema(
    [("sequence_id", pa.int64()), ("logprob_nats", pa.float64()), ("num_scored_tokens", pa.int32())]
)


def score_shard(
    sequences: Path,
    *,
    shard: str,
    open_scorer: Callable[[], Scorer],
    sequences_per_part: int,
    work: Path,
    folder: Path,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Write `scores.parquet` for the candidate and validation sequences of one corpus file.

    Args:
        sequences: the file's sequences, ordered by sequence_id.
        shard: its name, for the messages.
        open_scorer: gives the scorer; called only where something is left to score.
        sequences_per_part: how many are scored before they are put away.
        work: a folder that survives a crash.
        folder: where the scores go.
        report: takes a line of progress.

    Returns:
        facts: num_sequences, and by split and domain num_sequences, num_scored_tokens and the sum logprob_nats.

    Raises:
        ScoringError: if a score is not finite; the message names the sequence.
    """
    wanted = (
        pl.scan_parquet(sequences)
        .filter(pl.col("split").is_in(SCORED_SPLITS))
        .select("sequence_id", "split", "domain")
        .collect()
    )
    started, num_tokens, num_parts = time.monotonic(), 0, -(-len(wanted) // sequences_per_part)
    sums: Sums = {split: {} for split in SCORED_SPLITS}
    with pq.ParquetWriter(folder / SCORES, SCHEMA, compression="zstd") as writer:
        for number in range(num_parts):
            ids = wanted["sequence_id"][number * sequences_per_part : (number + 1) * sequences_per_part]
            path = work / f"part-{number:05d}.parquet"
            part = _stored_part(path, ids, report)
            if part is None:
                part = _score_part(sequences, ids, open_scorer())
                _put_away(part, path)
                num_tokens += int(part["num_scored_tokens"].sum())
                seconds = time.monotonic() - started
                report(
                    f"{shard}: part {number + 1} of {num_parts} scored, {num_tokens:,} tokens in {seconds:,.0f} s "
                    f"({num_tokens / seconds:,.0f} a second)"
                )
            writer.write_table(part.to_arrow().cast(SCHEMA))
            _add(sums, part.join(wanted, on="sequence_id", validate="1:1"))
    return {"num_sequences": len(wanted), "by_split_and_domain": sums}


def mean_nll(domains: Mapping[str, Mapping[str, float]], *, excluded_domains: Collection[str]) -> float | None:
    """Return the mean NLL in nats a token over the domains of a split, None where nothing was scored.

    Args:
        domains: sums by domain, as `score_shard` returns them for a split.
        excluded_domains: domains to leave out.
    """
    sums = [total for domain, total in domains.items() if domain not in excluded_domains]
    num_tokens = sum(total["num_scored_tokens"] for total in sums)
    return -sum(total["logprob_nats"] for total in sums) / num_tokens if num_tokens else None


def _score_part(sequences: Path, ids: pl.Series, scorer: Scorer) -> pl.DataFrame:
    # A part's ids are neighbours in the file, so that the row groups' own ranges keep this to the rows wanted.
    rows = (
        pl.scan_parquet(sequences)
        .filter(pl.col("sequence_id").is_between(ids[0], ids[-1]), pl.col("split").is_in(SCORED_SPLITS))
        .select("sequence_id", "token_ids")
        .collect()
    )
    token_ids = [tokens.to_numpy().astype(np.int32, copy=False) for tokens in rows["token_ids"]]
    scores = scorer.score(token_ids, rows["sequence_id"].to_numpy())
    return pl.DataFrame(
        {
            "sequence_id": rows["sequence_id"],
            "logprob_nats": scores.logprob_nats,
            "num_scored_tokens": scores.num_scored_tokens,
        }
    )


def _put_away(part: pl.DataFrame, path: Path) -> None:
    beside = path.with_suffix(".writing")
    pq.write_table(part.to_arrow().cast(SCHEMA), beside, write_page_checksum=True)
    flush_to_disk(beside)
    beside.rename(path)
    flush_to_disk(path.parent)


def _stored_part(path: Path, ids: pl.Series, report: Callable[[str], None]) -> pl.DataFrame | None:
    """Return a part that an earlier run finished, or None where it is missing or damaged."""
    try:
        part = pl.DataFrame(pq.read_table(path, page_checksum_verification=True))
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException) as error:
        report(f"{path.name} is damaged and is scored again: {error}")
        return None
    return part if part["sequence_id"].equals(ids) else None


def _add(sums: Sums, part: pl.DataFrame) -> None:
    for (split, domain), rows in part.group_by("split", "domain", maintain_order=True):
        total = sums[str(split)].setdefault(
            str(domain), {"num_sequences": 0, "num_scored_tokens": 0, "logprob_nats": 0.0}
        )
        total["num_sequences"] += len(rows)
        total["num_scored_tokens"] += int(rows["num_scored_tokens"].sum())
        total["logprob_nats"] += float(rows["logprob_nats"].sum())
