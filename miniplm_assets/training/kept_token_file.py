"""What a teacher's scores keep of its distributions, for the sequences of a run: memory-mapped, as in `token_file`.

    <folder>/token_ids.bin      uint16, or uint32 for a larger vocabulary: so many for each predicted token
    <folder>/logprobs.bin       float16, their log-probabilities under the teacher
    <folder>/sequence_ids.bin   int64, rising
    <folder>/starts.bin         int64, of each sequence: its first predicted token among all; at last their number
    <folder>/contents.json      written last, with the checksum of each; without it the folder is made again

The scores lie by corpus file, in the order of the sequences, and compressed; training wants any sequence at once.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from miniplm_assets.core.errors import TrainingError
from miniplm_assets.lm.score_shard import KEPT_TOKENS
from miniplm_assets.lm.scores import TokenRule
from miniplm_assets.training.kept_files import keep_files
from miniplm_assets.training.token_file import TokenFile

# Some ten megabytes of ids, at 12 for each of 1,024 tokens.
ROWS_PER_BATCH: Final = 512
LARGEST_UINT16: Final = 65_536
_ARRAYS: Final = ("token_ids.bin", "logprobs.bin", "sequence_ids.bin", "starts.bin")


@dataclass(frozen=True)
class KeptTokenFile:
    """Ids of a teacher's distribution, for each predicted token of some sequences.

    Attributes:
        method: by which they were kept: sampled or top_k.
        token_ids: uint16 or uint32 of shape (num_tokens, number), memory-mapped.
        logprobs_nats: float16 of the same shape, memory-mapped.
        sequence_ids: int64 of shape (num_sequences,), rising.
        starts: int64 of shape (num_sequences + 1,): of each sequence its first token among all; at last their number.
    """

    method: str
    token_ids: NDArray[Any]
    logprobs_nats: NDArray[np.float16]
    sequence_ids: NDArray[np.int64]
    starts: NDArray[np.int64]

    def of(
        self, sequence_ids: Sequence[int], num_tokens: Sequence[int]
    ) -> tuple[NDArray[np.int32], NDArray[np.float16]]:
        """Return what is kept for the predicted tokens of sequences, one sequence after the other.

        Args:
            sequence_ids: of the sequences.
            num_tokens: how many predicted tokens each has.

        Returns:
            Ids and log-probabilities, both of shape (sum of num_tokens, number).
        """
        starts = self.starts[np.searchsorted(self.sequence_ids, np.asarray(sequence_ids, dtype=np.int64))]
        rows = [slice(start, start + num) for start, num in zip(starts.tolist(), num_tokens, strict=True)]
        token_ids = np.concatenate([self.token_ids[one] for one in rows]).astype(np.int32)
        return token_ids, np.concatenate([self.logprobs_nats[one] for one in rows])


def write_kept_token_file(
    folder: Path,
    *,
    files: Sequence[Path],
    scores: str,
    tokens: TokenFile,
    vocab_size: int,
    end_of_document_id: int,
    data_fingerprint: str,
    report: Callable[[str], None],
) -> KeptTokenFile:
    """Return what scores keep for the sequences of a run; what an earlier, killed run has completed is taken.

    Args:
        folder: where it lies; it belongs to this run.
        files: the tables of the scores.
        scores: key of their asset, for the messages.
        tokens: the sequences that are learned from.
        vocab_size: ids must lie below it.
        end_of_document_id: the token after which nothing is predicted.
        data_fingerprint: identity of the sequences and the scores.
        report: takes a line of progress.

    Raises:
        TrainingError: if the scores keep nothing, lack a sequence, or are of other sequences or another tokenizer.
    """
    method = _method_of(files, scores)
    data = {"data_fingerprint": data_fingerprint, "method": method}

    def write() -> None:
        rule = TokenRule(end_of_document_id=end_of_document_id, score_after_end_of_document=False)
        with ExitStack() as stack:
            writer = _Writer(folder, stack, tokens, rule, method=method, scores=scores, vocab_size=vocab_size)
            for number, path in enumerate(files):
                writer.add_file(path)
                report(f"{scores}: {number + 1:,} of {len(files):,} files read for what they keep of each sequence")
            writer.finish()

    keep_files(folder, _ARRAYS, data=data, write=write, report=report)
    dtypes: tuple[type[Any], ...] = (_ids_type(vocab_size), np.float16, np.int64, np.int64)
    token_ids, logprobs, sequence_ids, starts = (
        np.memmap(folder / name, dtype=dtype, mode="r") for name, dtype in zip(_ARRAYS, dtypes, strict=True)
    )
    return KeptTokenFile(
        method=method,
        token_ids=token_ids.reshape(int(starts[-1]), -1),
        logprobs_nats=logprobs.reshape(int(starts[-1]), -1),
        sequence_ids=sequence_ids,
        starts=starts,
    )


class _Writer:
    """Appends what each sequence needs, as the files come."""

    def __init__(
        self,
        folder: Path,
        files: ExitStack,
        tokens: TokenFile,
        rule: TokenRule,
        *,
        method: str,
        scores: str,
        vocab_size: int,
    ) -> None:
        self._folder, self._tokens, self._rule, self._scores, self._vocab_size = (
            folder,
            tokens,
            rule,
            scores,
            vocab_size,
        )
        self._columns = ["sequence_id", "num_scored_tokens", *(field.name for field in KEPT_TOKENS[method])]
        self._ids, self._logprobs = (files.enter_context((folder / name).open("wb")) for name in _ARRAYS[:2])
        self._places = np.argsort(tokens.sequence_ids, kind="stable")
        self._sequence_ids = tokens.sequence_ids[self._places]
        self._starts = np.full(len(self._sequence_ids) + 1, -1, dtype=np.int64)
        self._num_tokens, self._number = 0, 0
        self._first_ids: list[tuple[int, Path]] = []

    def add_file(self, path: Path) -> None:
        """Take what a file has of the sequences that are learned from.

        Raises:
            TrainingError: if its rows are not of these sequences.
        """
        with pq.ParquetFile(path) as file:
            if not set(self._columns) <= set(file.schema_arrow.names):
                raise TrainingError(f"{path}: {_keeps_nothing(self._scores)}")
            is_first = True
            for batch in file.iter_batches(batch_size=ROWS_PER_BATCH, columns=self._columns):
                if batch.num_rows and is_first:
                    self._first_ids.append((batch["sequence_id"][0].as_py(), path))
                    is_first = False
                self._add_rows(batch, path)

    def _add_rows(self, batch: pa.RecordBatch, path: Path) -> None:
        ids = batch["sequence_id"].to_numpy()
        slots = np.minimum(np.searchsorted(self._sequence_ids, ids), len(self._sequence_ids) - 1)
        is_wanted = self._sequence_ids[slots] == ids
        if not is_wanted.any():
            return
        wanted, slots = batch.filter(pa.array(is_wanted)), slots[is_wanted]
        num_scored = wanted["num_scored_tokens"].to_numpy()
        token_ids, logprobs = (wanted[name].flatten().to_numpy(zero_copy_only=False) for name in self._columns[2:])
        self._number = self._number or len(token_ids) // max(1, int(num_scored.sum()))
        if len(token_ids) != num_scored.sum() * self._number or len(logprobs) != len(token_ids):
            raise TrainingError(
                f"{path}: {len(token_ids):,} kept ids and {len(logprobs):,} log-probabilities for "
                f"{num_scored.sum():,} scored tokens, expected {self._number} for each; materialise {self._scores} "
                "again"
            )
        if len(token_ids) and token_ids.max() >= self._vocab_size:
            raise TrainingError(
                f"{path}: kept token id {token_ids.max()}, but the tokenizer has {self._vocab_size:,}; these scores "
                f"are of another tokenizer: materialise {self._scores} again"
            )
        is_predicted = [self._predicted(slot, num, path) for slot, num in zip(slots, num_scored.tolist(), strict=True)]
        counts = np.array([one.sum() for one in is_predicted], dtype=np.int64)
        self._starts[slots] = self._num_tokens + np.cumsum(counts) - counts
        self._num_tokens += int(counts.sum())
        rows = np.concatenate(is_predicted)
        self._ids.write(token_ids.reshape(len(rows), -1)[rows].astype(_ids_type(self._vocab_size)).tobytes())
        self._logprobs.write(logprobs.reshape(len(rows), -1)[rows].astype(np.float16).tobytes())

    def _predicted(self, slot: int, num_scored: int, path: Path) -> NDArray[np.bool_]:
        """Return which scored tokens of a sequence are predicted: all; or the teacher is scored at some more."""
        is_predicted = self._rule.scored(self._tokens.row(int(self._places[slot])).token_ids)
        if num_scored == len(is_predicted):  # score_after_end_of_document: true
            return is_predicted
        if num_scored != is_predicted.sum():
            raise TrainingError(
                f"{path}: sequence {self._sequence_ids[slot]} has {num_scored:,} scored tokens, but "
                f"{is_predicted.sum():,} are learned from; these scores are of other sequences: materialise "
                f"{self._scores} again"
            )
        return np.ones(num_scored, dtype=np.bool_)

    def finish(self) -> None:
        """Write where each sequence begins.

        Raises:
            TrainingError: if one is missing.
        """
        (missing,) = np.nonzero(self._starts[:-1] < 0)
        if len(missing):
            sequence_id = int(self._sequence_ids[missing[0]])
            before = [path for first, path in sorted(self._first_ids) if first <= sequence_id]
            neighbours = f"; those next to it are in {before[-1]}" if before else ""
            raise TrainingError(
                f"sequence {sequence_id} is learned from, but has no row in the {len(self._first_ids):,} files of "
                f"{self._scores} ({len(missing):,} of {len(self._sequence_ids):,} are missing{neighbours}); "
                f"materialise {self._scores}"
            )
        self._starts[-1] = self._num_tokens
        self._sequence_ids.astype(np.int64).tofile(self._folder / _ARRAYS[2])
        self._starts.tofile(self._folder / _ARRAYS[3])


def _method_of(files: Sequence[Path], scores: str) -> str:
    """Return by which method the tables keep ids.

    Raises:
        TrainingError: if they keep none.
    """
    names = set(pq.read_schema(files[0]).names) if files else set()
    for method, fields in KEPT_TOKENS.items():
        if names >= {field.name for field in fields}:
            return method
    raise TrainingError(f"{files[0] if files else scores}: {_keeps_nothing(scores)}")


def _keeps_nothing(scores: str) -> str:
    return (
        "nothing of the teacher's distribution is kept beside the scores; write keep_tokens: {method: sampled, number: "
        f"12}} into the teacher's scoring and materialise {scores}"
    )


def _ids_type(vocab_size: int) -> type[Any]:
    return np.uint16 if vocab_size <= LARGEST_UINT16 else np.uint32
