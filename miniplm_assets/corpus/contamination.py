"""Which texts share a run of words with a text that models are measured by.

Words are compared without case and punctuation. Of each run of so many words (13 in GPT-3's report, arXiv 2005.14165,
appendix C) a hash of 64 bits stands for the words: of 10^9 runs that are protected and 10^10 that are looked for, one
is taken for another by chance. A text shorter than a run shares none.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from miniplm_assets.core.errors import CorpusError
from miniplm_assets.corpus.signatures import WITHOUT_SPACES

# As signatures' words, but without the punctuation of all scripts: letters and digits, in any of them.
_WORD: Final = re.compile(rf"[{WITHOUT_SPACES}]|[^\W_{WITHOUT_SPACES}]+")
# An odd factor with its bits spread: the fraction of the golden ratio.
_FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)
# Words whose hashes are remembered: some hundred megabytes at most.
_MAX_WORDS: Final = 1 << 20
NGRAMS: Final = pa.schema([("ngram_hash", pa.uint64()), ("found_in", pa.dictionary(pa.int32(), pa.string()))])


class _WordHashes(dict[str, int]):
    """The hash of each word that was asked for."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _MAX_WORDS:
            self.clear()
        found = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
        self[word] = found
        return found


@dataclass(frozen=True, kw_only=True)
class Ngrams:
    """The runs of words of some texts.

    Attributes:
        hashes: of each run, uint64 of shape (num_runs,).
        owners: place of its text, of the same shape; those of a text are neighbours.
        places: of its first word in that text, of the same shape.
        words: of each text.
    """

    hashes: NDArray[np.uint64]
    owners: NDArray[np.intp]
    places: NDArray[np.intp]
    words: list[list[str]]


_hash_of_word = _WordHashes().__getitem__


def ngrams_of(texts: Sequence[str], num_words: int) -> Ngrams:
    """Return the runs of so many words of each text."""
    words = [_WORD.findall(text.lower()) for text in texts]
    lengths = np.array([len(some) for some in words], dtype=np.intp)
    total = int(lengths.sum())
    if total < num_words:
        nothing = np.empty(0, dtype=np.intp)
        return Ngrams(hashes=nothing.astype(np.uint64), owners=nothing, places=nothing, words=words)
    of_words = np.fromiter((_hash_of_word(word) for some in words for word in some), dtype=np.uint64, count=total)
    num_runs = total - num_words + 1
    hashes = np.zeros(num_runs, dtype=np.uint64)
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
        for place in range(num_words):
            hashes = hashes * _FACTOR + of_words[place : place + num_runs]
        hashes = (hashes ^ (hashes >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
        hashes ^= hashes >> np.uint64(32)
    owners = np.repeat(np.arange(len(texts)), lengths)
    places = np.arange(total) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    is_of_one_text = owners[:num_runs] == owners[num_words - 1 :]
    return Ngrams(
        hashes=hashes[is_of_one_text],
        owners=owners[:num_runs][is_of_one_text],
        places=places[:num_runs][is_of_one_text],
        words=words,
    )


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What a text shares with one that is protected.

    Attributes:
        found_in: what holds the first shared run: a file, or the validation split.
        ngram: its words.
        num_ngrams: runs that are shared with any.
    """

    found_in: str
    ngram: str
    num_ngrams: int


class Protected:
    """The runs of words of all texts that models are measured by: 12 bytes for each.

    Args:
        num_words: of a run.
    """

    def __init__(self, num_words: int) -> None:
        self._num_words = num_words
        self._hashes = np.empty(0, dtype=np.uint64)
        self._sources = np.empty(0, dtype=np.int32)
        self._names: list[str] = []

    def add(self, hashes: NDArray[np.uint64], found_in: str) -> None:
        """Protect some more runs, by their hashes; those that are there keep the name that they have."""
        if found_in not in self._names:
            self._names.append(found_in)
        source = np.full(len(hashes), self._names.index(found_in), dtype=np.int32)
        everything = np.concatenate([self._hashes, hashes])
        self._hashes, first = np.unique(everything, return_index=True)
        self._sources = np.concatenate([self._sources, source])[first]

    def find(self, texts: Sequence[str]) -> list[Shared | None]:
        """Return what each text shares with any that is protected; None for nothing."""
        found: list[Shared | None] = [None] * len(texts)
        if not len(self._hashes):
            return found
        runs = ngrams_of(texts, self._num_words)
        places = np.minimum(np.searchsorted(self._hashes, runs.hashes), len(self._hashes) - 1)
        hits = np.flatnonzero(self._hashes[places] == runs.hashes)
        owners, first, counts = np.unique(runs.owners[hits], return_index=True, return_counts=True)
        for owner, hit, count in zip(owners.tolist(), hits[first].tolist(), counts.tolist(), strict=True):
            start = int(runs.places[hit])
            found[owner] = Shared(
                found_in=self._names[self._sources[places[hit]]],
                ngram=" ".join(runs.words[owner][start : start + self._num_words]),
                num_ngrams=count,
            )
        return found

    def read(self, file: Path) -> None:
        """Protect what a result keeps: see `write`."""
        table = pq.read_table(file, schema=NGRAMS)
        names = table["found_in"].cast(pa.string()).to_numpy(zero_copy_only=False)
        for name in sorted(set(names.tolist())):
            self.add(table["ngram_hash"].to_numpy()[names == name], name)

    def write(self, file: Path) -> None:
        """Write all that is protected, in the order of the hashes."""
        sources = pa.DictionaryArray.from_arrays(pa.array(self._sources), pa.array(self._names, pa.string()))
        pq.write_table(pa.table([pa.array(self._hashes), sources], schema=NGRAMS), file, compression="zstd")

    @property
    def hashes(self) -> NDArray[np.uint64]:
        """Of all runs, rising."""
        return self._hashes

    def __len__(self) -> int:
        return len(self._hashes)


def texts_of_file(path: Path) -> Iterator[str]:
    """Go through the texts of a benchmark's file: all of a .txt; of a .jsonl every string, however deep it stands.

    Raises:
        CorpusError: if it is not UTF-8, or a line is no JSON.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: corpus.decontamination expects UTF-8 ({error}); save it as that") from error
    if path.suffix.lower() != ".jsonl":
        yield content
        return
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            try:
                yield from _strings(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise CorpusError(
                    f"{path}, line {number}: corpus.decontamination expects JSON on each line of a .jsonl ({error}); "
                    "correct it, or name it .txt"
                ) from error


def _strings(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            yield from (one for inner in value.values() for one in _strings(inner))
        case list():
            yield from (one for inner in value for one in _strings(inner))


def protect_texts(protected: Protected, texts: Iterable[str], *, num_words: int, found_in: str) -> int:
    """Protect the runs of words of some texts; return how many texts are too short to have one.

    Args:
        protected: gets them.
        texts: of any number.
        num_words: of a run.
        found_in: what holds the texts.
    """
    num_short = 0
    hashes = []
    for text in texts:
        runs = ngrams_of([text], num_words)
        hashes.append(runs.hashes)
        num_short += not len(runs.hashes)
    if hashes:
        protected.add(np.unique(np.concatenate(hashes)), found_in)
    return num_short
