"""Which corpus files there are. A shard is one corpus file, or one folder of text files; nothing is copied."""

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from miniplm_assets.core.errors import CorpusError
from miniplm_assets.core.recipe import fingerprint_of
from miniplm_assets.corpus.streams import explained
from miniplm_assets.experiment.sources import HuggingFaceSource, JsonlSource, ParquetSource, Source, TextSource

# The demo's files are written first, and then read as JSONL.
FileSource = JsonlSource | ParquetSource | TextSource | HuggingFaceSource

JSONL_ENDINGS: Final = tuple(
    f".{name}{compression}" for name in ("jsonl", "json", "ndjson") for compression in ("", ".gz", ".zst")
)
PARQUET_ENDINGS: Final = (".parquet",)
# The shard of the text files that lie in the source folder itself.
TOP_FOLDER: Final = "."
# What remote stores change whenever a file's content changes.
_CONTENT_MARKS: Final = ("ETag", "etag", "md5Hash", "content_md5", "checksum", "sha256", "generation")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One corpus file, or one folder of text files.

    Attributes:
        name: path relative to the source, unique, with slashes on every system.
        files: fsspec URLs.
        file_names: the same files, relative to the source.
        domain: the domain of its documents where no field names one.
        num_bytes: size of the files.
        stamp: changes when a file changes, without reading it; None where nothing of the kind is known.
        modified_ns: when a file last changed, by the clock that stamped it; 0 where the stamp does not rest on a clock.
    """

    name: str
    files: tuple[str, ...]
    file_names: tuple[str, ...]
    domain: str
    num_bytes: int
    stamp: str | None
    modified_ns: int


@dataclass(frozen=True)
class _FileState:
    num_bytes: int
    stamp: str | None
    modified_ns: int


def list_shards(source: FileSource) -> list[Shard]:
    """Return the shards of a source, by name.

    Raises:
        CorpusError: if the folder is missing or is none, no file matches, or all files are empty.
    """
    location, endings = _where_and_what(source)
    with explained(location):
        if isinstance(source, TextSource):
            _require_folder(location)
        found = _find(location, endings)
        shards = [_combined(name, members, found, source) for name, members in _grouped(sorted(found), source)]
    if not shards:
        raise CorpusError(
            f"no corpus file found in {location}: looked for {_looked_for(source, endings)}. Check corpus.source in "
            "the experiment file; hidden files are left out."
        )
    if not any(shard.num_bytes for shard in shards):
        raise CorpusError(f"the corpus in {location} is empty: {len(shards)} files, all of 0 bytes. Give it some text.")
    return sorted(shards, key=lambda shard: shard.name)


def current_stamp(files: tuple[str, ...]) -> str | None:
    """Return the stamp that files have now, as `Shard` has it.

    Raises:
        CorpusError: if one is gone or out of reach.
    """
    states = []
    for url in files:
        with explained(url):
            filesystem, path = url_to_fs(url)
            is_asked = not (isinstance(filesystem, LocalFileSystem) or is_pinned(url))
            states.append(_state(filesystem, path, filesystem.info(path) if is_asked else {"size": 0}))
    return _joint_stamp(files, states)


def file_names(name: str, files: tuple[str, ...], source: Source) -> tuple[str, ...]:
    """Return the files of a shard relative to the source: what messages and tables say on every machine."""
    if not isinstance(source, TextSource):
        return (name,)
    root = _text_root(source)
    return tuple(url.removeprefix(root).lstrip("/") for url in files)


def default_domain(name: str, source: Source) -> str:
    """Return the domain of a shard's documents where no field names one.

    It is the name of the folder that the file lies in; for a file at the top, its own name without endings.
    """
    if isinstance(source, TextSource):
        return _text_root(source).rpartition("/")[2] if name == TOP_FOLDER else name
    path = PurePosixPath(name)
    return path.parent.name or path.name.partition(".")[0]


def is_pinned(url: str) -> bool:
    """Whether a URL names its content: a file on the Hugging Face hub at a full commit hash."""
    if not url.startswith("hf://") or "@" not in url:
        return False
    revision = url.partition("@")[2].partition("/")[0]
    return len(revision) == 40 and all(digit in "0123456789abcdef" for digit in revision)


def _where_and_what(source: FileSource) -> tuple[str, tuple[str, ...]]:
    match source:
        case JsonlSource():
            return source.path, JSONL_ENDINGS
        case ParquetSource():
            return source.path, PARQUET_ENDINGS
        case HuggingFaceSource():
            return f"hf://datasets/{source.id}@{source.revision}/{source.files}", JSONL_ENDINGS + PARQUET_ENDINGS
        case TextSource():
            return source.path, ()


def _looked_for(source: FileSource, endings: tuple[str, ...]) -> str:
    if isinstance(source, TextSource):
        return f"files that match {source.pattern!r}, in the folder and its sub-folders"
    return f"files that end in {', '.join(endings)}"


def _require_folder(location: str) -> None:
    filesystem, root = url_to_fs(location)
    if filesystem.isfile(root) or (_is_pattern(root) and not filesystem.isdir(root)):
        raise CorpusError(
            f"corpus.source.path {location} is a {'file' if filesystem.isfile(root) else 'pattern'}; a source of type "
            "text expects a folder. Name the folder, and say in corpus.source.pattern which of its files are documents."
        )


def _is_pattern(path: str) -> bool:
    return any(character in path for character in "*?[")


def _find(location: str, endings: tuple[str, ...]) -> dict[str, tuple[str, _FileState]]:
    """Return URL and state of each file, by its name relative to the source.

    `endings` may be empty: all files then. A file that is named outright is taken whatever its ending.
    """
    filesystem, root = url_to_fs(location)
    is_file = filesystem.isfile(root)
    if is_file:
        base, paths = root.rpartition("/")[0], {root: filesystem.info(root)}
    elif not filesystem.isdir(root) and _is_pattern(root):
        base = _literal_start(root)
        paths = filesystem.glob(root, detail=True)
    else:
        base = root.rstrip("/")
        paths = filesystem.find(root, detail=True)
    found = {}
    for path, info in paths.items():
        name = path[len(base) :].lstrip("/") if base else path
        is_hidden = any(part.startswith(".") for part in name.split("/"))
        is_wanted = is_file or not endings or name.endswith(endings)
        if info["type"] == "file" and is_wanted and not is_hidden:
            found[name] = (filesystem.unstrip_protocol(path), _state(filesystem, path, info))
    return found


def _literal_start(pattern: str) -> str:
    """Return the folders of a glob pattern that stand before its first wildcard."""
    parts = pattern.split("/")
    first = next(index for index, part in enumerate(parts) if _is_pattern(part))
    return "/".join(parts[:first])


def _grouped(names: list[str], source: FileSource) -> Iterator[tuple[str, list[str]]]:
    """Yield the name and the files of each shard."""
    if not isinstance(source, TextSource):
        yield from ((name, [name]) for name in names)
        return
    folders: dict[str, list[str]] = {}
    for name in names:
        folder, slash, _ = name.partition("/")
        if fnmatch.fnmatchcase(PurePosixPath(name).name, source.pattern):
            folders.setdefault(folder if slash else TOP_FOLDER, []).append(name)
    yield from folders.items()


def _combined(name: str, members: list[str], found: dict[str, tuple[str, _FileState]], source: FileSource) -> Shard:
    files = tuple(found[member][0] for member in members)
    states = [found[member][1] for member in members]
    return Shard(
        name=name,
        files=files,
        file_names=tuple(members),
        domain=default_domain(name, source),
        num_bytes=sum(state.num_bytes for state in states),
        stamp=_joint_stamp(files, states),
        modified_ns=max(state.modified_ns for state in states),
    )


def _joint_stamp(files: tuple[str, ...], states: list[_FileState]) -> str | None:
    stamps = [state.stamp for state in states]
    if None in stamps:
        return None
    return stamps[0] if len(stamps) == 1 else fingerprint_of(list(zip(files, stamps, strict=True)))


def _text_root(source: TextSource) -> str:
    filesystem, root = url_to_fs(source.path)
    return str(filesystem.unstrip_protocol(root)).rstrip("/")


def _state(filesystem: fsspec.AbstractFileSystem, path: str, info: dict[str, Any]) -> _FileState:
    if isinstance(filesystem, LocalFileSystem):
        status = Path(path).stat()
        # The change time too: a copy that keeps the modification time cannot keep that one.
        modified_ns = max(status.st_mtime_ns, status.st_ctime_ns)
        stamp = f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_ino}"
        return _FileState(status.st_size, stamp, modified_ns)
    url = filesystem.unstrip_protocol(path)
    if is_pinned(url):
        return _FileState(int(info["size"]), url, 0)
    marks = {mark: str(info[mark]) for mark in _CONTENT_MARKS if info.get(mark) is not None}
    num_bytes = int(info["size"] or 0)
    return _FileState(num_bytes, fingerprint_of({"size": num_bytes, **marks}) if marks else None, 0)
