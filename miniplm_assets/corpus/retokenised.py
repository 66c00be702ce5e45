"""Sequences of one tokenizer for a model of another: the same text, and the same bytes of it asked for.

A model is asked for every token of a sequence but the first, and, as published, but that behind an end of document.
Which bytes those are depends on the tokenizer. So the bytes that the tokens of a sequence leave out are context for the
other model, too: it reads them, split off from the rest, and is asked for the rest.

    tokens of the sequence     Th e  teach er .  ¶ An other      (¶ ends a document)
    asked for                     e  teach er .  ¶    other
    read by the other model    T h | e  teacher.  ¶ An | other   (| where what is asked for begins)

- What is asked for is tokenised by itself, from where it begins, in the middle of a word too, to where the sequence
  ends or the document. Nothing is put in front of it.
- The context is tokenised by itself, with the space in front that the other tokenizer puts there where a document
  begins, and nowhere else. A first token that is such a space alone is read as a space.
- Where a byte-level token ends within a character, the bytes on both sides are the tokens of single bytes.
- An end-of-document token stands where the sequence has one; both models are asked for it, and it has no bytes.
"""

import codecs
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from miniplm_assets.core.errors import CorpusError, ModelError
from miniplm_assets.core.splits import CANDIDATE, SPLITS, VALIDATION
from miniplm_assets.corpus.encoding import PackingTokenizer
from miniplm_assets.corpus.passages import require_kept_text
from miniplm_assets.corpus.progress import Progress, Report
from miniplm_assets.corpus.tables import RETOKENISED_SEQUENCES, SCORED_BYTES, RowGroupWriter
from miniplm_assets.storage.tables import CONTEXT_PLACES
from miniplm_assets.storage.tables import SEQUENCES as SEQUENCES_FILE

# Some megabytes of text and tokens, at 1,024 tokens a row.
_ROWS_PER_BATCH: Final = 1_024
# Facts that are added up.
_TOTALS: Final = (
    "num_sequences", "num_changed_sequences", "num_tokens", "num_context_tokens", "num_bytes", "num_scored_bytes",
)  # fmt: skip
# A sequence, and its tokens: int32 of shape (tokens,).
_Row = tuple[dict[str, Any], NDArray[np.int32]]
# Of a tokenizer that puts a space in front of a text; the space is no byte of it.
_SPACE: Final = b" "


class Stretch(NamedTuple):
    """What a sequence holds of one document.

    Attributes:
        context: the bytes that are read and not asked for; None where all are asked for, behind an end of document.
        asked: the bytes that follow.
        begins_document: whether it is the document's beginning.
        is_ended: whether an end-of-document token follows.
        is_spelt: whether the tokens of the sequence spell these bytes, a space in front apart.
    """

    context: bytes | None
    asked: bytes
    begins_document: bool
    is_ended: bool
    is_spelt: bool


def stretches_of(
    row: dict[str, Any], token_ids: NDArray[np.int32], tokenizer: PackingTokenizer, *, scores_after_end: bool
) -> list[Stretch]:
    """Return what a sequence holds, document by document, each parted where the tokens asked for begin.

    Args:
        row: sequence_id, spans and texts.
        token_ids: of the sequence.
        tokenizer: that made them.
        scores_after_end: whether the token behind an end of document is asked for.

    Raises:
        CorpusError: if the tokens end other documents than the row has.
    """
    ends = np.flatnonzero(token_ids == tokenizer.end_of_document_id).tolist()
    starts = [0, *(end + 1 for end in ends if end + 1 < len(token_ids))]
    if len(starts) != len(row["texts"]):
        raise CorpusError(
            f"sequence {row['sequence_id']} has {len(row['texts'])} spans of text, and its tokens are of "
            f"{len(starts)}: they are not of this tokenizer; materialise the sequences again"
        )
    num_bytes = tokenizer.token_num_bytes[token_ids]
    found: list[Stretch] = []
    for number, (start, span, text) in enumerate(zip(starts, row["spans"], row["texts"], strict=True)):
        content, is_ended = text.encode(), number < len(ends)
        stop = ends[number] if is_ended else len(token_ids)
        more = int(num_bytes[start:stop].sum()) - len(content)
        context = None
        if number == 0 or not scores_after_end:
            num_read = min(max(0, int(num_bytes[start]) - (more == 1)), len(content))
            context, content = content[:num_read], content[num_read:]
        found.append(Stretch(context, content, span["char_start"] == 0, is_ended, more in (0, 1)))
    return found


def count_scored_bytes(sequences: Path, tokenizer: PackingTokenizer, *, scores_after_end: bool) -> pa.Table:
    """Return sequence_id and num_scored_bytes of the candidates: the bytes of text that a model is asked for.

    Args:
        sequences: of a corpus file.
        tokenizer: that made them.
        scores_after_end: as in `stretches_of`.
    """
    ids: list[int] = []
    counts: list[int] = []
    for batch in _batches(sequences, (CANDIDATE,)):
        for row, token_ids in batch:
            stretches = stretches_of(row, token_ids, tokenizer, scores_after_end=scores_after_end)
            ids.append(row["sequence_id"])
            counts.append(sum(len(one.asked) for one in stretches))
    return pa.table({"sequence_id": ids, "num_scored_bytes": counts}, schema=SCORED_BYTES)


def write_retokenised_sequences(
    sequences: Path,
    *,
    shard: str,
    selecting: PackingTokenizer,
    reading: PackingTokenizer,
    scores_after_end: bool,
    folder: Path,
    report: Report,
) -> dict[str, Any]:
    """Write the candidates and validation sequences of a shard as a model of another tokenizer reads them.

    Args:
        sequences: of the shard, ordered by sequence_id.
        shard: its name.
        selecting: the tokenizer that made them.
        reading: the model's.
        scores_after_end: as in `stretches_of`.
        folder: gets sequences.parquet, in the same order.
        report: called with a sentence every few seconds.

    Returns:
        num_sequences, num_changed_sequences (whose tokens, of either tokenizer, spell other bytes), num_tokens,
        num_context_tokens (of those), num_bytes, num_scored_bytes, tokens_per_split.

    Raises:
        CorpusError: if the model's tokenizer ends a document within a text.
    """
    reader = _Reader(reading)
    totals: Counter[str] = Counter(dict.fromkeys(_TOTALS, 0))
    tokens_per_split = dict.fromkeys(SPLITS, 0)
    progress = Progress(report)
    with RowGroupWriter(folder / SEQUENCES_FILE, RETOKENISED_SEQUENCES) as writer:
        for batch in _batches(sequences, (CANDIDATE, VALIDATION)):
            held = [
                stretches_of(row, token_ids, selecting, scores_after_end=scores_after_end) for row, token_ids in batch
            ]
            read = reader.read([stretch for stretches in held for stretch in stretches])
            made = [
                {
                    **_as_read(row, stretches, read, reading),
                    "shard": shard,
                    "num_scored_tokens": _num_scored(token_ids, selecting.end_of_document_id, scores_after_end),
                }
                for (row, token_ids), stretches in zip(batch, held, strict=True)
            ]
            writer.write({name: [one[name] for one in made] for name in RETOKENISED_SEQUENCES.names})
            for one in made:
                tokens_per_split[one["split"]] += one["num_tokens"]
                totals.update({name: one[name] for name in _TOTALS})
            progress.say(f"{shard}: {totals['num_sequences']:,} sequences, {totals['num_tokens']:,} tokens")
    return {**totals, "tokens_per_split": tokens_per_split}


def require_every_byte(tokenizer: PackingTokenizer, named: str) -> None:
    """Make sure that a tokenizer spells every text out, to the byte.

    Raises:
        ModelError: if it changes plain text, or has no token for each single byte.
    """
    require_kept_text(tokenizer, named)
    if tokenizer.byte_ids is None:
        raise ModelError(
            f"tokenizer {named}: has no token for each single byte, so that of some texts its model says nothing, and "
            "no difference per byte exists. Name a tokenizer that is byte-level or has byte fallback, as those of "
            "published causal models do"
        )


class _Read(NamedTuple):
    """A stretch in the tokens of the model that reads it: int32 of shapes (context,) and (asked,)."""

    context: NDArray[np.int32]
    asked: NDArray[np.int32]


class _Reader:
    """Tokenises stretches as a model reads them."""

    def __init__(self, tokenizer: PackingTokenizer) -> None:
        self._tokenizer, self._continuing = tokenizer, tokenizer.continuing()
        byte_ids = tokenizer.byte_ids
        assert byte_ids is not None, "asked for by require_every_byte"
        self._byte_ids = byte_ids
        # First tokens repeat: as many as the vocabulary has.
        self._contexts: dict[tuple[bytes, bool], NDArray[np.int32]] = {}

    def read(self, stretches: Sequence[Stretch]) -> Iterator[_Read]:
        """Go through the tokens of some stretches."""
        going_on = iter(self._encoded([one.asked for one in stretches if one.context is not None], self._continuing))
        whole = iter(self._encoded([one.asked for one in stretches if one.context is None], self._tokenizer))
        for one in stretches:
            if one.context is None:
                yield _Read(np.empty(0, np.int32), next(whole))
            else:
                yield _Read(self._context(one.context, one.begins_document), next(going_on))

    def _context(self, content: bytes, begins_document: bool) -> NDArray[np.int32]:
        found = self._contexts.get((content, begins_document))
        if found is None:
            puts_space = begins_document and bool(content)
            tokenizer = self._tokenizer if puts_space else self._continuing
            [found] = self._encoded([content or _SPACE], tokenizer)
            self._contexts[content, begins_document] = found
        return found

    def _encoded(self, contents: Sequence[bytes], tokenizer: PackingTokenizer) -> list[NDArray[np.int32]]:
        parts = [_parts(content) for content in contents]
        texts = [text for _, text, _ in parts if text]
        encoded = tokenizer.encode(texts) if texts else None
        starts = iter([] if encoded is None else encoded.text_starts.tolist())
        start = next(starts, 0)
        found = []
        for head, text, tail in parts:
            pieces = [self._of_bytes(head)]
            if text and encoded is not None:
                stop = next(starts)
                pieces.append(encoded.token_ids[start:stop])
                start = stop
            found.append(np.concatenate([*pieces, self._of_bytes(tail)]))
        return found

    def _of_bytes(self, content: bytes) -> NDArray[np.int32]:
        return self._byte_ids[np.frombuffer(content, dtype=np.uint8)]


def _parts(content: bytes) -> tuple[bytes, str, bytes]:
    """Part bytes into the end of a cut character, whole ones, and the beginning of another cut one."""
    start = 0
    while start < len(content) and content[start] & 0xC0 == 0x80:
        start += 1
    decoder = codecs.getincrementaldecoder("utf-8")()
    text = decoder.decode(content[start:])
    return content[:start], text, decoder.getstate()[0]


def _as_read(
    row: dict[str, Any],
    stretches: Sequence[Stretch],
    read: Iterator[_Read],
    tokenizer: PackingTokenizer,
) -> dict[str, Any]:
    """Return a sequence as the other model reads it."""
    end = np.array([tokenizer.end_of_document_id], dtype=np.int32)
    pieces: list[NDArray[np.int32]] = []
    context_places: list[int] = []
    num_tokens = 0
    is_changed = False
    for stretch in stretches:
        context, asked = next(read)
        if (context == end).any() or (asked == end).any():
            raise CorpusError(
                f"sequence {row['sequence_id']}: the tokenizer of the reference gives its end-of-document token "
                f"({tokenizer.end_of_document_id}) within a text. Name another end-of-document token (eos_token in its "
                "tokenizer_config.json), one that no text has"
            )
        more = int(tokenizer.token_num_bytes[asked].sum()) - len(stretch.asked)
        is_changed |= not stretch.is_spelt or more not in ((0,) if stretch.context is not None else (0, 1))
        context_places += range(num_tokens, num_tokens + len(context))
        pieces += [context, asked, *([end] if stretch.is_ended else [])]
        num_tokens += len(context) + len(asked) + stretch.is_ended
    return {
        **{name: row[name] for name in ("sequence_id", "domain", "split", "num_bytes")},
        "num_tokens": num_tokens,
        "token_ids": np.concatenate(pieces),
        CONTEXT_PLACES: context_places,
        "num_scored_bytes": sum(len(one.asked) for one in stretches),
        "num_sequences": 1,
        "num_changed_sequences": int(is_changed),
        "num_context_tokens": len(context_places),
    }


def _num_scored(token_ids: NDArray[np.int32], end_of_document_id: int, scores_after_end: bool) -> int:
    left_out = 0 if scores_after_end else int((token_ids[:-1] == end_of_document_id).sum())
    return len(token_ids) - 1 - left_out


def _batches(sequences: Path, splits: Sequence[str]) -> Iterator[list[_Row]]:
    """Go through the sequences of some splits, each with its tokens, some thousand at a time."""
    columns = ["sequence_id", "domain", "split", "num_bytes", "token_ids", "spans", "texts"]
    with pq.ParquetFile(sequences) as file:
        for batch in file.iter_batches(_ROWS_PER_BATCH, columns=columns):
            wanted = batch.filter(pc.is_in(batch["split"], value_set=pa.array(splits)))
            token_ids = [tokens.values.to_numpy() for tokens in wanted["token_ids"]]
            yield list(zip(wanted.drop_columns(["token_ids"]).to_pylist(), token_ids, strict=True))
