"""What the corpus is now: a fingerprint of each shard's content, without reading again what has not changed."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from miniplm_assets.core.errors import CorpusError
from miniplm_assets.core.recipe import FINGERPRINT_HEX_DIGITS, fingerprint_of
from miniplm_assets.corpus.files import LeftOut, is_pinned
from miniplm_assets.corpus.listing import (
    FileSource,
    Shard,
    current_stamp,
    default_domain,
    file_names,
    list_shards,
)
from miniplm_assets.corpus.streams import explained, open_raw
from miniplm_assets.experiment.sources import Source

__all__ = [
    "FileSource",
    "Observed",
    "ObservedShard",
    "Shard",
    "fingerprint_shard",
    "list_shards",
    "observe_corpus",
    "require_unchanged",
]

# git's rule for its index: a file that changed just now may change again, in the same size and within the same
# tick of the clock. 2 seconds are the coarsest tick of a file system in use (FAT).
RACY_NS: Final = 2_000_000_000
_READ_BYTES: Final = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ObservedShard:
    """A corpus file as it was seen.

    Attributes:
        name: as in `Shard`.
        files: fsspec URLs.
        num_bytes: size of the files.
        fingerprint: of their content.
        stamp: as in `Shard`; None where it proves nothing the next time.
    """

    name: str
    files: tuple[str, ...]
    num_bytes: int
    fingerprint: str
    stamp: str | None


@dataclass(frozen=True, kw_only=True)
class Observed:
    """The corpus as it was seen: its shards, by name; and what lies beside them and is none."""

    shards: tuple[ObservedShard, ...]
    left_out: tuple[LeftOut, ...]


def observe_corpus(
    source: FileSource, *, known: Mapping[str, tuple[str, str]], now_ns: int, warehouse: Path | None = None
) -> Observed:
    """Fingerprint the shards of a source; only those whose stamp changed are read.

    Args:
        source: where the files are.
        known: stamp and fingerprint by shard name, of those shards of the last observation that have a stamp.
        now_ns: the clock, read just before the call.
        warehouse: a folder that is never looked into.

    Raises:
        CorpusError: if there is no corpus, or a file cannot be read.
    """
    observed = []
    listed = list_shards(source, warehouse=warehouse)
    for shard in listed.shards:
        stamp, fingerprint = known.get(shard.name, (None, ""))
        if stamp is None or stamp != shard.stamp:
            fingerprint = fingerprint_shard(shard)
        is_racy = shard.modified_ns > now_ns - RACY_NS
        observed.append(
            ObservedShard(
                name=shard.name,
                files=shard.files,
                num_bytes=shard.num_bytes,
                fingerprint=fingerprint,
                stamp=None if is_racy else shard.stamp,
            )
        )
    return Observed(shards=tuple(observed), left_out=listed.left_out)


def fingerprint_shard(shard: Shard) -> str:
    """Return the fingerprint of a shard's content (32 hexadecimal digits of SHA-256).

    A file on the hub at a commit hash is named by its address and not read. A folder of text files is its
    domain and the names and contents of its files.

    Raises:
        CorpusError: if a file cannot be read.
    """
    return _fingerprint(shard.name, shard.files, shard.file_names, shard.domain)


def require_unchanged(shard: ObservedShard, *, source: Source, stamp_before: str | None) -> None:
    """Make sure that what was just read is what was observed.

    Args:
        shard: as observed.
        source: where it comes from.
        stamp_before: `current_stamp` before its files were opened.

    Raises:
        CorpusError: if the content is another one now.
    """
    is_untouched = shard.stamp is not None and stamp_before == shard.stamp == current_stamp(shard.files)
    if is_untouched:
        return
    names = file_names(shard.name, shard.files, source)
    found = _fingerprint(shard.name, shard.files, names, default_domain(shard.name, source))
    if found != shard.fingerprint:
        raise CorpusError(
            f"shard {shard.name}: its files changed while they were read (fingerprint {shard.fingerprint} when the "
            f"corpus was observed, {found} now). Start again when nothing writes to them any more."
        )


def _fingerprint(shard: str, files: tuple[str, ...], names: tuple[str, ...], domain: str) -> str:
    if all(is_pinned(url) for url in files):
        return fingerprint_of(list(files))
    if names == (shard,):  # a shard that is a file; a folder of texts has another name than its files
        return _sha256(files[0])[:FINGERPRINT_HEX_DIGITS]
    return fingerprint_of([domain, [[name, _sha256(url)] for name, url in zip(names, files, strict=True)]])


def _sha256(url: str) -> str:
    digest = hashlib.sha256()
    with explained(url), open_raw(url) as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()
