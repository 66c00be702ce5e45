"""Opening source files: local or remote, plain or compressed, read in bounded memory."""

import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Final

import fsspec
import pyarrow as pa
import zstandard
from fsspec.compression import compr
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from miniplm_assets.core.doors import cause_of
from miniplm_assets.core.errors import CorpusError, MiniplmError, UnreachableCorpusError
from miniplm_assets.storage.hub import may_pass

# What a damaged, unreachable or forbidden file raises, by the library that reads it.
DAMAGE = (EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError, zipfile.BadZipFile, pa.ArrowException)

_BUFFER_BYTES = 1 << 20
# 16 kB of Zstandard are some 60 kB of text; larger reads would let a few hostile bytes fill the memory.
_COMPRESSED_BYTES = 1 << 14
# Endings of compressed files, in lower case, and what fsspec calls that.
COMPRESSIONS: Final = {
    ".gz": "gzip",
    ".bgz": "gzip",
    ".bz2": "bz2",
    ".xz": "xz",
    ".lzma": "lzma",
    ".zst": "zstd",
    ".zstd": "zstd",
    ".zip": "zip",
}
# What `zstd --long=31` writes; large corpora are published that way.
_MAX_WINDOW_BYTES = 1 << 31


@contextmanager
def explained(file: str) -> Iterator[None]:
    """Turn the errors of reading a file into one that names it.

    Args:
        file: its URL.

    Raises:
        CorpusError: if the file is damaged, cut off, missing or may not be read.
        UnreachableCorpusError: if it lies elsewhere and is out of reach.
    """
    try:
        yield
    except MiniplmError:
        raise
    except Exception as error:  # every file system and every format has errors of its own kind
        is_unreachable = is_remote(file) and not isinstance(error, DAMAGE) and may_pass(error)
        kind = UnreachableCorpusError if is_unreachable else CorpusError
        raise kind(
            f"{file} cannot be read ({cause_of(error)}). Check that it is complete and that this user may read it; "
            "replace it, or take it out of the corpus, and start again."
        ) from error


def is_remote(url: str) -> bool:
    """Whether a URL leads out of this machine's own file tree."""
    return "://" in url and not url.startswith(("file://", "local://"))


def filesystem_of(location: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the file system of a path or URL, and the path on it: as it stands, whatever characters it holds."""
    if is_remote(location):
        filesystem, path = url_to_fs(location)
        return filesystem, str(path)
    filesystem = LocalFileSystem()  # of a path, fsspec itself would take :: for a chain of file systems
    return filesystem, str(filesystem._strip_protocol(location))


@contextmanager
def open_raw(url: str) -> Iterator[BinaryIO]:
    """Open a file for reading, as it is stored. fsspec's own ``open`` would take ``[1]`` in a name for a pattern."""
    filesystem, path = filesystem_of(url)
    with filesystem.open(path, "rb") as file:
        yield file


@contextmanager
def open_bytes(url: str) -> Iterator[BinaryIO]:
    """Open a file for reading, decompressed by its ending.

    Raises:
        CorpusError: if it is a zip archive of several files.
    """
    compression = COMPRESSIONS.get(PurePosixPath(url).suffix.lower())
    with (
        open_raw(url) as stored,
        _decompressed(url, stored, compression) as file,
        io.BufferedReader(file, _BUFFER_BYTES) as buffered,
    ):
        yield buffered


@contextmanager
def _decompressed(url: str, stored: BinaryIO, compression: str | None) -> Iterator[Any]:
    match compression:
        case None:
            yield stored
        case "zstd":
            # fsspec's own reader stops after the first frame, and takes a file cut in the middle for whole.
            yield _ZstandardFrames(stored)
        case "zip":
            # fsspec's own reader reads the first file and says nothing of the others.
            with zipfile.ZipFile(stored) as archive:
                names = [name for name in archive.namelist() if not name.endswith("/")]
                if len(names) != 1:
                    raise CorpusError(
                        f"{url}: a zip archive of {len(names)} files, where one is expected; unpack it, and name the "
                        "folder"
                    )
                with archive.open(names[0]) as file:
                    yield file
        case _:
            with compr[compression](stored, mode="rb") as file:
                yield file


class _ZstandardFrames(io.RawIOBase):
    """All frames of a Zstandard file, one after the other."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decompressor: zstandard.ZstdDecompressionObj | None = None
        self._compressed = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target: memoryview) -> int:  # type: ignore[override]
        while not self._ready:
            if not self._decompress():
                return 0
        num_bytes = min(len(target), len(self._ready))
        target[:num_bytes] = self._ready[:num_bytes]
        self._ready = self._ready[num_bytes:]
        return num_bytes

    def _decompress(self) -> bool:
        compressed = self._compressed or self._file.read(_COMPRESSED_BYTES)
        self._compressed = b""
        if not compressed:
            if self._decompressor is not None:
                raise EOFError("the compressed file ends in the middle of a frame")
            return False
        if self._decompressor is None:
            self._decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).decompressobj()
        self._ready = memoryview(self._decompressor.decompress(compressed))
        if self._decompressor.eof:
            self._compressed = self._decompressor.unused_data
            self._decompressor = None
        return True


def bounded_lines(file: BinaryIO, *, max_bytes: int) -> Iterator[tuple[bytes, bool]]:
    """Go through the lines of a file without ever holding more than `max_bytes` of one.

    Yields:
        The line, and whether it is whole; of a longer line, the first `max_bytes`.
    """
    while line := file.readline(max_bytes + 1):
        is_whole = len(line) <= max_bytes or line.endswith(b"\n")
        yield line[:max_bytes] if not is_whole else line, is_whole
        rest = line
        while not is_whole and rest and not rest.endswith(b"\n"):
            rest = file.readline(_BUFFER_BYTES)
