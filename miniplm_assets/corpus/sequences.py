"""From texts to token sequences: tokenised, packed by domain and split, numbered."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from miniplm_assets.core.encoded_texts import EncodedTexts
from miniplm_assets.core.errors import CorpusError
from miniplm_assets.core.facts import counts_in_words
from miniplm_assets.core.packing import PackedSequences, Packer
from miniplm_assets.core.splits import SPLITS
from miniplm_assets.corpus.cleaning import excerpt_of
from miniplm_assets.corpus.encoding import PackingTokenizer
from miniplm_assets.corpus.progress import Progress, Report
from miniplm_assets.corpus.tables import REJECTED, SEQUENCES, SPAN, RowGroupWriter, RowNumbers
from miniplm_assets.corpus.tokenizer import load_tokenizer
from miniplm_assets.experiment.schema import Sequences
from miniplm_assets.storage.tables import CUT_ENDS
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


class Given(NamedTuple):
    """A text that is packed, and ends with the end-of-document token: a document, or a passage of one.

    Attributes:
        number: unique among those that are packed together.
        text: the whole of it.
        num_bytes: of it in UTF-8.
        domain: of the document.
        split: of the document.
        document_id: of the document.
        char_start: where the text begins in the document, in characters.
        line: of the document in its corpus file.
        is_cut: whether the document goes on behind the text.
    """

    number: int
    text: str
    num_bytes: int
    domain: str
    split: str
    document_id: int
    char_start: int
    line: int
    is_cut: bool = False


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
        As `write_packed`, with num_documents in place of num_texts.

    Raises:
        CorpusError: if this tokenizer can encode none of the documents.
        ModelError: if the tokenizer cannot be used.
    """
    facts = write_packed(
        chunks_of(_documents(documents)),
        words="documents",
        shard=shard,
        tokenizer=tokenizer_of(tokenizer_folder),
        sequences=sequences,
        shard_fingerprint=shard_fingerprint,
        folder=folder,
        report=report,
    )
    return {"num_documents": facts.pop("num_texts"), **facts}


@lru_cache(maxsize=1)
def tokenizer_of(folder: Path) -> PackingTokenizer:
    """Load a stored tokenizer, which never changes, once for all corpus files: seconds for a large vocabulary."""
    return load_tokenizer(folder)


def write_packed(
    chunks: Iterator[list[Given]],
    *,
    words: str,
    shard: str,
    tokenizer: PackingTokenizer,
    sequences: Sequences,
    shard_fingerprint: str,
    folder: Path,
    report: Report,
    schema: pa.Schema = SEQUENCES,
    look_at: Callable[[list[Given], EncodedTexts], None] = lambda _given, _encoded: None,
) -> dict[str, Any]:
    """Tokenise and pack texts of a shard.

    Args:
        chunks: the texts, some megabytes at a time.
        words: what messages call them.
        shard: its name.
        tokenizer: that encodes them.
        sequences: length, and whether to trim.
        shard_fingerprint: fingerprint of this result, where the ids begin.
        folder: gets sequences.parquet, ordered by sequence_id, and rejected.parquet.
        report: called with a sentence every few seconds.
        schema: of sequences.parquet; with a column `cut_ends` where texts may be cut.
        look_at: is shown the texts that are packed, with their tokens.

    Returns:
        num_texts (that are packed), num_rejected, rejected_per_reason, num_sequences, num_tokens, num_bytes,
        tokens_per_split.

    Raises:
        CorpusError: if this tokenizer can encode none of the texts.
    """
    max_tokens = sequences.sequence_length + 1
    ids = RowNumbers(shard_fingerprint, shard=shard)
    packer: Packer[_Stream] = Packer(
        max_tokens=max_tokens,
        end_of_document_id=tokenizer.end_of_document_id,
        ends_sentence=tokenizer.ends_sentence if sequences.trim_to_sentence_end else None,
    )
    texts: dict[int, Given] = {}  # those that have not been given out whole
    tokens_per_split = dict.fromkeys(SPLITS, 0)
    num_texts = num_sequences = num_bytes = 0
    progress = Progress(report)
    per_reason: Counter[str] = Counter()
    with (
        RowGroupWriter(folder / SEQUENCES_FILE, schema) as writer,
        RowGroupWriter(folder / REJECTED_FILE, REJECTED) as rejected_writer,
    ):

        def write(streams: Sequence[_Stream], packed: PackedSequences) -> None:
            nonlocal num_sequences
            if len(packed.num_tokens):
                columns = _columns(packed, streams, texts, ids.take(len(packed.num_tokens)), shard)
                if CUT_ENDS in schema.names:
                    columns[CUT_ENDS] = _cut_ends(packed, texts, tokenizer.end_of_document_id)
                are_few = len(streams) <= _MAX_STREAMS_APART
                writer.write(columns, num_rows_of_parts=packed.num_sequences.tolist() if are_few else None)
                num_sequences += len(packed.num_tokens)
                for split in SPLITS:
                    tokens_per_split[split] += int(packed.num_tokens[columns["split"] == split].sum())
            for number in packed.finished_document_ids.tolist():
                del texts[number]

        for given, encoded, rejected in _encoded(chunks, tokenizer):
            rejected_writer.write(_rejected_columns(rejected, shard))
            per_reason.update(reason for _, reason in rejected)
            look_at(given, encoded)
            num_per_stream = Counter((one.domain, one.split) for one in given)
            numbers = [one.number for one in given]
            texts |= zip(numbers, given, strict=True)
            packed = packer.push(
                list(num_per_stream), list(num_per_stream.values()), np.array(numbers, dtype=np.int64), encoded
            )
            write(list(num_per_stream), packed)
            num_texts += len(given)
            num_bytes += sum(one.num_bytes for one in given)
            progress.say(f"{shard}: {num_texts:,} {words}, {num_bytes / 1e6:,.0f} MB, {num_sequences:,} sequences")
        open_streams = sorted(packer.open_streams)
        for first in range(0, len(open_streams), _STREAMS_AT_ONCE):
            last_ones = open_streams[first : first + _STREAMS_AT_ONCE]
            write(last_ones, packer.finish(last_ones))
    if per_reason and not num_texts:
        reasons = counts_in_words(dict(sorted(per_reason.items())))
        raise CorpusError(
            f"shard {shard}: the tokenizer can encode none of its {per_reason.total():,} {words} ({reasons}). Use "
            "another tokenizer, or another end-of-document token (eos_token)."
        )
    num_tokens = sum(tokens_per_split.values())
    return {
        "num_texts": num_texts,
        "num_rejected": per_reason.total(),
        "rejected_per_reason": dict(sorted(per_reason.items())),
        "num_sequences": num_sequences,
        "num_tokens": num_tokens,
        "num_bytes": num_bytes,
        "tokens_per_split": tokens_per_split,
    }


_Rejected = list[tuple[Given, str]]


def _encoded(
    chunks: Iterator[list[Given]], tokenizer: PackingTokenizer
) -> Iterator[tuple[list[Given], EncodedTexts, _Rejected]]:
    """Go through the chunks, each by stream and in file order within; the next one is encoded meanwhile.

    Yields:
        The texts that can be packed, their tokens, and the other texts with the reason.
    """

    def encode(chunk: list[Given]) -> tuple[list[Given], EncodedTexts, _Rejected]:
        given = sorted(chunk, key=lambda one: (one.domain, one.split))
        encoded = tokenizer.encode([one.text for one in given])
        return _without_rejected(given, encoded, tokenizer.end_of_document_id)

    with ThreadPoolExecutor(1, "encode-ahead") as ahead:
        waiting: Future[tuple[list[Given], EncodedTexts, _Rejected]] | None = None
        for chunk in chunks:
            following = ahead.submit(encode, chunk)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()


def _without_rejected(
    given: list[Given], encoded: EncodedTexts, end_of_document_id: int
) -> tuple[list[Given], EncodedTexts, _Rejected]:
    """Part what no sequence could hold: a text without a token, or with the one that ends documents within it."""
    is_empty = encoded.num_tokens == 0
    owners = np.repeat(np.arange(len(given)), encoded.num_tokens)[encoded.token_ids == end_of_document_id]
    kept = ~is_empty
    kept[owners] = False
    if kept.all():
        return given, encoded, []
    rejected = [
        (given[place], "no_tokens" if is_empty[place] else "end_of_document_inside")
        for place in np.flatnonzero(~kept).tolist()
    ]
    return [one for one, is_kept in zip(given, kept, strict=True) if is_kept], encoded.keeping(kept), rejected


def _rejected_columns(rejected: _Rejected, shard: str) -> dict[str, Any]:
    """Return the columns of rejected.parquet."""
    return {
        "shard": [shard] * len(rejected),
        "file": [shard] * len(rejected),
        "line": [one.line for one, _ in rejected],
        "reason": [reason for _, reason in rejected],
        "excerpt": [excerpt_of(one.text) for one, _ in rejected],
    }


def _documents(path: Path) -> Iterator[Given]:
    """Go through the documents of a file, a row group at a time."""
    columns = ["document_id", "line", "domain", "split", "text", "num_bytes"]
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            for row in file.read_row_group(group, columns=columns).to_pylist():
                yield Given(number=row["document_id"], char_start=0, **row)


def chunks_of(texts: Iterable[Given]) -> Iterator[list[Given]]:
    """Go through texts some megabytes at a time."""
    chunk: list[Given] = []
    chunk_bytes = 0
    for one in texts:
        chunk.append(one)
        chunk_bytes += one.num_bytes
        if chunk_bytes >= _CHUNK_BYTES:
            yield chunk
            chunk, chunk_bytes = [], 0
    if chunk:
        yield chunk


def _columns(
    packed: PackedSequences, streams: Sequence[_Stream], texts: Mapping[int, Given], ids: NDArray[np.int64], shard: str
) -> dict[str, Any]:
    """Return the columns of sequences.parquet for finished sequences of some streams."""
    given = [texts[number] for number in packed.document_ids.tolist()]
    places = zip(given, packed.char_starts.tolist(), packed.char_ends.tolist(), strict=True)
    pieces = pa.array([one.text[start:end] for one, start, end in places], type=pa.string())
    document_ids = np.array([one.document_id for one in given], dtype=np.int64)
    first_chars = np.array([one.char_start for one in given], dtype=np.int64)
    spans = [document_ids, packed.char_starts + first_chars, packed.char_ends + first_chars]
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
        "spans": pa.ListArray.from_arrays(span_starts, pa.StructArray.from_arrays(spans, fields=list(SPAN))),
        "texts": pa.ListArray.from_arrays(span_starts, pieces),
    }


def _cut_ends(packed: PackedSequences, texts: Mapping[int, Given], end_of_document_id: int) -> pa.ListArray:
    """Return where in each sequence an end-of-document token stands that ends no document."""
    token_starts, span_starts = _offsets(packed.num_tokens), _offsets(packed.num_spans)
    places = np.flatnonzero(packed.token_ids == end_of_document_id)
    owners = np.searchsorted(token_starts, places, side="right") - 1
    # A sequence begins with a span, and each span in it ends with such a token, but for the last one maybe.
    spans = span_starts[owners] + np.arange(len(places)) - np.searchsorted(places, token_starts[owners])
    is_cut = np.array([texts[number].is_cut for number in packed.document_ids.tolist()], dtype=np.bool_)[spans]
    num_cut = np.bincount(owners[is_cut], minlength=len(packed.num_tokens))
    return pa.ListArray.from_arrays(_offsets(num_cut), (places - token_starts[owners])[is_cut].astype(np.int32))


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int32]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
