"""Token selection: cross-entropy on the tokens that the teacher finds far easier than the reference (after RHO-1).

    difference_i = log p(t_i | ...) - log p_ref(t_i | ...)
    loss = sum over the kept i of - log q(t_i | ...) / number of kept tokens

RHO-1 (arXiv 2404.07965, section 2.2) keeps, in each batch, the tokens with the highest excess loss of the student in
training over a reference model. Here both log-probabilities are the stored ones of teacher and reference, as in
Difference Sampling, so that nothing runs beside the student, and one cutoff holds for the whole corpus that is learned
from: what is kept depends on no batch. The share is of the predicted tokens; equal differences at the cutoff are all
kept, and the share that comes out is a fact of the student.

The log-probabilities are stored in float16, and their difference is rounded to float16 again: it takes one of 65,536
values, which a histogram counts exactly, so that the cutoff takes one pass and no sorting.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from miniplm_assets.core.errors import TrainingError
from miniplm_assets.core.flops import TRAINING_FLOPS
from miniplm_assets.experiment.objectives import TokenSelection
from miniplm_assets.lm.score_shard import TOKEN_LOGPROBS
from miniplm_assets.training.kept_files import keep_files
from miniplm_assets.training.objectives.cross_entropy import CrossEntropyLoss
from miniplm_assets.training.objectives.objective import Input, ObjectiveKind, Setting
from miniplm_assets.training.token_file import Row

TEACHER, REFERENCE = "teacher", "reference"
_DIFFERENCES, _IDS, _STARTS, _LENGTHS = _ARRAYS = ("differences.bin", "sequence_ids.bin", "starts.bin", "lengths.bin")
NUM_VALUES: Final = 1 << 16


class TokenSelectionLoss(CrossEntropyLoss):
    """Cross-entropy on the kept tokens."""

    def __init__(self, settings: TokenSelection, setting: Setting) -> None:
        super().__init__(setting)
        folder = setting.work / "token_differences"
        facts = keep_files(
            folder,
            _ARRAYS,
            data={"data_fingerprint": setting.data_fingerprint, "keep_fraction": settings.keep_fraction},
            write=lambda: _write(folder, setting, settings.keep_fraction),
            report=setting.report,
        )
        self._cutoff = np.float16(facts["token_cutoff_nats"])
        self._differences = np.memmap(folder / _DIFFERENCES, dtype=np.float16, mode="r")
        self._ids, self._starts, self._lengths = (
            np.memmap(folder / name, dtype=np.int64, mode="r") for name in (_IDS, _STARTS, _LENGTHS)
        )
        self.facts = facts
        setting.report(
            f"{facts['kept_token_share']:.1%} of {facts['num_predicted_tokens']:,} tokens are learned from: those "
            f"whose difference is {facts['token_cutoff_nats']:.4g} nats or more"
        )

    def predicted(self, row: Row, is_predicted: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which tokens of a sequence are kept; see `Objective.predicted`."""
        place = int(np.searchsorted(self._ids, row.sequence_id))
        differences = self._differences[self._starts[place] : self._starts[place] + self._lengths[place]]
        if len(differences) != is_predicted.sum():
            raise TrainingError(
                f"sequence {row.sequence_id}: {is_predicted.sum():,} tokens are predicted, but {len(differences):,} "
                "were scored; score with score_after_end_of_document: false, as students are trained"
            )
        kept = is_predicted.copy()
        kept[is_predicted] = differences >= self._cutoff
        return kept


def _write(folder: Path, setting: Setting, keep_fraction: float) -> dict[str, Any]:
    """Write the differences of the sequences that are learned from, and by id where each begins; return the cutoff.

    Raises:
        TrainingError: naming the first sequence that has no score.
    """
    wanted = np.unique(setting.tokens.sequence_ids)
    counts = np.zeros(NUM_VALUES, dtype=np.int64)
    found, lengths, starts = [], [], []
    num_written = 0
    with (folder / _DIFFERENCES).open("wb") as file:
        for table in _tables(setting.inputs[TEACHER], setting.inputs[REFERENCE]):
            ids = table["sequence_id"].to_numpy()
            is_wanted = np.isin(ids, wanted, kind="sort")
            kept = table.filter(pl.Series(is_wanted))
            values = _differences(kept)
            counts += np.bincount(_orders(values), minlength=NUM_VALUES)
            each = kept[TOKEN_LOGPROBS.name].list.len().to_numpy().astype(np.int64)
            found.append(ids[is_wanted])
            lengths.append(each)
            starts.append(num_written + np.cumsum(each) - each)
            num_written += len(values)
            file.write(values.tobytes())
    ids, length, start = (np.concatenate([np.empty(0, np.int64), *parts]) for parts in (found, lengths, starts))
    _require_all(wanted, ids)
    order = np.argsort(ids)
    for name, values in ((_IDS, ids), (_STARTS, start), (_LENGTHS, length)):
        values[order].tofile(folder / name)
    return _cut(counts, keep_fraction)


def _tables(teacher: Input, reference: Input) -> Iterator[pl.DataFrame]:
    """Go through the corpus files: sequence_id, and the log-probabilities of the tokens under both models."""
    columns = ["sequence_id", TOKEN_LOGPROBS.name]
    for of_teacher, of_reference in zip(teacher.files, reference.files, strict=True):
        ours, theirs = (pl.read_parquet(path, columns=columns, glob=False) for path in (of_teacher, of_reference))
        yield ours.join(theirs, on="sequence_id", validate="1:1", suffix="_reference", maintain_order="left")


def _differences(table: pl.DataFrame) -> NDArray[np.float16]:
    """Return log p - log p_ref of all tokens, in float16."""
    ours, theirs = (
        table[f"{TOKEN_LOGPROBS.name}{suffix}"].explode(empty_as_null=False).to_numpy().astype(np.float32)
        for suffix in ("", "_reference")
    )
    if len(ours) != len(theirs):
        raise TrainingError(
            f"the teacher scored {len(ours):,} tokens of the same sequences and the reference {len(theirs):,}; both "
            "need the same scoring.score_after_end_of_document"
        )
    return (ours - theirs).astype(np.float16)


def _orders(values: NDArray[np.float16]) -> NDArray[np.intp]:
    """Return for each value how many of all float16 lie below it: a count from 0 to 65,535; -0 and 0 are equal."""
    bits = (values + np.float16(0)).view(np.uint16)  # -0 + 0 is 0
    return np.where(bits & 0x8000, ~bits, bits | 0x8000).astype(np.intp)


def _cut(counts: NDArray[np.int64], keep_fraction: float) -> dict[str, Any]:
    """Return the highest cutoff that keeps at least a share of the tokens, and what it keeps."""
    from_above = counts[::-1].cumsum()
    num_tokens = int(from_above[-1])
    place = int(np.searchsorted(from_above, keep_fraction * num_tokens, side="left"))
    order = np.uint16(NUM_VALUES - 1 - place)
    bits = order & np.uint16(0x7FFF) if order & 0x8000 else ~order
    return {
        "token_cutoff_nats": float(np.array([bits], dtype=np.uint16).view(np.float16)[0]),
        "num_predicted_tokens": num_tokens,
        "kept_token_share": float(from_above[place]) / max(1, num_tokens),
    }


def _require_all(wanted: NDArray[np.int64], found: NDArray[np.int64]) -> None:
    missing = np.setdiff1d(wanted, found)
    if len(missing):
        raise TrainingError(
            f"sequence {missing[0]} is learned from, but teacher and reference have not scored it ({len(missing):,} "
            "such sequences); the corpus and the scores must be of the same sequences"
        )


def _inputs(settings: TokenSelection) -> Mapping[str, tuple[str, str]]:
    return {TEACHER: ("teacher_scores", settings.teacher), REFERENCE: ("reference_scores", settings.reference)}


def _flops_per_token(_settings: TokenSelection, num_parameters: int, _others: Mapping[str, int]) -> int:
    """6 N: tokens that are left out are read all the same."""
    return TRAINING_FLOPS * num_parameters


KIND = ObjectiveKind(inputs=_inputs, flops_per_token=_flops_per_token, open=TokenSelectionLoss)
