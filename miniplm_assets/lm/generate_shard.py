"""A teacher continues the sequences of one corpus file, in parts: a crash loses the parts under way at most.

A part is some whole blocks of the file's sequences, in the order of their ids, so that the same batches, and so the
same text, come out whatever its size; see `lm.generator`. A block is a row group of the result, so that its bytes are
the same too.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from miniplm_assets.core.progressed import Progressed
from miniplm_assets.lm.device_time import DeviceTime
from miniplm_assets.lm.generator import Generator
from miniplm_assets.lm.score_shard import SECONDS, Part

SCHEMA: Final = pa.schema(
    [
        ("sequence_id", pa.int64()),
        ("shard", pa.string()),
        ("domain", pa.string()),
        ("num_tokens", pa.int32()),
        ("num_prompt_tokens", pa.int32()),
        ("is_ended", pa.bool_()),
        ("token_ids", pa.list_(pa.int32())),
        ("continuation", pa.string()),
    ]
)


class ShardGeneration:
    """The continued sequences of one corpus file in the making, one row for each.

    Attributes:
        num_tokens: that are written in the parts so far.
        device_seconds: what the parts so far took of a device.
    """

    def __init__(
        self,
        sequences: pl.LazyFrame,
        *,
        shard: str,
        prompt_tokens: int,
        generator: Generator,
        decode: Callable[[list[int]], str],
        end_of_document_id: int,
        device_time: DeviceTime,
        sequences_per_part: int,
        sequences_per_block: int,
        work: Path,
        target: Path,
        report: Callable[[str], None],
    ) -> None:
        """Begin with no part.

        Args:
            sequences: what is continued: sequence_id, domain, token_ids.
            shard: the corpus file's name.
            prompt_tokens: that are kept of each sequence; one that has no more is kept whole, and continued.
            generator: continues what is left to continue.
            decode: gives the text of token ids.
            end_of_document_id: the token that ends a document.
            device_time: shares out the time of its device.
            sequences_per_part: how many are continued before they are put away; the next whole number of blocks is.
            sequences_per_block: as the generator takes them into batches.
            work: a folder that survives a crash.
            target: the Parquet file.
            report: takes a line of progress.
        """
        self._sequences, self._shard, self._report = sequences, shard, report
        self._prompt_tokens, self._generator, self._decode = prompt_tokens, generator, decode
        self._end_of_document_id, self._device_time, self._block = end_of_document_id, device_time, sequences_per_block
        self._rows = sequences.select("sequence_id", "domain").sort("sequence_id").collect()
        size = -(-sequences_per_part // sequences_per_block) * sequences_per_block
        self._parts = [
            Part(work / f"part-{number:05d}.parquet", self._rows["sequence_id"][start : start + size])
            for number, start in enumerate(range(0, len(self._rows), size))
        ]
        self._writer = pq.ParquetWriter(target, SCHEMA, compression="zstd")
        self._facts = dict.fromkeys(
            (
                "num_tokens",
                "num_prompt_tokens",
                "num_generated_tokens",
                "num_short",
                "num_kept_as_they_are",
                "num_ended",
            ),
            0,
        )
        self._num_added = self.num_tokens = 0
        self.device_seconds = 0.0

    def works(self) -> Iterator[Callable[[], pa.Table]]:
        """Go through what gives each part: stored by an earlier run, or continued now.

        Raises:
            ScoringError: by a work, as `Generator.continued` does.
        """
        for part in self._parts:
            yield partial(self._continued, part, part.stored(SCHEMA, self._report))

    def add(self, made: pa.Table) -> None:
        """Write the next part."""
        self._writer.write_table(made, row_group_size=self._block)
        num_tokens, num_prompt_tokens = (made[name].to_numpy().astype(np.int64) for name in SCHEMA.names[3:5])
        is_ended = made["is_ended"].to_numpy()
        facts = {
            "num_tokens": num_tokens.sum(),
            "num_prompt_tokens": num_prompt_tokens.sum(),
            "num_generated_tokens": (num_tokens - num_prompt_tokens).sum(),
            "num_short": (num_prompt_tokens < self._prompt_tokens).sum(),
            "num_kept_as_they_are": (num_tokens == num_prompt_tokens).sum(),
            "num_ended": is_ended.sum(),
        }
        self._facts = {name: total + int(facts[name]) for name, total in self._facts.items()}
        self._num_added += 1
        self.device_seconds += float(made.schema.metadata[SECONDS])
        self.num_tokens = written = self._facts["num_generated_tokens"]
        line = (
            f"{self._shard}: {self._num_added} of {len(self._parts)} parts continued, {written:,} tokens written in "
            f"{self.device_seconds:,.1f} device seconds ({written / max(1e-9, self.device_seconds):,.0f} a second)"
        )
        self._report(Progressed(line, done=self._num_added, total=len(self._parts)))

    def close(self) -> dict[str, Any]:
        """Complete the file.

        Returns:
            facts: num_sequences; num_tokens, which are num_prompt_tokens and num_generated_tokens; num_short: of the
            sequences, those whose prompt is shorter than the others'; num_kept_as_they_are: whose prompt ends a
            document; num_ended: whose document the teacher ended.
        """
        self._writer.close()
        return {"num_sequences": len(self._rows), **self._facts}

    def _continued(self, part: Part, stored: pa.Table | None) -> pa.Table:
        if stored is not None:
            return stored
        rows = part.read(self._sequences).sort("sequence_id")
        prompts = [
            tokens.head(self._prompt_tokens).to_numpy().astype(np.int32, copy=False) for tokens in rows["token_ids"]
        ]
        with self._device_time.shared() as seconds:
            whole = self._generator.continued(prompts, rows["sequence_id"].to_numpy())
            took = seconds()
        table = self._table(part.ids, [len(prompt) for prompt in prompts], whole)
        table = table.replace_schema_metadata({SECONDS: f"{took:.6f}"})
        part.put_away(table)
        return table

    def _table(self, ids: pl.Series, prompt_lengths: Sequence[int], whole: Sequence[Any]) -> pa.Table:
        of_part = self._rows.filter(pl.col("sequence_id").is_between(ids[0], ids[-1]))
        written = [token_ids[length:] for token_ids, length in zip(whole, prompt_lengths, strict=True)]
        lengths = np.array([len(token_ids) for token_ids in whole], dtype=np.int32)
        ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        columns = {
            "sequence_id": of_part["sequence_id"].to_arrow(),
            "shard": pa.repeat(self._shard, len(of_part)),
            "domain": of_part["domain"].to_arrow(),
            "num_tokens": lengths,
            "num_prompt_tokens": np.array(prompt_lengths, dtype=np.int32),
            "is_ended": [bool(len(one) and one[-1] == self._end_of_document_id) for one in written],
            "token_ids": pa.ListArray.from_arrays(ends, np.concatenate(whole)),
            "continuation": [self._decode(one.tolist()) for one in written],
        }
        return pa.table(columns).cast(SCHEMA)
