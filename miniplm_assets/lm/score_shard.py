"""Scoring the sequences of one corpus file, in parts: a crash loses the parts under way at most.

A part is a fixed range of the file's sequences: a scorer whose sums follow from the sequences alone gives it the same
bytes whenever it is scored. Finished parts lie in the work folder; one that a crash left damaged is scored again.

Parts of one file, and of several, are under way at once, each in a thread that reads it, has it scored and puts
it away: one thread more than there are devices, so that none waits at the border of a part or a file.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from miniplm_assets.core.splits import CANDIDATE, VALIDATION
from miniplm_assets.lm.scorer import Scorer
from miniplm_assets.lm.scores import Scores
from miniplm_assets.storage.files import flush_to_disk
from miniplm_assets.storage.tables import SCORES

# Those that no model of the selection has learnt from: the candidates, and what held-out losses are measured on.
SCORED_SPLITS: Final = (CANDIDATE, VALIDATION)
# By split and domain.
Sums = dict[str, dict[str, dict[str, float]]]
SCHEMA: Final = pa.schema(
    [("sequence_id", pa.int64()), ("logprob_nats", pa.float64()), ("num_scored_tokens", pa.int32())]
)
# Log-probabilities of 30 nats and less are kept to 1 in 2,048; nothing that is summed is taken from here.
TOKEN_LOGPROBS: Final = pa.field("token_logprobs_nats", pa.list_(pa.float16()))


@dataclass(frozen=True)
class PartThreads:
    """The threads that parts are scored in, for any number of corpus files.

    Attributes:
        pool: the threads.
        num_at_once: how many there are.
    """

    pool: ThreadPoolExecutor
    num_at_once: int

    def in_order(self, works: Iterable[Callable[[], pa.Table]]) -> Iterator[pa.Table]:
        """Do as many of the works at once as there are threads; give what each returns, in their order."""
        waiting: deque[Future[pa.Table]] = deque()
        try:
            for work in works:
                waiting.append(self.pool.submit(work))
                if len(waiting) == self.num_at_once:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


@contextmanager
def part_threads(num_devices: int) -> Iterator[PartThreads]:
    """Start as many threads as keep so many devices busy."""
    with ThreadPoolExecutor(num_devices + 1, thread_name_prefix="part") as pool:
        yield PartThreads(pool, num_devices + 1)


def score_shard(
    sequences: Path,
    *,
    shard: str,
    scorer: Scorer,
    threads: PartThreads,
    sequences_per_part: int,
    work: Path,
    folder: Path,
    report: Callable[[str], None],
    choose: Callable[[pl.DataFrame], pl.DataFrame] | None = None,
    keeps_token_logprobs: bool = False,
) -> dict[str, Any]:
    """Write `scores.parquet` for the candidate and validation sequences of one corpus file, or for some of them.

    Args:
        sequences: the file's sequences, ordered by sequence_id.
        shard: its name, for the messages.
        scorer: scores what is left to score.
        threads: in which it is asked.
        sequences_per_part: how many are scored before they are put away.
        work: a folder that survives a crash.
        folder: where the scores go.
        report: takes a line of progress.
        choose: keeps the rows (sequence_id, split, domain; in the order of the ids) whose sequences are scored; all
            where absent.
        keeps_token_logprobs: whether each row also holds the log-probability of every scored token.

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
    if choose is not None:
        wanted = choose(wanted)
    schema = SCHEMA.append(TOKEN_LOGPROBS) if keeps_token_logprobs else SCHEMA
    parts = [
        _Part(work / f"part-{number:05d}.parquet", wanted["sequence_id"][start : start + sequences_per_part])
        for number, start in enumerate(range(0, len(wanted), sequences_per_part))
    ]
    progress = _Progress(shard, len(parts), report)

    def scored(part: _Part) -> pa.Table:
        stored = part.stored(schema, report)
        if stored is not None:
            progress.skip()
            return stored
        rows = part.read(sequences)
        scores = scorer.score(*_arrays(rows))
        table = _table(rows, scores, schema)
        part.put_away(table)
        progress.add(int(scores.num_scored_tokens.sum()))
        return table

    sums: Sums = {split: {} for split in SCORED_SPLITS}
    with pq.ParquetWriter(folder / SCORES, schema, compression="zstd") as writer:
        for table in threads.in_order(partial(scored, part) for part in parts):
            writer.write_table(table)
            _add(sums, pl.DataFrame(table.select(SCHEMA.names)).join(wanted, on="sequence_id", validate="1:1"))
    return {"num_sequences": len(wanted), "by_split_and_domain": sums}


def merge_scores(earlier: Path, again: Path) -> None:
    """Put scores in the place of earlier ones; the sequences that have only those keep them.

    Args:
        earlier: scores of all sequences of a corpus file, ordered by sequence_id.
        again: scores of some of them; becomes the scores of all.
    """
    first = pl.read_parquet(earlier, columns=SCHEMA.names)
    merged = first.update(pl.read_parquet(again), on="sequence_id", how="left").sort("sequence_id")
    pq.write_table(merged.to_arrow().cast(SCHEMA), again, compression="zstd")


def mean_nll(domains: Mapping[str, Mapping[str, float]], *, excluded_domains: Collection[str]) -> float | None:
    """Return the mean NLL in nats a token over the domains of a split, None where nothing was scored.

    Args:
        domains: sums by domain, as `score_shard` returns them for a split.
        excluded_domains: domains to leave out.
    """
    sums = [total for domain, total in domains.items() if domain not in excluded_domains]
    num_tokens = sum(total["num_scored_tokens"] for total in sums)
    return -sum(total["logprob_nats"] for total in sums) / num_tokens if num_tokens else None


@dataclass(frozen=True)
class _Part:
    """A range of a file's sequences, and where its scores lie once they are finished."""

    path: Path
    ids: pl.Series

    def read(self, sequences: Path) -> pl.DataFrame:
        """Return its sequences: sequence_id, token_ids."""
        # Its ids are neighbours in the file, so that the row groups' own ranges keep this to the rows wanted.
        return (
            pl.scan_parquet(sequences)
            .filter(
                pl.col("sequence_id").is_between(self.ids[0], self.ids[-1]),
                pl.col("sequence_id").is_in(self.ids.implode()),
            )
            .select("sequence_id", "token_ids")
            .collect()
        )

    def put_away(self, scored: pa.Table) -> None:
        """Write the scores, complete or not at all."""
        # The name of a process: a part that outlives its stopped run must not meet the next run's.
        beside = self.path.with_suffix(f".writing-{os.getpid()}")
        pq.write_table(scored, beside, write_page_checksum=True)
        flush_to_disk(beside)
        beside.rename(self.path)
        flush_to_disk(self.path.parent)

    def stored(self, schema: pa.Schema, report: Callable[[str], None]) -> pa.Table | None:
        """Return the scores that an earlier run put away, or None where they are missing or damaged."""
        try:
            scored = pq.read_table(self.path, page_checksum_verification=True)
        except FileNotFoundError:
            return None
        except (OSError, pa.ArrowException) as error:
            report(f"{self.path.name} is damaged and is scored again: {error}")
            return None
        is_this = scored.schema.equals(schema) and pl.Series(scored["sequence_id"]).equals(self.ids)
        return scored if is_this else None


class _Progress:
    """Says after each part how far a corpus file is; parts end in any thread."""

    def __init__(self, shard: str, num_parts: int, report: Callable[[str], None]) -> None:
        self._shard, self._num_parts, self._report = shard, num_parts, report
        self._started = time.monotonic()
        self._num_done = self._num_tokens = 0
        self._lock = threading.Lock()

    def skip(self) -> None:
        """Count a part that was scored by an earlier run."""
        with self._lock:
            self._num_done += 1

    def add(self, num_tokens: int) -> None:
        """Count a part that was scored now."""
        with self._lock:
            self._num_done += 1
            self._num_tokens += num_tokens
            seconds = time.monotonic() - self._started
            self._report(
                f"{self._shard}: {self._num_done} of {self._num_parts} parts scored, {self._num_tokens:,} tokens in "
                f"{seconds:,.0f} s ({self._num_tokens / seconds:,.0f} a second)"
            )


def _arrays(rows: pl.DataFrame) -> tuple[list[NDArray[np.int32]], NDArray[np.int64]]:
    token_ids = [tokens.to_numpy().astype(np.int32, copy=False) for tokens in rows["token_ids"]]
    return token_ids, rows["sequence_id"].to_numpy()


def _table(rows: pl.DataFrame, scores: Scores, schema: pa.Schema) -> pa.Table:
    columns = {
        "sequence_id": rows["sequence_id"].to_arrow(),
        "logprob_nats": scores.logprob_nats,
        "num_scored_tokens": scores.num_scored_tokens,
    }
    if TOKEN_LOGPROBS.name in schema.names:
        ends = np.cumsum(scores.num_scored_tokens, dtype=np.int64)
        values = pa.array(scores.token_logprobs_nats().astype(np.float16))
        columns[TOKEN_LOGPROBS.name] = pa.ListArray.from_arrays(np.concatenate([[0], ends]).astype(np.int32), values)
    return pa.table(columns, schema=schema)


def _add(sums: Sums, part: pl.DataFrame) -> None:
    for (split, domain), rows in part.group_by("split", "domain", maintain_order=True):
        total = sums[str(split)].setdefault(
            str(domain), {"num_sequences": 0, "num_scored_tokens": 0, "logprob_nats": 0.0}
        )
        total["num_sequences"] += len(rows)
        total["num_scored_tokens"] += int(rows["num_scored_tokens"].sum())
        total["logprob_nats"] += float(rows["logprob_nats"].sum())
