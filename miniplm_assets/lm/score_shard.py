"""Scoring the sequences of one corpus file, in parts: a crash loses the parts under way at most.

A part is a fixed range of the file's sequences: a scorer whose sums follow from the sequences alone gives it the same
bytes whenever it is scored. Finished parts are kept; one that a crash left damaged is scored again.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from miniplm_assets.core.progressed import Progressed
from miniplm_assets.core.splits import CANDIDATE, VALIDATION
from miniplm_assets.experiment.scoring import KeepTokens
from miniplm_assets.lm.device_time import DeviceTime
from miniplm_assets.lm.scorer import Scorer
from miniplm_assets.lm.scores import Scores
from miniplm_assets.lm.text_scores import TextScorer
from miniplm_assets.storage.files import beside, flush_to_disk
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
# Ids of the model's own distribution for every scored token, so many for each, one token after the other; and their
# log-probabilities. By method: whoever reads them must know which.
KEPT_TOKENS: Final = {
    "sampled": (
        pa.field("sampled_token_ids", pa.large_list(pa.uint32())),
        pa.field("sampled_logprobs_nats", pa.large_list(pa.float16())),
    ),
    "top_k": (
        pa.field("top_token_ids", pa.large_list(pa.uint32())),
        pa.field("top_logprobs_nats", pa.large_list(pa.float16())),
    ),
}
# What a model reads.
READ: Final = ("sequence_id", "token_ids")
# Of a kept part: what its device took for it, so that a resumed file knows the seconds of all its parts.
SECONDS: Final = b"device_seconds"

Choose = Callable[[pl.DataFrame], pl.DataFrame]


class ShardScores:
    """The scores of one corpus file in the making: `scores.parquet`, one row for each sequence.

    Attributes:
        num_tokens: that are scored in the parts so far.
        device_seconds: what the parts so far took of a device.
    """

    def __init__(
        self,
        sequences: Path,
        *,
        shard: str,
        scorer: Scorer,
        device_time: DeviceTime,
        sequences_per_part: int,
        work: Path,
        folder: Path,
        report: Callable[[str], None],
        choose: Choose | None = None,
        keeps_token_logprobs: bool = False,
        keep_tokens: KeepTokens | None = None,
        texts: TextScorer | None = None,
    ) -> None:
        """Begin with no part.

        Args:
            sequences: the file's sequences, ordered by sequence_id.
            shard: its name, for the messages.
            scorer: scores what is left to score.
            device_time: shares out the time of its devices.
            sequences_per_part: how many are scored before they are put away.
            work: a folder that survives a crash.
            folder: where the scores go.
            report: takes a line of progress.
            choose: keeps the rows (sequence_id, split, domain; in the order of the ids) whose sequences are scored;
                where absent, all of the candidates and the validation split are.
            keeps_token_logprobs: whether each row also holds the log-probability of every scored token.
            keep_tokens: which ids of the model's own distribution the scorer keeps, if any.
            texts: scores in the place of the scorer, where the sequences are of another tokenizer than it selects by.
        """
        self._sequences, self._shard, self._report = sequences, shard, report
        self._scorer, self._texts, self._device_time = scorer, texts, device_time
        wanted = (
            pl.scan_parquet(sequences, glob=False)
            .filter(pl.col("split").is_in(SCORED_SPLITS))
            .select("sequence_id", "split", "domain")
            .collect()
        )
        self._wanted = wanted if choose is None else choose(wanted)
        logprobs = [TOKEN_LOGPROBS] if keeps_token_logprobs else []
        kept = [] if keep_tokens is None else KEPT_TOKENS[keep_tokens.method]
        self._schema = pa.schema([*SCHEMA, *logprobs, *kept])
        self._parts = [
            Part(work / f"part-{number:05d}.parquet", self._wanted["sequence_id"][start : start + sequences_per_part])
            for number, start in enumerate(range(0, len(self._wanted), sequences_per_part))
        ]
        self._writer = pq.ParquetWriter(folder / SCORES, self._schema, **encoding_of(self._schema))
        self._sums: Sums = {split: {} for split in SCORED_SPLITS}
        self._num_added = self.num_tokens = 0
        self.device_seconds = 0.0

    def works(self) -> Iterator[Callable[[], pa.Table]]:
        """Go through what gives the scores of each part: stored by an earlier run, or scored now.

        Raises:
            ScoringError: by a work, if a score is not finite; the message names the sequence.
        """
        for part in self._parts:
            yield partial(self._scored, part, part.stored(self._schema, self._report))

    def add(self, scored: pa.Table) -> None:
        """Write the scores of the next part."""
        self._writer.write_table(scored)
        rows = pl.DataFrame(scored.select(SCHEMA.names))
        _sum_up(self._sums, rows.join(self._wanted, on="sequence_id", validate="1:1"))
        self._num_added += 1
        self.num_tokens += int(np.sum(scored["num_scored_tokens"].to_numpy(), dtype=np.int64))
        self.device_seconds += float(scored.schema.metadata[SECONDS])
        line = (
            f"{self._shard}: {self._num_added} of {len(self._parts)} parts scored, {self.num_tokens:,} tokens in "
            f"{self.device_seconds:,.1f} device seconds ({self.num_tokens / max(1e-9, self.device_seconds):,.0f} a "
            "second)"
        )
        self._report(Progressed(line, done=self._num_added, total=len(self._parts)))

    def close(self) -> dict[str, Any]:
        """Complete the file.

        Returns:
            facts: num_sequences, and by split and domain num_sequences, num_scored_tokens and the sum logprob_nats; of
                sequences of another tokenizer, num_read_tokens.
        """
        self._writer.close()
        facts = {"num_sequences": len(self._wanted), "by_split_and_domain": self._sums}
        if self._texts is None:
            return facts
        lengths = pl.scan_parquet(self._sequences, glob=False).select("sequence_id", "num_tokens").collect()
        read = lengths.join(self._wanted, on="sequence_id", how="semi")["num_tokens"]
        return {**facts, "num_read_tokens": self._texts.num_read_tokens(read)}

    def _scored(self, part: "Part", stored: pa.Table | None) -> pa.Table:
        if stored is not None:
            return stored
        columns = READ if self._texts is None else self._texts.columns
        rows = part.read(pl.scan_parquet(self._sequences, glob=False), columns)
        with self._device_time.shared() as seconds:
            scores = self._scorer.score(*_arrays(rows)) if self._texts is None else self._texts.score(rows)
            took = seconds()
        table = _table(rows, scores, self._schema).replace_schema_metadata({SECONDS: f"{took:.6f}"})
        part.put_away(table)
        return table


def encoding_of(schema: pa.Schema) -> dict[str, Any]:
    """Return how a table of scores is written to a Parquet file: the arguments of PyArrow's writer.

    Draws from made-up distributions over 1,000 and 32,000 ids take 2.4 and 2.9 bytes with their log-probability so,
    and 2.7 and 3.7 in dictionaries. 16-bit integers would take the same, since Parquet stores them in 32 bits too.
    """
    kept = {method: fields for method, fields in KEPT_TOKENS.items() if fields[0].name in schema.names}
    if not kept:
        return {"compression": "zstd"}
    lists = {field.name for fields in kept.values() for field in fields}
    return {
        "compression": "zstd",
        "use_dictionary": [_leaf(field) for field in schema if field.name not in lists],
        "column_encoding": {_leaf(ids): "BYTE_STREAM_SPLIT" for ids, _ in kept.values()},
    }


def _leaf(field: pa.Field) -> str:
    """Return what Parquet calls the column that holds a field's values."""
    is_list = pa.types.is_list(field.type) or pa.types.is_large_list(field.type)
    return f"{field.name}.list.element" if is_list else str(field.name)


def sums_of(scored: pl.DataFrame) -> Sums:
    """Return by split and domain num_sequences, num_scored_tokens and the sum logprob_nats.

    Args:
        scored: split, domain, num_scored_tokens, logprob_nats.
    """
    sums: Sums = {split: {} for split in SCORED_SPLITS}
    _sum_up(sums, scored)
    return sums


def _sum_up(sums: Sums, scored: pl.DataFrame) -> None:
    for (split, domain), rows in scored.group_by("split", "domain", maintain_order=True):
        total = sums[str(split)].setdefault(
            str(domain), {"num_sequences": 0, "num_scored_tokens": 0, "logprob_nats": 0.0}
        )
        total["num_sequences"] += len(rows)
        total["num_scored_tokens"] += int(rows["num_scored_tokens"].sum())
        total["logprob_nats"] += float(rows["logprob_nats"].sum())


def merge_scores(earlier: Path, again: Path) -> None:
    """Put scores in the place of earlier ones; the sequences that have only those keep them.

    Args:
        earlier: scores of all sequences of a corpus file, ordered by sequence_id.
        again: scores of some of them; becomes the scores of all.
    """
    first = pl.read_parquet(earlier, columns=SCHEMA.names, glob=False)
    merged = first.update(pl.read_parquet(again, glob=False), on="sequence_id", how="left").sort("sequence_id")
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
class Part:
    """A range of a file's sequences, and where what a model makes of them lies once it is finished."""

    path: Path
    ids: pl.Series

    def read(self, sequences: pl.LazyFrame, columns: Sequence[str] = READ) -> pl.DataFrame:
        """Return some columns of its sequences, of a file ordered by sequence_id."""
        # Its ids are neighbours in the file, so that the row groups' own ranges keep this to the rows wanted.
        return (
            sequences.filter(
                pl.col("sequence_id").is_between(self.ids[0], self.ids[-1]),
                pl.col("sequence_id").is_in(self.ids.implode()),
            )
            .select(columns)
            .collect()
        )

    def put_away(self, made: pa.Table) -> None:
        """Write what was made, complete or not at all."""
        written = beside(self.path)  # a part that outlives its stopped run must not meet the next run's
        pq.write_table(made, written, write_page_checksum=True)
        flush_to_disk(written)
        written.rename(self.path)
        flush_to_disk(self.path.parent)

    def stored(self, schema: pa.Schema, report: Callable[[str], None]) -> pa.Table | None:
        """Return what an earlier run put away, or None where it is missing or damaged."""
        try:
            made = pq.read_table(self.path, page_checksum_verification=True)
        except FileNotFoundError:
            return None
        except (OSError, pa.ArrowException) as error:
            report(f"{self.path.name} is damaged and is made again: {error}")
            return None
        is_this = made.schema.equals(schema) and pl.Series(made["sequence_id"]).equals(self.ids)
        return made if is_this and SECONDS in (made.schema.metadata or {}) else None


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
    for token_ids, logprobs in KEPT_TOKENS.values():
        if token_ids.name in schema.names:
            kept = scores.kept_tokens()
            counts = scores.num_scored_tokens.astype(np.int64) * kept.token_ids.shape[1]
            ends = pa.array(np.concatenate([[0], np.cumsum(counts)]))
            for field, of_tokens in ((token_ids, kept.token_ids), (logprobs, kept.logprobs_nats)):
                columns[field.name] = pa.LargeListArray.from_arrays(ends, pa.array(of_tokens.reshape(-1)))
    return pa.table(columns, schema=schema)
