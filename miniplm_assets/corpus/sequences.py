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
from miniplm_assets.core.packing import EncodedTexts, PackedSequences, Packer
from miniplm_assets.core.splits import SPLITS
from miniplm_assets.corpus.encoding import PackingTokenizer
from miniplm_assets.corpus.progress import Progress, Report
from miniplm_assets.corpus.tables import SEQUENCES, SPAN, RowGroupWriter, RowNumbers
from miniplm_assets.corpus.tokenizer import load_tokenizer
from miniplm_assets.experiment.schema import Sequences
from miniplm_assets.storage.tables import SEQUENCES as SEQUENCES_FILE

# Text that is encoded at once: enough to keep all cores busy, at some 100 bytes of memory a token. The order of the
# sequences of a shard depends on it: to change it is to raise the step's code version.
_CHUNK_BYTES: Final = 4 << 20


# Less than a sequence of each: some megabytes.
_STREAMS_AT_ONCE: Final = 1_024
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
        folder: gets sequences.parquet, ordered by sequence_id.
        report: called with a sentence every few seconds.

    Returns:
        num_documents, num_sequences, num_tokens, num_bytes, tokens_per_split.

    Raises:
        CorpusError: if a document has no tokens.
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
    with RowGroupWriter(folder / SEQUENCES_FILE, SEQUENCES) as writer:

        def write(streams: Sequence[_Stream], packed: PackedSequences) -> None:
            nonlocal num_sequences
            if len(packed.num_tokens):
                columns = _columns(packed, streams, texts, ids.take(len(packed.num_tokens)), shard)
                writer.write(columns, num_rows_of_parts=packed.num_sequences.tolist())
                num_sequences += len(packed.num_tokens)
                for split in SPLITS:
                    tokens_per_split[split] += int(packed.num_tokens[columns["split"] == split].sum())
            for document_id in packed.finished_document_ids.tolist():
                del texts[document_id]

        for rows, encoded in _encoded(_chunks(documents), tokenizer):
            _require_tokens(encoded.num_tokens, rows, shard)
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
    num_tokens = sum(tokens_per_split.values())
    return {
        "num_documents": num_documents,
        "num_sequences": num_sequences,
        "num_tokens": num_tokens,
        "num_bytes": num_bytes,
        "tokens_per_split": tokens_per_split,
    }


def _encoded(
    chunks: Iterator[list[dict[str, Any]]], tokenizer: PackingTokenizer
) -> Iterator[tuple[list[dict[str, Any]], EncodedTexts]]:
    """Go through the chunks, each by stream and in file order within; the next one is encoded meanwhile."""

    def encode(chunk: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], EncodedTexts]:
        rows = sorted(chunk, key=lambda row: (row["domain"], row["split"]))
        return rows, tokenizer.encode([row["text"] for row in rows])

    with ThreadPoolExecutor(1, "encode-ahead") as ahead:
        waiting: Future[tuple[list[dict[str, Any]], EncodedTexts]] | None = None
        for chunk in chunks:
            following = ahead.submit(encode, chunk)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()


def _chunks(documents: Path) -> Iterator[list[dict[str, Any]]]:
    """Go through the documents, some megabytes of text at a time."""
    with pq.ParquetFile(documents) as file:
        chunk: list[dict[str, Any]] = []
        chunk_bytes = 0
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=["document_id", "domain", "split", "text", "num_bytes"])
            for row in table.to_pylist():
                chunk.append(row)
                chunk_bytes += row["num_bytes"]
                if chunk_bytes >= _CHUNK_BYTES:
                    yield chunk
                    chunk, chunk_bytes = [], 0
        if chunk:
            yield chunk


def _require_tokens(num_tokens: NDArray[np.int64], rows: list[dict[str, Any]], shard: str) -> None:
    for place in np.flatnonzero(num_tokens == 0).tolist():
        raise CorpusError(
            f"shard {shard}: document {rows[place]['document_id']} ({rows[place]['text'][:60]!r}) has no tokens in "
            "this tokenizer, so that it could not stand in any sequence. Take it out, or use another tokenizer."
        )


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
