"""Token ids on disk, in the one form that training wants: flat, memory-mapped, any sequence in one seek.

    <folder>/token_ids.bin   uint32, all sequences one after the other
    <folder>/offsets.bin     int64, num_sequences + 1 of them: where each begins
    <folder>/sequence_ids.bin  int64, of each sequence
    <folder>/prompt_lengths.bin  int32, of each sequence; only where prompts are left without a loss
    <folder>/cut_ends.bin    int64, places of end-of-document tokens that end no document; only of texts that were cut
    <folder>/contents.json   written last, with the checksum of each; without it the folder is made again

Memory stays at one batch of rows, whatever the corpus holds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from miniplm_assets.core.errors import TrainingError
from miniplm_assets.storage.tables import CUT_ENDS
from miniplm_assets.training.kept_files import keep_files

# Some megabytes of token ids at the usual 1,024 a row.
ROWS_PER_BATCH = 2_048
# A first token has no prediction, so that shorter sequences teach nothing.
MIN_TOKENS = 2
_TOKEN_IDS, _OFFSETS, _SEQUENCE_IDS = _ARRAYS = ("token_ids.bin", "offsets.bin", "sequence_ids.bin")
_PROMPT_LENGTHS = "prompt_lengths.bin"
_NUM_PROMPT_TOKENS = "num_prompt_tokens"
_CUT_ENDS = "cut_ends.bin"


class Row(NamedTuple):
    """One sequence.

    Attributes:
        sequence_id: of it.
        token_ids: int64 of shape (num_tokens,).
        num_without_loss: how many of the first tokens have no loss: one, which nothing predicts, or a whole prompt.
        cut_ends: int64, places of tokens that have none either: where a text was cut, not ended; None where none was.
    """

    sequence_id: int
    token_ids: NDArray[np.int64]
    num_without_loss: int = 1
    cut_ends: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class TokenFile:
    """Sequences of a training run.

    Attributes:
        token_ids: uint32, memory-mapped.
        offsets: int64 of shape (num_sequences + 1,), memory-mapped.
        sequence_ids: int64 of shape (num_sequences,), memory-mapped.
        prompt_lengths: int32 of the same shape, memory-mapped: the first tokens that have no loss; None where all do.
        cut_ends: int64, rising: places in `token_ids` that have none, since a text was cut there; None of whole texts.
    """

    token_ids: NDArray[np.uint32]
    offsets: NDArray[np.int64]
    sequence_ids: NDArray[np.int64]
    prompt_lengths: NDArray[np.int32] | None = None
    cut_ends: NDArray[np.int64] | None = None

    @property
    def num_sequences(self) -> int:
        """How many sequences there are."""
        return len(self.offsets) - 1

    def num_tokens(self) -> NDArray[np.int64]:
        """Return the length of each sequence, int64 of shape (num_sequences,)."""
        return np.diff(self.offsets)

    def row(self, place: int) -> Row:
        """Return one sequence."""
        start, stop = int(self.offsets[place]), int(self.offsets[place + 1])
        token_ids = self.token_ids[start:stop].astype(np.int64)
        num_without_loss = 1 if self.prompt_lengths is None else max(1, int(self.prompt_lengths[place]))
        cut_ends = None
        if self.cut_ends is not None:
            cut_ends = self.cut_ends[slice(*np.searchsorted(self.cut_ends, [start, stop]))] - start
        return Row(int(self.sequence_ids[place]), token_ids, num_without_loss, cut_ends)


def read_rows(
    files: Sequence[Path], *, columns: Sequence[str], split: str | None, rows_per_batch: int = ROWS_PER_BATCH
) -> Iterator[tuple[Path, Any]]:
    """Go through the rows of a split, in the order of the files, a bounded number at a time.

    Yields:
        The file and a PyArrow record batch with the columns.
    """
    wanted = [*columns, *([] if split is None or "split" in columns else ["split"])]
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=rows_per_batch, columns=wanted):
                yield path, batch if split is None else batch.filter(pc.equal(batch["split"], split))


def write_token_file(
    folder: Path,
    *,
    sequence_files: Sequence[Path],
    split: str | None,
    vocab_size: int,
    data_fingerprint: str,
    report: Callable[[str], None],
    sequence_ids: NDArray[np.int64] | None = None,
    prompts_have_loss: bool = True,
) -> TokenFile:
    """Return the token file of some sequences; what an earlier, killed run has completed and nothing damaged is taken.

    Args:
        folder: where it lies; what it holds of other data is replaced.
        sequence_files: Parquet files with `sequence_id` and `token_ids`, and `split` where a split is asked for. Where
            they have a column `cut_ends`, the tokens at these places have no loss.
        split: the rows to take, or None for all.
        vocab_size: ids must lie below it.
        data_fingerprint: identity of the files' content.
        report: told where what an earlier run left is damaged, and made anew.
        sequence_ids: in rising order, of the rows to take; they follow from the data. None for all.
        prompts_have_loss: whether all tokens have a loss; else the files' column `num_prompt_tokens` says how many of
            the first have none, and a sequence that is nothing but its prompt is left out.

    Raises:
        TrainingError: if a token id is outside the vocabulary, or there is no sequence to learn from.
    """
    are_cut = bool(sequence_files) and CUT_ENDS in pq.read_schema(sequence_files[0]).names
    more = {_NUM_PROMPT_TOKENS: _PROMPT_LENGTHS} if not prompts_have_loss else {}
    more |= {CUT_ENDS: _CUT_ENDS} if are_cut else {}
    names = (*_ARRAYS, *more.values())

    def write() -> None:
        if _write(folder, sequence_files, split, vocab_size, sequence_ids, more) == 0:
            where = "the corpus" if split is None else f"split '{split}'"
            raise TrainingError(
                f"{where} holds no sequence to learn from ({len(sequence_files)} files, the first: "
                f"{next(iter(sequence_files), 'none')}); use a larger corpus, or give the split a larger share"
            )

    data = {"data_fingerprint": data_fingerprint, "split": split, "prompts_have_loss": prompts_have_loss}
    keep_files(folder, names, data=data, write=write, report=report)
    return TokenFile(
        np.memmap(folder / _TOKEN_IDS, dtype=np.uint32, mode="r"),
        np.memmap(folder / _OFFSETS, dtype=np.int64, mode="r"),
        np.memmap(folder / _SEQUENCE_IDS, dtype=np.int64, mode="r"),
        None if prompts_have_loss else np.memmap(folder / _PROMPT_LENGTHS, dtype=np.int32, mode="r"),
        # Few, and maybe none, which cannot be mapped.
        np.fromfile(folder / _CUT_ENDS, dtype=np.int64) if are_cut else None,
    )


def _write(
    folder: Path,
    sequence_files: Sequence[Path],
    split: str | None,
    vocab_size: int,
    only: NDArray[np.int64] | None,
    more: Mapping[str, str],
) -> int:
    """Write the arrays, those of more columns too, and return the number of sequences."""
    num_sequences = num_tokens = 0
    columns = ["sequence_id", "token_ids", *more]
    with ExitStack() as files:
        ids_file, offsets_file, names_file = (files.enter_context((folder / name).open("wb")) for name in _ARRAYS)
        more_files = {column: files.enter_context((folder / name).open("wb")) for column, name in more.items()}
        offsets_file.write(np.zeros(1, dtype=np.int64).tobytes())
        for path, batch in read_rows(sequence_files, columns=columns, split=split):
            if only is not None:
                batch = batch.filter(_is_among(batch["sequence_id"], only))
            num_listed = pc.list_value_length(batch["token_ids"])
            is_long_enough = pc.greater_equal(num_listed, MIN_TOKENS)
            if _NUM_PROMPT_TOKENS in more_files:
                is_long_enough = pc.and_(is_long_enough, pc.greater(num_listed, batch[_NUM_PROMPT_TOKENS]))
            lists = batch["token_ids"].filter(is_long_enough)
            if len(lists) == 0:
                continue
            token_ids = lists.flatten().to_numpy(zero_copy_only=False)
            if token_ids.min() < 0 or token_ids.max() >= vocab_size:
                raise TrainingError(
                    f"{path}: token ids from {token_ids.min()} to {token_ids.max()}, but the tokenizer has "
                    f"{vocab_size:,}; these sequences were made with another tokenizer"
                )
            ids_file.write(token_ids.astype(np.uint32).tobytes())
            lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
            ends = num_tokens + np.cumsum(lengths, dtype=np.int64)
            offsets_file.write(ends.tobytes())
            sequence_ids = batch["sequence_id"].filter(is_long_enough)
            names_file.write(sequence_ids.to_numpy(zero_copy_only=False).astype(np.int64).tobytes())
            if _NUM_PROMPT_TOKENS in more_files:
                prompts = batch[_NUM_PROMPT_TOKENS].filter(is_long_enough).to_numpy(zero_copy_only=False)
                more_files[_NUM_PROMPT_TOKENS].write(prompts.astype(np.int32).tobytes())
            if CUT_ENDS in more_files:
                cuts = batch[CUT_ENDS].filter(is_long_enough)
                starts = np.repeat(ends - lengths, pc.list_value_length(cuts).to_numpy(zero_copy_only=False))
                places = starts + cuts.flatten().to_numpy(zero_copy_only=False)
                more_files[CUT_ENDS].write(places.astype(np.int64).tobytes())
            num_sequences, num_tokens = num_sequences + len(lists), int(ends[-1])
    return num_sequences


def _is_among(sequence_ids: Any, wanted: NDArray[np.int64]) -> Any:
    """Return which ids are among those that are wanted, which are in rising order: a PyArrow array of booleans."""
    ids = sequence_ids.to_numpy(zero_copy_only=False)
    places = np.minimum(np.searchsorted(wanted, ids), max(0, len(wanted) - 1))
    return pa.array(wanted[places] == ids if len(wanted) else np.zeros(len(ids), dtype=np.bool_))


def choose_held_out(files: Sequence[Path], *, split: str, num_sequences: int, seed: int) -> pl.DataFrame:
    """Return sequences of a split, chosen by the seed, in the order of the files.

    Returns:
        domain and token_ids (a list of int32), one row for each sequence.

    Raises:
        TrainingError: if the split is empty.
    """
    num_rows = sum(batch.num_rows for _, batch in read_rows(files, columns=["split"], split=split))
    if num_rows == 0:
        raise TrainingError(
            f"split '{split}' holds no sequence, so that no held-out loss can be measured; use a larger corpus, or "
            f"raise corpus.splits.{split}"
        )
    random = np.random.default_rng(seed)
    chosen = np.sort(random.choice(num_rows, size=min(num_sequences, num_rows), replace=False))
    held_out: list[pl.DataFrame] = []
    first_row = 0
    for _, batch in read_rows(files, columns=["domain", "token_ids"], split=split):
        here = chosen[(chosen >= first_row) & (chosen < first_row + batch.num_rows)] - first_row
        rows = batch.select(["domain", "token_ids"]).take(pa.array(here, type=pa.int64()))
        held_out.append(pl.DataFrame(rows).cast({"token_ids": pl.List(pl.Int32)}))
        first_row += batch.num_rows
    return pl.concat(held_out)
