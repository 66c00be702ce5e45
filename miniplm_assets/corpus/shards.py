"""What the corpus is now: a fingerprint of each shard's content, without reading again what has not changed."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from miniplm_assets.core.errors import CorpusChangedError, CorpusError, UnreachableCorpusError
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
    "unchanged_while_read",
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
    source: FileSource,
    *,
    known: Mapping[str, tuple[str, str]],
    now_ns: int,
    warehouse: Path | None = None,
    on_read: Callable[[Sequence["ObservedShard"], int], None] = lambda _observed, _num_shards: None,
) -> Observed:
    """Fingerprint the shards of a source; only those whose stamp changed are read.

    Args:
        source: where the files are.
        known: stamp and fingerprint by shard name, of those shards of the last observation that have a stamp.
        now_ns: the clock, read just before the call.
        warehouse: a folder that is never looked into.
        on_read: called after each shard that had to be read, with what is observed so far, and of how many.

    Raises:
        CorpusError: if there is no corpus, or a file cannot be read.
    """
    observed: list[ObservedShard] = []
    listed = list_shards(source, warehouse=warehouse)
    for shard in listed.shards:
        stamp, fingerprint = known.get(shard.name, (None, ""))
        is_read = stamp is None or stamp != shard.stamp
        if is_read:
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
        if is_read:
            on_read(observed, len(listed.shards))
    return Observed(shards=tuple(observed), left_out=listed.left_out)


def fingerprint_shard(shard: Shard) -> str:
    """Return the fingerprint of a shard's content (32 hexadecimal digits of SHA-256).

    A file on the hub at a commit hash is named by its address and not read. A folder of text files is its
    domain and the names and contents of its files.

    Raises:
        CorpusError: if a file cannot be read.
    """
    return _fingerprint(shard.name, shard.files, shard.file_names, shard.domain)


@contextmanager
def unchanged_while_read(shard: ObservedShard, *, source: Source) -> Iterator[None]:
    """Make sure that what is read is what was observed; what is wrong with another content is not its reader's fault.

    Args:
        shard: as observed.
        source: where it comes from.

    Raises:
        CorpusChangedError: if the files have another content now, or are gone.
    """
    try:
        stamp_before = current_stamp(shard.files)
        yield
        if shard.stamp is not None and stamp_before == shard.stamp == current_stamp(shard.files):
            return
    except UnreachableCorpusError:
        raise
    except CorpusError:
        _require_unchanged(shard, source)
        raise
    _require_unchanged(shard, source)


def _require_unchanged(shard: ObservedShard, source: Source) -> None:
    names = file_names(shard.name, shard.files, source)
    try:
        found = _fingerprint(shard.name, shard.files, names, default_domain(shard.name, source))
    except CorpusError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            return  # not to be read, which says nothing of what is in it
        found = "gone"
    if found != shard.fingerprint:
        raise CorpusChangedError(
            f"shard {shard.name}: its files changed while the run was at work (fingerprint {shard.fingerprint} when "
            f"the corpus was looked at, {found} now). Start again when nothing writes to them any more."
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
