"""Token ids on disk, in the one form that training wants: flat, memory-mapped, any sequence in one seek.

    <folder>/offsets.bin     int64, num_sequences + 1 of them: where each begins
    <folder>/sequence_ids.bin  int64, of each sequence
    <folder>/row_groups.bin  int64, of shape (row groups, 3): the file, its row group, the first sequence
    <folder>/prompt_lengths.bin  int32, of each sequence; only where prompts are left without a loss
    <folder>/cut_ends.bin    int64, places of end-of-document tokens that end no document; only of texts that were cut
    <folder>/contents.json   written last, with the checksum of each; without it the folder is made again
    <folder>/token_ids.bin   uint32, all sequences one after the other; holes where none has been asked for yet

A training starts once it is known how long each sequence is. Token ids are read from Parquet, a row group at a time,
when one of its sequences is first drawn: before the first step as many as it draws from, whatever the corpus holds. A
run that goes on reads them again.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from miniplm_assets.core.errors import TrainingError
from miniplm_assets.storage.tables import CUT_ENDS
from miniplm_assets.training.kept_files import keep_files
from miniplm_assets.training.row_groups import ID_BYTES, NUM_PROMPT_TOKENS, RowGroups, Wanted, row_groups

_OFFSETS, _SEQUENCE_IDS, _ROW_GROUPS = _ARRAYS = ("offsets.bin", "sequence_ids.bin", "row_groups.bin")
_TOKENS = "token_ids.bin"
_PROMPT_LENGTHS = "prompt_lengths.bin"
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
        row_groups: read `token_ids` when they are asked for; None where all are there.
    """

    token_ids: NDArray[np.uint32]
    offsets: NDArray[np.int64]
    sequence_ids: NDArray[np.int64]
    prompt_lengths: NDArray[np.int32] | None = None
    cut_ends: NDArray[np.int64] | None = None
    row_groups: RowGroups | None = None

    @property
    def num_sequences(self) -> int:
        """How many sequences there are."""
        return len(self.offsets) - 1

    def num_tokens(self) -> NDArray[np.int64]:
        """Return the length of each sequence, int64 of shape (num_sequences,)."""
        return np.diff(self.offsets)

    def row(self, place: int) -> Row:
        """Return one sequence.

        Raises:
            TrainingError: if its row group is read for the first time, and is not of this tokenizer.
        """
        if self.row_groups is not None:
            self.row_groups.require(place)
        start, stop = int(self.offsets[place]), int(self.offsets[place + 1])
        token_ids = self.token_ids[start:stop].astype(np.int64)
        num_without_loss = 1 if self.prompt_lengths is None else max(1, int(self.prompt_lengths[place]))
        cut_ends = None
        if self.cut_ends is not None:
            cut_ends = self.cut_ends[slice(*np.searchsorted(self.cut_ends, [start, stop]))] - start
        return Row(int(self.sequence_ids[place]), token_ids, num_without_loss, cut_ends)


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
    is_begun: bool = False,
) -> TokenFile:
    """Return the token file of some sequences; what an earlier, killed run knew of them and nothing damaged is taken.

    Args:
        folder: where it lies; what it holds of other data is replaced.
        sequence_files: Parquet files with `sequence_id`, `num_tokens` and `token_ids`, and `split` where a split is
            asked for. Where they have a column `cut_ends`, the tokens at these places have no loss.
        split: the rows to take, or None for all.
        vocab_size: ids must lie below it.
        data_fingerprint: identity of the files' content.
        report: told where what an earlier run left is damaged, and made anew.
        sequence_ids: in rising order, of the rows to take; they follow from the data. None for all.
        prompts_have_loss: whether all tokens have a loss; else the files' column `num_prompt_tokens` says how many of
            the first have none, and a sequence that is nothing but its prompt is left out.
        is_begun: whether another process of the same run has just begun it: each writes what it asks for, the same
            bytes to the same place.

    Raises:
        TrainingError: if a token id is outside the vocabulary as far as the files' own statistics tell, or there is no
            sequence to learn from.
    """
    are_cut = bool(sequence_files) and CUT_ENDS in pq.read_schema(sequence_files[0]).names
    wanted = Wanted(split, sequence_ids, has_prompts=not prompts_have_loss)
    names = (*_ARRAYS, *([] if prompts_have_loss else [_PROMPT_LENGTHS]), *([_CUT_ENDS] if are_cut else []))

    def write() -> None:
        if _write_index(folder, sequence_files, wanted, vocab_size, are_cut=are_cut) == 0:
            where = "the corpus" if split is None else f"split '{split}'"
            raise TrainingError(
                f"{where} holds no sequence to learn from ({len(sequence_files)} files, the first: "
                f"{next(iter(sequence_files), 'none')}); use a larger corpus, or give the split a larger share"
            )

    data = {"data_fingerprint": data_fingerprint, "split": split, "prompts_have_loss": prompts_have_loss}
    keep_files(folder, names, data=data, write=write, report=report)
    offsets = np.memmap(folder / _OFFSETS, dtype=np.int64, mode="r")
    target = folder / _TOKENS
    if not is_begun:
        with target.open("wb") as file:  # what a killed run has read may be half of it
            file.truncate(ID_BYTES * int(offsets[-1]))
    places = np.fromfile(folder / _ROW_GROUPS, dtype=np.int64).reshape(-1, 3)
    return TokenFile(
        np.memmap(target, dtype=np.uint32, mode="r"),
        offsets,
        np.memmap(folder / _SEQUENCE_IDS, dtype=np.int64, mode="r"),
        None if prompts_have_loss else np.memmap(folder / _PROMPT_LENGTHS, dtype=np.int32, mode="r"),
        # Few, and maybe none, which cannot be mapped.
        np.fromfile(folder / _CUT_ENDS, dtype=np.int64) if are_cut else None,
        RowGroups(
            target,
            files=tuple(sequence_files),
            wanted=wanted,
            places=places,
            offsets=offsets,
            vocab_size=vocab_size,
        ),
    )


def _write_index(
    folder: Path, sequence_files: Sequence[Path], wanted: Wanted, vocab_size: int, *, are_cut: bool
) -> int:
    """Write where each sequence will lie and what else is known of it, and return the number of sequences."""
    num_sequences = num_tokens = 0
    columns = [*wanted.columns, *([CUT_ENDS] if are_cut else [])]
    with ExitStack() as files:
        offsets_file, names_file, groups_file = (files.enter_context((folder / name).open("wb")) for name in _ARRAYS)
        prompts_file = files.enter_context((folder / _PROMPT_LENGTHS).open("wb")) if wanted.has_prompts else None
        cuts_file = files.enter_context((folder / _CUT_ENDS).open("wb")) if are_cut else None
        offsets_file.write(np.zeros(1, dtype=np.int64).tobytes())
        for number, path in enumerate(sequence_files):
            for group, table in row_groups(path, columns=columns, vocab_size=vocab_size):
                rows = wanted.rows(table).combine_chunks()
                if len(rows) == 0:
                    continue
                groups_file.write(np.array([number, group, num_sequences], dtype=np.int64).tobytes())
                lengths = rows["num_tokens"].to_numpy()
                ends = num_tokens + np.cumsum(lengths, dtype=np.int64)
                offsets_file.write(ends.tobytes())
                names_file.write(rows["sequence_id"].to_numpy().astype(np.int64).tobytes())
                if prompts_file is not None:
                    prompts_file.write(rows[NUM_PROMPT_TOKENS].to_numpy().astype(np.int32).tobytes())
                if cuts_file is not None:
                    cuts = rows[CUT_ENDS].combine_chunks()
                    starts = np.repeat(ends - lengths, pc.list_value_length(cuts).to_numpy(zero_copy_only=False))
                    places = starts + cuts.flatten().to_numpy(zero_copy_only=False)
                    cuts_file.write(places.astype(np.int64).tobytes())
                num_sequences, num_tokens = num_sequences + len(rows), int(ends[-1])
    return num_sequences
