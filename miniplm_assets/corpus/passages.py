"""Selected text for another tokenizer: its passages, tokenised anew and packed.

A refined corpus holds sequences of one tokenizer, each with the spans of documents that it stands for. A passage is a
stretch of a document of which everything is selected, as long as can be: spans of consecutive sequences are joined
where one begins as the other ends, so that no word is cut where nothing was left out.

    document   The teacher reads. | It keeps on rea | ding. The end.      (| cut by the first tokenizer)
    selected          yes                yes               no
    passage    The teacher reads. It keeps on rea

A passage is tokenised as it is, also where it begins or ends inside of a word, and the end-of-document token follows
each: one that ends with its document, and one that is cut. Nothing is predicted behind that token, so that no loss
reaches across a cut; and where a passage was cut, `cut_ends` says that the token itself is not predicted either.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from numpy.typing import NDArray

from miniplm_assets.core.encoded_texts import EncodedTexts
from miniplm_assets.core.errors import CorpusError, ModelError
from miniplm_assets.core.splits import CANDIDATE
from miniplm_assets.corpus.encoding import PackingTokenizer
from miniplm_assets.corpus.progress import Report
from miniplm_assets.corpus.sequences import Given, chunks_of, write_packed
from miniplm_assets.corpus.tables import REFINED_SEQUENCES
from miniplm_assets.corpus.tokenizer import load_tokenizer
from miniplm_assets.experiment.schema import Sequences
from miniplm_assets.storage.tables import SEQUENCES as SEQUENCES_FILE

# Upper and lower case, digits, signs, and white space of every kind that code is laid out with.
PROBE: Final = "Two words, A1.\n\n\tx = {'a':  2}\n"
# Of texts whose tokens spell another text: as many as may be rejected of a corpus by default.
MAX_CHANGED_SHARE: Final = 0.01
# Some megabytes of text and token places, at 1,024 tokens a row.
_ROWS_PER_BATCH: Final = 1_024


def write_refined_sequences(
    refined: Sequence[Path],
    documents: Path,
    *,
    shard: str,
    tokenizer_folder: Path,
    named: str,
    sequences: Sequences,
    shard_fingerprint: str,
    folder: Path,
    report: Report,
) -> dict[str, Any]:
    """Tokenise and pack what is selected of a shard.

    Args:
        refined: the selected sequences of the shard, with `sequence_id`, `domain`, `spans` and `texts`, ordered by
            sequence_id; none where nothing is selected.
        documents: the shard's documents.parquet.
        shard: its name.
        tokenizer_folder: what `load_tokenizer` reads.
        named: what messages call the tokenizer.
        sequences: length, and whether to trim.
        shard_fingerprint: fingerprint of this result, where the ids begin.
        folder: gets sequences.parquet, ordered by sequence_id, and rejected.parquet.
        report: called with a sentence every few seconds.

    Returns:
        num_passages (that are packed), num_cut_passages (of all, those that end before their document does),
        num_changed_passages (of those that are packed, those whose tokens spell another text), num_rejected,
        num_rejected_bytes, rejected_per_reason, num_sequences, num_tokens, num_bytes (of the texts as written).

    Raises:
        CorpusError: if the selected sequences overlap, or this tokenizer can encode none of the passages.
        ModelError: if the tokenizer cannot be used, or changes every text.
    """
    tokenizer = load_tokenizer(tokenizer_folder, origin=named)
    require_kept_text(tokenizer, named)
    counts: Counter[str] = Counter(dict.fromkeys(("num_cut_passages", "num_changed_passages", "num_selected_bytes"), 0))

    def counted(passages: Iterator[Given]) -> Iterator[Given]:
        for passage in passages:
            counts["num_selected_bytes"] += passage.num_bytes
            counts["num_cut_passages"] += passage.is_cut
            yield passage

    def look_at(given: list[Given], encoded: EncodedTexts) -> None:
        counts["num_changed_passages"] += _num_changed(given, encoded, tokenizer)

    facts = write_packed(
        chunks_of(counted(passages_of(refined, Extents.of(documents), shard))),
        words="passages",
        shard=shard,
        tokenizer=tokenizer,
        sequences=sequences,
        shard_fingerprint=shard_fingerprint,
        folder=folder,
        report=report,
        schema=REFINED_SEQUENCES,
        look_at=look_at,
    )
    del facts["tokens_per_split"]  # all of them are candidates
    written = pl.scan_parquet(folder / SEQUENCES_FILE, glob=False).select(pl.col("num_bytes").sum()).collect().item()
    num_selected_bytes = counts.pop("num_selected_bytes")
    return {
        "num_passages": facts.pop("num_texts"),
        **counts,
        "num_rejected_bytes": num_selected_bytes - facts.pop("num_bytes"),
        **facts,
        "num_bytes": written,
    }


@dataclass
class _Open:
    """A passage that may go on in the next sequence of its domain."""

    document_id: int
    char_start: int
    char_end: int
    texts: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Extents:
    """The candidates of a corpus file, some millions maybe: int64 of shape (documents,), by rising id.

    Attributes:
        document_ids: of each.
        lines: in the corpus file.
        num_characters: of its text.
    """

    document_ids: NDArray[np.int64]
    lines: NDArray[np.int64]
    num_characters: NDArray[np.int64]

    @classmethod
    def of(cls, documents: Path) -> "Extents":
        """Read them off a documents.parquet."""
        rows = (
            pl.scan_parquet(documents, glob=False)
            .filter(pl.col("split") == CANDIDATE)
            .select("document_id", "line", pl.col("text").str.len_chars().cast(pl.Int64))
            .collect()
            .sort("document_id")
        )
        document_ids, lines, num_characters = (column.to_numpy() for column in rows.iter_columns())
        return cls(document_ids=document_ids, lines=lines, num_characters=num_characters)

    def line_and_length(self, document_id: int) -> tuple[int, int]:
        """Return the line of a document in the corpus file, and its length in characters.

        Raises:
            CorpusError: if it is none of the candidates.
        """
        place = int(np.searchsorted(self.document_ids, document_id))
        if place == len(self.document_ids) or self.document_ids[place] != document_id:
            raise CorpusError(
                f"document {document_id} is selected, and is none of the {len(self.document_ids):,} candidates of its "
                "corpus file; materialise the refined corpus again"
            )
        return int(self.lines[place]), int(self.num_characters[place])


def passages_of(refined: Sequence[Path], extents: Extents, shard: str) -> Iterator[Given]:
    """Go through the passages of selected sequences, those of a domain in their order; one without text is none.

    The sequences of a domain follow each other as their texts do, so that only the last passage of each is held.

    Args:
        refined: as in `write_refined_sequences`.
        extents: of the documents.
        shard: what messages call the sequences.

    Raises:
        CorpusError: if a sequence begins before the end of the one before it.
    """
    opened: dict[str, _Open] = {}
    number = 0

    def closed(domain: str, one: _Open) -> Iterator[Given]:
        nonlocal number
        text = "".join(one.texts)
        if text:
            line, num_characters = extents.line_and_length(one.document_id)
            yield Given(
                number=number,
                text=text,
                num_bytes=len(text.encode()),
                domain=domain,
                split=CANDIDATE,
                document_id=one.document_id,
                char_start=one.char_start,
                line=line,
                is_cut=one.char_end < num_characters,
            )
            number += 1

    for row in _rows(refined):
        domain = row["domain"]
        for span, text in zip(row["spans"], row["texts"], strict=True):
            document_id, start, end = span["document_id"], span["char_start"], span["char_end"]
            last = opened.get(domain)
            if last is not None and last.document_id == document_id:
                if start < last.char_end:
                    raise CorpusError(
                        f"shard {shard}: sequence {row['sequence_id']} begins at character {start:,} of document "
                        f"{document_id}, of which the sequence before it has those up to {last.char_end:,}: these are "
                        "not the sequences of one packing; materialise the refined corpus again"
                    )
                if start == last.char_end:
                    last.texts.append(text)
                    last.char_end = end
                    continue
            if last is not None:
                yield from closed(domain, last)
            opened[domain] = _Open(document_id, start, end, [text])
    for domain, last in sorted(opened.items()):
        yield from closed(domain, last)


def require_kept_text(tokenizer: PackingTokenizer, named: str) -> None:
    """Make sure that what a tokenizer reads can be read back; a space that it puts in front of a text is its own.

    Raises:
        ModelError: if plain text of letters, digits, signs and white space comes back changed.
    """
    found = tokenizer.decode(tokenizer.encode([PROBE]).token_ids.tolist())
    if found not in (PROBE, f" {PROBE}"):
        raise ModelError(
            f"tokenizer {named}: does not keep a text: of {PROBE!r} comes back {found!r}. Its student would learn "
            "another text than what was selected, and its bits per byte would be of another one. Name a tokenizer that "
            "spells every text out, byte-level or with byte fallback, as those of published causal models do"
        )


def _rows(refined: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for path in refined:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS_PER_BATCH, columns=["sequence_id", "domain", "spans", "texts"]):
                yield from batch.to_pylist()


def _num_changed(given: Sequence[Given], encoded: EncodedTexts, tokenizer: PackingTokenizer) -> int:
    """Return how many texts have tokens that spell another number of bytes, a space in front of each apart."""
    if not given:
        return 0
    spelt = np.add.reduceat(tokenizer.token_num_bytes[encoded.token_ids], encoded.text_starts[:-1], dtype=np.int64)
    more = spelt - np.array([one.num_bytes for one in given])
    return int(((more != 0) & (more != 1)).sum())
