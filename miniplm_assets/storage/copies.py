"""Copies of stored files for elsewhere, each held against its manifest on the way."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from miniplm_assets.core.errors import DamagedResultError
from miniplm_assets.storage.files import flush_to_disk
from miniplm_assets.storage.manifest import StoredFile
from miniplm_assets.storage.store import Result

CHUNK_BYTES: Final = 1 << 20


def copy_files(result: Result, names: Mapping[str, str], folder: Path) -> None:
    """Copy files of a result, each read once: what was copied is what was checked.

    Args:
        result: a stored one.
        names: the name of each copy, relative to the folder, by the name of the stored file.
        folder: takes the copies; it exists.

    Raises:
        DamagedResultError: if a file is missing, or is not what the manifest says.
        OSError: if the disk is full, or the folder cannot be written.
    """
    described = {file.name: file for file in result.manifest.files}
    for name, copied_name in names.items():
        target = folder / copied_name
        target.parent.mkdir(parents=True, exist_ok=True)
        problem = _copy(result.folder / name, described[name], target)
        if problem is not None:
            raise DamagedResultError(
                f"{result.folder / name}: {problem}. Delete the folder {result.folder} and materialise "
                f"{result.manifest.key}."
            )


def _copy(source: Path, described: StoredFile, target: Path) -> str | None:
    """Copy one file; return what differs from its description, None where nothing does."""
    digest, num_bytes = hashlib.sha256(), 0
    try:
        reader = source.open("rb")
    except FileNotFoundError:
        return "missing"
    with reader, target.open("xb") as writer:
        while chunk := reader.read(CHUNK_BYTES):
            digest.update(chunk)
            num_bytes += len(chunk)
            writer.write(chunk)
    flush_to_disk(target)
    if num_bytes != described.num_bytes:
        return f"{num_bytes:,} bytes, the manifest says {described.num_bytes:,}"
    if digest.hexdigest() != described.sha256:
        return "the content does not fit the checksum of the manifest"
    return None
