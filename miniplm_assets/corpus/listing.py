"""Which corpus files there are. A shard is one corpus file, or one folder of text files; nothing is copied."""

import fnmatch
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from fsspec.implementations.local import LocalFileSystem

from miniplm_assets.core.errors import CorpusError
from miniplm_assets.core.recipe import fingerprint_of
from miniplm_assets.corpus.files import FileState, FoundFiles, LeftOut, find_files, is_pattern, is_pinned, state_of
from miniplm_assets.corpus.streams import COMPRESSIONS, explained, filesystem_of
from miniplm_assets.experiment.sources import HuggingFaceSource, JsonlSource, ParquetSource, Source, TextSource


@dataclass(frozen=True)
class DemoFiles:
    """The demo's files, which are written first: the JSON lines of one folder of the warehouse."""

    path: str


FileSource = JsonlSource | ParquetSource | TextSource | HuggingFaceSource | DemoFiles

# In lower case; a file may write them in any.
JSONL_ENDINGS: Final = tuple(
    f".{name}{compression}" for name in ("jsonl", "json", "ndjson") for compression in ("", *COMPRESSIONS)
)
PARQUET_ENDINGS: Final = (".parquet", ".pq")
# The shard of the text files that lie in the source folder itself.
TOP_FOLDER: Final = "."
_SHOWN_LEFT_OUT: Final = 5


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


@dataclass(frozen=True, kw_only=True)
class Listed:
    """The shards of a source, by name; and what lies beside them and is none."""

    shards: tuple[Shard, ...]
    left_out: tuple[LeftOut, ...]


def list_shards(source: FileSource, *, warehouse: Path | None = None) -> Listed:
    """Return the shards of a source, and what lies beside them and is none.

    Args:
        source: where the files are.
        warehouse: a folder that is never looked into.

    Raises:
        CorpusError: if the place is missing, lies in the warehouse or is no folder where one is needed, no file
            matches, or all files are empty.
    """
    location, endings = _where_and_what(source)
    with explained(location):
        if isinstance(source, TextSource):
            _require_folder(location)
        found = find_files(location, endings=endings, apart=None if isinstance(source, DemoFiles) else warehouse)
        groups, unmatched = _grouped(found, source)
        shards = [_combined(name, members, found, source) for name, members in groups.items()]
    # Beside the demo's files lies their manifest alone.
    left_out = () if isinstance(source, DemoFiles) else (*found.left_out, *unmatched)
    if not shards:
        raise CorpusError(
            f"no corpus file found in {location}: looked for {_looked_for(source, endings)}. Check corpus.source in "
            f"the experiment file.{_told(left_out)}"
        )
    if not any(shard.num_bytes for shard in shards):
        raise CorpusError(f"the corpus in {location} is empty: {len(shards)} files, all of 0 bytes. Give it some text.")
    return Listed(shards=tuple(sorted(shards, key=lambda shard: shard.name)), left_out=left_out)


def _told(left_out: tuple[LeftOut, ...]) -> str:
    shown = "; ".join(f"{one.name} {one.reason}" for one in left_out[:_SHOWN_LEFT_OUT])
    return f" {len(left_out):,} files or folders were left out: {shown}" if left_out else ""


def current_stamp(files: tuple[str, ...]) -> str | None:
    """Return the stamp that files have now, as `Shard` has it.

    Raises:
        CorpusError: if one is gone or out of reach.
    """
    states = []
    for url in files:
        with explained(url):
            filesystem, path = filesystem_of(url)
            is_asked = not (isinstance(filesystem, LocalFileSystem) or is_pinned(url))
            states.append(state_of(filesystem, path, filesystem.info(path) if is_asked else {"size": 0}))
    return _joint_stamp(files, states)


def file_names(name: str, files: tuple[str, ...], source: Source) -> tuple[str, ...]:
    """Return the files of a shard relative to the source: what messages and tables say on every machine."""
    if not isinstance(source, TextSource):
        return (name,)
    root = _text_root(source)
    return tuple(url.removeprefix(root).lstrip("/") for url in files)


def default_domain(name: str, source: Source | FileSource) -> str:
    """Return the domain of a shard's documents where no field names one.

    It is the name of the folder that the file lies in; for a file at the top, its own name without endings.
    """
    if isinstance(source, TextSource):
        return _text_root(source).rpartition("/")[2] if name == TOP_FOLDER else name
    path = PurePosixPath(name)
    return path.parent.name or path.name.partition(".")[0]


def _where_and_what(source: FileSource) -> tuple[str, tuple[str, ...]]:
    match source:
        case JsonlSource():
            return source.path, JSONL_ENDINGS
        case DemoFiles():
            return source.path, (".jsonl",)
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
    filesystem, root = filesystem_of(location)
    if filesystem.isfile(root) or (is_pattern(root) and not filesystem.isdir(root)):
        raise CorpusError(
            f"corpus.source.path {location} is a {'file' if filesystem.isfile(root) else 'pattern'}; a source of type "
            "text expects a folder. Name the folder, and say in corpus.source.pattern which of its files are documents."
        )


def _grouped(found: FoundFiles, source: FileSource) -> tuple[dict[str, list[str]], list[LeftOut]]:
    """Return the files of each shard, and those that no shard takes."""
    names = sorted(found.files)
    if not isinstance(source, TextSource):
        return {name: [name] for name in names}, []
    folders: dict[str, list[str]] = {}
    unmatched = []
    for name in names:
        folder, slash, _ = name.partition("/")
        if fnmatch.fnmatchcase(PurePosixPath(name).name, source.pattern):
            folders.setdefault(folder if slash else TOP_FOLDER, []).append(name)
        else:
            unmatched.append(LeftOut.because(name, f"does not match corpus.source.pattern {source.pattern}"))
    return folders, unmatched


def _combined(name: str, members: list[str], found: FoundFiles, source: FileSource) -> Shard:
    files = tuple(found.files[member][0] for member in members)
    states = [found.files[member][1] for member in members]
    return Shard(
        name=name,
        files=files,
        file_names=tuple(members),
        domain=default_domain(name, source),
        num_bytes=sum(state.num_bytes for state in states),
        stamp=_joint_stamp(files, states),
        modified_ns=max(state.modified_ns for state in states),
    )


def _joint_stamp(files: tuple[str, ...], states: list[FileState]) -> str | None:
    stamps = [state.stamp for state in states]
    if None in stamps:
        return None
    return stamps[0] if len(stamps) == 1 else fingerprint_of(list(zip(files, stamps, strict=True)))


def _text_root(source: TextSource) -> str:
    filesystem, root = filesystem_of(source.path)
    return str(filesystem.unstrip_protocol(root)).rstrip("/")
