"""Held-out losses on the way: a fixed sample of the validation split, measured by domain.

By domain, since which domains count in a total is asked of who reports it, not of the training. The sample and the
number of measurements touch no weight; a run keeps to those that it began with.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from miniplm_assets.core.errors import TrainingError
from miniplm_assets.core.splits import VALIDATION
from miniplm_assets.lm.torch_scorer import score_with_model
from miniplm_assets.training.processes import Processes
from miniplm_assets.training.row_groups import row_groups

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HELD_OUT_LOG: Final = "held_out_log.parquet"
SCHEMA: Final = {
    "step": pl.Int64,
    "num_tokens": pl.Int64,
    "domain": pl.String,
    "num_sequences": pl.Int64,
    "num_scored_tokens": pl.Int64,
    "nll_nats": pl.Float64,
}
# Forward passes alone: small beside what a training step takes.
TOKENS_PER_BATCH: Final = 8_192
# Of the sample: the same for every model and every seed of one, so that their curves differ by what they learnt.
SAMPLE_SEED: Final = 0


class HeldOut:
    """The sample, and what was measured on it.

    Attributes:
        num_sequences: of the sample.
        rows: of the log, keys as in `SCHEMA`.
    """

    def __init__(self, files: Sequence[Path], *, num_sequences: int, end_of_document_id: int) -> None:
        """Choose the sample.

        Args:
            files: hold the validation rows: `token_ids`, `domain`, `split`.
            num_sequences: how many at most.
            end_of_document_id: what follows it carries no loss.

        Raises:
            TrainingError: if the validation split is empty.
        """
        self._chosen = choose_held_out(files, split=VALIDATION, num_sequences=num_sequences, seed=SAMPLE_SEED)
        self._end_of_document_id = end_of_document_id
        self.num_sequences = self._chosen.num_sequences
        self.rows: list[dict[str, Any]] = []

    @cached_property
    def _sample(self) -> pl.DataFrame:
        """The sample, read when it is first measured: the first step need not wait for it."""
        return self._chosen.read()

    def measure(
        self,
        model: "PreTrainedModel",
        *,
        step: int,
        num_tokens: int,
        look: Callable[[], None] | None,
        processes: Processes,
    ) -> float:
        """Add one row for each domain to the log; return the loss over the whole sample, in nats a token.

        Args:
            model: is measured.
            step: done so far.
            num_tokens: trained on so far.
            look: asked after each batch; what it raises ends this. None where there are several processes.
            processes: which share the sample.
        """
        share = slice(processes.rank, None, processes.number)
        scores = score_with_model(
            model,
            [ids.to_numpy().astype(np.int32, copy=False) for ids in self._sample["token_ids"][share]],
            end_of_document_id=self._end_of_document_id,
            score_after_end_of_document=False,
            tokens_per_batch=TOKENS_PER_BATCH,
            look=look,
        )
        logprob_nats, num_scored_tokens = np.zeros((2, self._sample.height))
        logprob_nats[share], num_scored_tokens[share] = scores.logprob_nats, scores.num_scored_tokens
        logprob_nats, num_scored_tokens = processes.gathered(np.stack([logprob_nats, num_scored_tokens]))
        by_domain = (
            self._sample.select("domain")
            .with_columns(nll_nats=-logprob_nats, num_scored_tokens=num_scored_tokens.astype(np.int64))
            .group_by("domain")
            .agg(
                pl.len().cast(pl.Int64).alias("num_sequences"),
                pl.col("num_scored_tokens").sum(),
                pl.col("nll_nats").sum(),
            )
            .sort("domain")
        )
        self.rows += [{"step": step, "num_tokens": num_tokens, **row} for row in by_domain.iter_rows(named=True)]
        return float(-logprob_nats.sum() / max(1, num_scored_tokens.sum()))

    def write_parquet(self, path: Path) -> None:
        """Write the log, in order."""
        pl.DataFrame(self.rows, schema=SCHEMA).write_parquet(path)


@dataclass(frozen=True)
class Chosen:
    """Sequences of a split that were chosen, and where they are.

    Attributes:
        split: theirs.
        places: a file, one of its row groups, and the places among the group's rows of the split, rising.
    """

    split: str
    places: tuple[tuple[Path, int, NDArray[np.int64]], ...]

    @property
    def num_sequences(self) -> int:
        """How many there are."""
        return sum(len(rows) for _, _, rows in self.places)

    def read(self) -> pl.DataFrame:
        """Return domain and token_ids (a list of int32), one row for each sequence, in the order of the files."""
        held_out: list[pl.DataFrame] = []
        for path, group, rows in self.places:
            with pq.ParquetFile(path) as file:
                table = file.read_row_group(group, columns=["split", "domain", "token_ids"])
            table = table.filter(pc.equal(table["split"], self.split)).select(["domain", "token_ids"])
            held_out.append(pl.DataFrame(table.take(pa.array(rows))).cast({"token_ids": pl.List(pl.Int32)}))
        return pl.concat(held_out)


def choose_held_out(files: Sequence[Path], *, split: str, num_sequences: int, seed: int) -> Chosen:
    """Choose sequences of a split by the seed, all of them as likely.

    Raises:
        TrainingError: if the split is empty.
    """
    counts = [
        (path, group, pc.sum(pc.equal(table["split"], split)).as_py() or 0)
        for path in files
        for group, table in row_groups(path, columns=["split"])
    ]
    num_rows = sum(count for _, _, count in counts)
    if num_rows == 0:
        raise TrainingError(
            f"split '{split}' holds no sequence, so that no held-out loss can be measured; use a larger corpus, or "
            f"raise corpus.splits.{split}"
        )
    random = np.random.default_rng(seed)
    chosen = np.sort(random.choice(num_rows, size=min(num_sequences, num_rows), replace=False))
    firsts = np.cumsum([0, *(count for _, _, count in counts)])
    bounds = np.searchsorted(chosen, firsts)
    places = [
        (path, group, chosen[start:end] - first)
        for (path, group, _), start, end, first in zip(counts, bounds[:-1], bounds[1:], firsts[:-1], strict=True)
        if end > start
    ]
    return Chosen(split, tuple(places))
