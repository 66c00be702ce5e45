"""From documents to token sequences: tokenised, packed by domain and split, numbered."""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from miniplm_assets.core.errors import CorpusError
from miniplm_assets.core.facts import counts_in_words
from miniplm_assets.core.packing import EncodedTexts, PackedSequences, Packer
from miniplm_assets.core.splits import SPLITS
from miniplm_assets.corpus.cleaning import excerpt_of
from miniplm_assets.corpus.encoding import PackingTokenizer
from miniplm_assets.corpus.progress import Progress, Report
from miniplm_assets.corpus.tables import REJECTED, SEQUENCES, SPAN, RowGroupWriter, RowNumbers
from miniplm_assets.corpus.tokenizer import load_tokenizer
from miniplm_assets.experiment.schema import Sequences
from miniplm_assets.storage.tables import REJECTED as REJECTED_FILE
from miniplm_assets.storage.tables import SEQUENCES as SEQUENCES_FILE

# Text that is encoded at once: enough to keep all cores busy, at some 100 bytes of memory a token. The order of the
# sequences of a shard depends on it: to change it is to raise the step's code version.
_CHUNK_BYTES: Final = 4 << 20


# Less than a sequence of each: some megabytes.
_STREAMS_AT_ONCE: Final = 1_024
# Of as many, those of each are written by themselves, as they were when streams were packed one by one: the pages of
# the file end where they did. Of more, that would take longer than all the rest; the rows are the same.
_MAX_STREAMS_APART: Final = 256
# Domain and split.
_Stream = tuple[str, str]


def write_sequences(
    documents: Path,
    *,
    shard: str,
    tokenizer_folder: Path,
    sequences: Sequences,
    shard_fingerprint: str,
    folder: Path,
    report: Report,
) -> dict[str, Any]:
    """Tokenise and pack the documents of a shard.

    Args:
        documents: the shard's documents.parquet.
        shard: its name.
        tokenizer_folder: what `load_tokenizer` reads.
        sequences: length, and whether to trim.
        shard_fingerprint: fingerprint of this result, where the ids begin.
        folder: gets sequences.parquet, ordered by sequence_id, and rejected.parquet.
        report: called with a sentence every few seconds.

    Returns:
        num_documents (that are packed), num_rejected, rejected_per_reason, num_sequences, num_tokens, num_bytes,
        tokens_per_split.

    Raises:
        CorpusError: if this tokenizer can encode none of the documents.
        ModelError: if the tokenizer cannot be used.
    """
    tokenizer = load_tokenizer(tokenizer_folder)
    max_tokens = sequences.sequence_length + 1
    ids = RowNumbers(shard_fingerprint, shard=shard)
    packer: Packer[_Stream] = Packer(
        max_tokens=max_tokens,
        end_of_document_id=tokenizer.end_of_document_id,
        ends_sentence=tokenizer.ends_sentence if sequences.trim_to_sentence_end else None,
    )
    texts: dict[int, str] = {}  # those that have not been given out whole
    tokens_per_split = dict.fromkeys(SPLITS, 0)
    num_documents = num_sequences = num_bytes = 0
    progress = Progress(report)
    per_reason: Counter[str] = Counter()
    with (
        RowGroupWriter(folder / SEQUENCES_FILE, SEQUENCES) as writer,
        RowGroupWriter(folder / REJECTED_FILE, REJECTED) as rejected_writer,
    ):

        def write(streams: Sequence[_Stream], packed: PackedSequences) -> None:
            nonlocal num_sequences
            if len(packed.num_tokens):
                columns = _columns(packed, streams, texts, ids.take(len(packed.num_tokens)), shard)
                are_few = len(streams) <= _MAX_STREAMS_APART
                writer.write(columns, num_rows_of_parts=packed.num_sequences.tolist() if are_few else None)
                num_sequences += len(packed.num_tokens)
                for split in SPLITS:
                    tokens_per_split[split] += int(packed.num_tokens[columns["split"] == split].sum())
            for document_id in packed.finished_document_ids.tolist():
                del texts[document_id]

        for rows, encoded, rejected in _encoded(_chunks(documents), tokenizer):
            rejected_writer.write(_rejected_columns(rejected, shard))
            per_reason.update(reason for _, reason in rejected)
            num_per_stream = Counter((row["domain"], row["split"]) for row in rows)
            document_ids = [row["document_id"] for row in rows]
            texts |= zip(document_ids, (row["text"] for row in rows), strict=True)
            packed = packer.push(
                list(num_per_stream), list(num_per_stream.values()), np.array(document_ids, dtype=np.int64), encoded
            )
            write(list(num_per_stream), packed)
            num_documents += len(rows)
            num_bytes += sum(row["num_bytes"] for row in rows)
            progress.say(
                f"{shard}: {num_documents:,} documents, {num_bytes / 1e6:,.0f} MB, {num_sequences:,} sequences"
            )
        open_streams = sorted(packer.open_streams)
        for first in range(0, len(open_streams), _STREAMS_AT_ONCE):
            last_ones = open_streams[first : first + _STREAMS_AT_ONCE]
            write(last_ones, packer.finish(last_ones))
    if per_reason and not num_documents:
        reasons = counts_in_words(dict(sorted(per_reason.items())))
        raise CorpusError(
            f"shard {shard}: the tokenizer can encode none of its {per_reason.total():,} documents ({reasons}). Use "
            "another tokenizer, or another end-of-document token (eos_token)."
        )
    num_tokens = sum(tokens_per_split.values())
    return {
        "num_documents": num_documents,
        "num_rejected": per_reason.total(),
        "rejected_per_reason": dict(sorted(per_reason.items())),
        "num_sequences": num_sequences,
        "num_tokens": num_tokens,
        "num_bytes": num_bytes,
        "tokens_per_split": tokens_per_split,
    }


_Row = dict[str, Any]
_Rejected = list[tuple[_Row, str]]


def _encoded(
    chunks: Iterator[list[_Row]], tokenizer: PackingTokenizer
) -> Iterator[tuple[list[_Row], EncodedTexts, _Rejected]]:
    """Go through the chunks, each by stream and in file order within; the next one is encoded meanwhile.

    Yields:
        The rows that can be packed, their tokens, and the other rows with the reason.
    """

    def encode(chunk: list[_Row]) -> tuple[list[_Row], EncodedTexts, _Rejected]:
        rows = sorted(chunk, key=lambda row: (row["domain"], row["split"]))
        encoded = tokenizer.encode([row["text"] for row in rows])
        return _without_rejected(rows, encoded, tokenizer.end_of_document_id)

    with ThreadPoolExecutor(1, "encode-ahead") as ahead:
        waiting: Future[tuple[list[_Row], EncodedTexts, _Rejected]] | None = None
        for chunk in chunks:
            following = ahead.submit(encode, chunk)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()


def _without_rejected(
    rows: list[_Row], encoded: EncodedTexts, end_of_document_id: int
) -> tuple[list[_Row], EncodedTexts, _Rejected]:
    """Part what no sequence could hold: a text without a token, or with the one that ends documents within it."""
    is_empty = encoded.num_tokens == 0
    owners = np.repeat(np.arange(len(rows)), encoded.num_tokens)[encoded.token_ids == end_of_document_id]
    kept = ~is_empty
    kept[owners] = False
    if kept.all():
        return rows, encoded, []
    rejected = [
        (rows[place], "no_tokens" if is_empty[place] else "end_of_document_inside")
        for place in np.flatnonzero(~kept).tolist()
    ]
    return [row for row, is_kept in zip(rows, kept, strict=True) if is_kept], encoded.keeping(kept), rejected


def _rejected_columns(rejected: _Rejected, shard: str) -> dict[str, Any]:
    """Return the columns of rejected.parquet."""
    return {
        "shard": [shard] * len(rejected),
        "file": [shard] * len(rejected),
        "line": [row["line"] for row, _ in rejected],
        "reason": [reason for _, reason in rejected],
        "excerpt": [excerpt_of(row["text"]) for row, _ in rejected],
    }


def _chunks(documents: Path) -> Iterator[list[dict[str, Any]]]:
    """Go through the documents, some megabytes of text at a time."""
    with pq.ParquetFile(documents) as file:
        chunk: list[dict[str, Any]] = []
        chunk_bytes = 0
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=["document_id", "line", "domain", "split", "text", "num_bytes"])
            for row in table.to_pylist():
                chunk.append(row)
                chunk_bytes += row["num_bytes"]
                if chunk_bytes >= _CHUNK_BYTES:
                    yield chunk
                    chunk, chunk_bytes = [], 0
        if chunk:
            yield chunk


def _columns(
    packed: PackedSequences, streams: Sequence[_Stream], texts: dict[int, str], ids: NDArray[np.int64], shard: str
) -> dict[str, Any]:
    """Return the columns of sequences.parquet for finished sequences of some streams."""
    spans = zip(packed.document_ids.tolist(), packed.char_starts.tolist(), packed.char_ends.tolist(), strict=True)
    pieces = pa.array([texts[document_id][start:end] for document_id, start, end in spans], type=pa.string())
    span_starts = _offsets(packed.num_spans)
    domains, splits = zip(*streams, strict=True)
    return {
        "sequence_id": ids,
        "shard": [shard] * len(ids),
        "domain": np.repeat(np.array(domains, dtype=object), packed.num_sequences),
        "split": np.repeat(np.array(splits, dtype=object), packed.num_sequences),
        "num_tokens": packed.num_tokens.astype(np.int32),
        "num_bytes": np.add.reduceat(pc.binary_length(pieces).to_numpy().astype(np.int64), span_starts[:-1]),
        "token_ids": pa.ListArray.from_arrays(_offsets(packed.num_tokens), packed.token_ids),
        "spans": pa.ListArray.from_arrays(
            span_starts,
            pa.StructArray.from_arrays([packed.document_ids, packed.char_starts, packed.char_ends], fields=list(SPAN)),
        ),
        "texts": pa.ListArray.from_arrays(span_starts, pieces),
    }


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int32]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
