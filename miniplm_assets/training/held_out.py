"""Held-out losses on the way: a fixed sample of the validation split, measured by domain.

By domain, since which domains count in a total is asked of who reports it, not of the training. The sample and the
number of measurements touch no weight; a run keeps to those that it began with.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from miniplm_assets.core.errors import TrainingError
from miniplm_assets.core.splits import VALIDATION
from miniplm_assets.lm.torch_scorer import score_with_model
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
        sample = choose_held_out(files, split=VALIDATION, num_sequences=num_sequences, seed=SAMPLE_SEED)
        self._token_ids = [ids.to_numpy().astype(np.int32, copy=False) for ids in sample["token_ids"]]
        self._domains = sample.select("domain")
        self._end_of_document_id = end_of_document_id
        self.num_sequences = len(sample)
        self.rows: list[dict[str, Any]] = []

    def measure(
        self, model: "PreTrainedModel", *, step: int, num_tokens: int, look: Callable[[], None] | None
    ) -> float:
        """Add one row for each domain to the log; return the loss over the whole sample, in nats a token.

        Args:
            model: is measured.
            step: done so far.
            num_tokens: trained on so far.
            look: asked after each batch; what it raises ends this.
        """
        scores = score_with_model(
            model,
            self._token_ids,
            end_of_document_id=self._end_of_document_id,
            score_after_end_of_document=False,
            tokens_per_batch=TOKENS_PER_BATCH,
            look=look,
        )
        by_domain = (
            self._domains.with_columns(
                nll_nats=-scores.logprob_nats, num_scored_tokens=scores.num_scored_tokens.astype(np.int64)
            )
            .group_by("domain")
            .agg(
                pl.len().cast(pl.Int64).alias("num_sequences"),
                pl.col("num_scored_tokens").sum(),
                pl.col("nll_nats").sum(),
            )
            .sort("domain")
        )
        self.rows += [{"step": step, "num_tokens": num_tokens, **row} for row in by_domain.iter_rows(named=True)]
        return float(-scores.logprob_nats.sum() / max(1, np.sum(scores.num_scored_tokens, dtype=np.int64)))

    def write_parquet(self, path: Path) -> None:
        """Write the log, in order."""
        pl.DataFrame(self.rows, schema=SCHEMA).write_parquet(path)


def choose_held_out(files: Sequence[Path], *, split: str, num_sequences: int, seed: int) -> pl.DataFrame:
    """Return sequences of a split, chosen by the seed, in the order of the files.

    Returns:
        domain and token_ids (a list of int32), one row for each sequence.

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
    held_out: list[pl.DataFrame] = []
    first_row = 0
    for path, group, count in counts:
        here = chosen[(chosen >= first_row) & (chosen < first_row + count)] - first_row
        first_row += count
        if len(here):
            with pq.ParquetFile(path) as file:
                table = file.read_row_group(group, columns=["split", "domain", "token_ids"])
            rows = table.filter(pc.equal(table["split"], split)).select(["domain", "token_ids"]).take(pa.array(here))
            held_out.append(pl.DataFrame(rows).cast({"token_ids": pl.List(pl.Int32)}))
    return pl.concat(held_out)
