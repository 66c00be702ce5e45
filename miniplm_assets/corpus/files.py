"""Which files lie under a path, links followed, and which of them are no corpus files, with the reason.

Never taken: what lies in the warehouse, and names that begin with ``.`` or ``_``, which tools use for what is not yet,
or no longer, or not at all data.
"""

import os
import re
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import fsspec
from fsspec.implementations.local import LocalFileSystem

from miniplm_assets.core.errors import CorpusError
from miniplm_assets.core.recipe import fingerprint_of
from miniplm_assets.corpus.cleaning import storable
from miniplm_assets.corpus.streams import filesystem_of

HIDDEN: Final = (".", "_")
IN_WAREHOUSE: Final = "lies in the warehouse"
HIDDEN_NAME: Final = "its name begins with . or _"
_DEAD_LINK: Final = "is a link that leads nowhere"
_LOOP: Final = "is a link to a folder that it lies in"
_NO_FILE: Final = "is neither a file nor a folder"
_FOLDER_OF_PATTERN: Final = "is a folder, and the pattern names files; end it in /** to read what lies in folders"
# What remote stores change whenever a file's content changes.
_CONTENT_MARKS: Final = ("ETag", "etag", "md5Hash", "content_md5", "checksum", "sha256", "generation")
_PATTERN: Final = re.compile(r"[*?[]")
# Endings of text and data as other tools write them: whoever puts such a file into a corpus folder means it.
_CORPUS_LIKE: Final = re.compile(
    r"\.(jsonl?|ndjson|parquet|pq|txt|text|csv|tsv|arrow|feather|avro|orc|w?arc|wet|tar|zip|7z|rar"
    r"|gz|bz2|xz|zstd?|lz4|lzma|lzo|br|tgz|sz|snappy|z)$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class FileState:
    """Size and stamp of a file; see `listing.Shard`."""

    num_bytes: int
    stamp: str | None
    modified_ns: int


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that is not taken.

    Attributes:
        name: relative to the source.
        reason: why.
        looks_like_corpus: whether its name says that it holds text or data.
    """

    name: str
    reason: str
    looks_like_corpus: bool

    @classmethod
    def because(cls, name: str, reason: str) -> "LeftOut":
        """Return a file that is left out for a reason; whether it was meant to be read, its name says."""
        is_like_corpus = reason not in (IN_WAREHOUSE, HIDDEN_NAME) and _CORPUS_LIKE.search(name) is not None
        return cls(storable(name), reason, is_like_corpus or reason in (_DEAD_LINK, _FOLDER_OF_PATTERN))


@dataclass(frozen=True)
class FoundFiles:
    """What lies under a path: URL and state of each file by its name relative to the path, and what is not taken."""

    files: dict[str, tuple[str, FileState]]
    left_out: tuple[LeftOut, ...]


def find_files(location: str, *, endings: Collection[str], apart: Path | None) -> FoundFiles:
    """Find the files of a file, a folder or a glob pattern.

    Args:
        location: local, or any fsspec URL.
        endings: in lower case; none: all files. A file that is named outright is taken whatever its ending.
        apart: a folder that is never looked into: the warehouse.

    Raises:
        CorpusError: if there is no such place, it lies in the warehouse, or a file's name is not UTF-8.
    """
    filesystem, root = filesystem_of(location)
    if isinstance(filesystem, LocalFileSystem):
        _require_apart(Path(root), apart)
    base, candidates = _candidates(filesystem, root, apart)
    files: dict[str, tuple[str, FileState]] = {}
    left_out: list[LeftOut] = []
    for path, info, why_not in candidates:
        name = (path[len(base) :].lstrip("/") if base else path) or path.rpartition("/")[2]
        reason = why_not or _reason_against(name, endings if path != root else ())
        if reason is not None:
            left_out.append(LeftOut.because(name, reason))
            continue
        if name != storable(name):
            encoding = sys.getfilesystemencoding()
            raise CorpusError(
                f"{storable(path)}: the name of this file is not UTF-8, so that no table could hold it; rename it"
                if encoding == "utf-8"
                else f"{storable(path)}: Python takes the names of files for {encoding} here, and this one is not; set "
                "PYTHONUTF8=1, or LC_ALL to a locale of UTF-8 such as C.UTF-8"
            )
        files[name] = (filesystem.unstrip_protocol(path), state_of(filesystem, path, info))
    return FoundFiles(files, tuple(sorted(left_out, key=lambda one: one.name)))


def is_pattern(path: str) -> bool:
    """Whether a path holds a wildcard."""
    return _PATTERN.search(path) is not None


def state_of(filesystem: fsspec.AbstractFileSystem, path: str, info: dict[str, Any]) -> FileState:
    """Return size and stamp of a file.

    Args:
        filesystem: where it lies.
        path: on it.
        info: what a remote file system says of it.
    """
    if isinstance(filesystem, LocalFileSystem):
        return local_state(Path(path))
    url = filesystem.unstrip_protocol(path)
    if is_pinned(url):
        return FileState(int(info["size"]), url, 0)
    marks = {mark: str(info[mark]) for mark in _CONTENT_MARKS if info.get(mark) is not None}
    num_bytes = int(info["size"] or 0)
    return FileState(num_bytes, fingerprint_of({"size": num_bytes, **marks}) if marks else None, 0)


def local_state(path: Path) -> FileState:
    """Return size and stamp of a file of this machine."""
    status = path.stat()
    # The change time too: a copy that keeps the modification time cannot keep that one.
    modified_ns = max(status.st_mtime_ns, status.st_ctime_ns)
    stamp = f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_ino}"
    return FileState(status.st_size, stamp, modified_ns)


def is_pinned(url: str) -> bool:
    """Whether a URL names its content: a file on the Hugging Face hub at a full commit hash."""
    if not url.startswith("hf://") or "@" not in url:
        return False
    revision = url.partition("@")[2].partition("/")[0]
    return len(revision) == 40 and all(digit in "0123456789abcdef" for digit in revision)


def _reason_against(name: str, endings: Collection[str]) -> str | None:
    if any(part.startswith(HIDDEN) for part in name.split("/")):
        return HIDDEN_NAME
    if endings and not name.lower().endswith(tuple(endings)):
        return "its ending is none that this type of source reads"
    return None


def _require_apart(root: Path, apart: Path | None) -> None:
    if apart is not None and root.resolve().is_relative_to(apart.resolve()):
        raise CorpusError(
            f"corpus.source.path {root} lies in the warehouse {apart}, where results come and go; put one of the two "
            "elsewhere"
        )


_Candidate = tuple[str, dict[str, Any], str | None]


def _candidates(
    filesystem: fsspec.AbstractFileSystem, root: str, apart: Path | None
) -> tuple[str, Iterator[_Candidate]]:
    """Return the folder that names are relative to; and path, info and a reason against each file, None for none."""
    if filesystem.isfile(root):
        return root.rpartition("/")[0], iter([(root, filesystem.info(root), None)])
    is_folder = filesystem.isdir(root)
    if is_folder and isinstance(filesystem, LocalFileSystem):
        return root.rstrip("/"), _walk(Path(root), apart, ())
    if is_folder:
        found = filesystem.find(root, detail=True)
        return root.rstrip("/"), ((path, info, None) for path, info in found.items() if info["type"] == "file")
    if not is_pattern(root):
        raise CorpusError(
            f"corpus.source.path {root} does not exist: there is no such file or folder. Correct it in the experiment "
            "file; a relative path is relative to that file."
        )
    return _literal_start(root), _matching(filesystem, root, apart)


def _walk(folder: Path, apart: Path | None, above: tuple[tuple[int, int], ...]) -> Iterator[_Candidate]:
    """Go through the files of a local folder, links followed."""
    if apart is not None and folder.resolve() == apart.resolve():
        yield str(folder), {}, IN_WAREHOUSE
        return
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        yield str(folder), {}, _LOOP
        return
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if not entry.is_dir():
                yield _local(entry.path)
            elif entry.name.startswith(HIDDEN):
                yield entry.path, {}, HIDDEN_NAME
            else:
                yield from _walk(Path(entry.path), apart, (*above, identity))


def _local(path: str) -> _Candidate:
    if Path(path).is_file():
        return path, {}, None
    return path, {}, _DEAD_LINK if Path(path).is_symlink() else _NO_FILE


def _matching(filesystem: fsspec.AbstractFileSystem, pattern: str, apart: Path | None) -> Iterator[_Candidate]:
    """Go through what matches a glob pattern."""
    is_deep = pattern.endswith("**")
    for path, info in filesystem.glob(pattern, detail=True).items():
        if not isinstance(filesystem, LocalFileSystem):
            if info["type"] == "file":
                yield path, info, None
        elif apart is not None and Path(path).resolve().is_relative_to(apart.resolve()):
            yield path, info, IN_WAREHOUSE
        elif not Path(path).is_dir():
            yield _local(path)
        elif not is_deep:
            yield path, info, _FOLDER_OF_PATTERN


def _literal_start(pattern: str) -> str:
    """Return the folders of a glob pattern that stand before its first wildcard."""
    parts = pattern.split("/")
    first = next(index for index, part in enumerate(parts) if is_pattern(part))
    return "/".join(parts[:first])
