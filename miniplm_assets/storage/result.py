"""One stored result: its folder, and what its manifest says of it.

Reading verifies: sizes and checksums against the manifest, once for each result and process.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from miniplm_assets.core.errors import DamagedResultError
from miniplm_assets.storage.files import sha256_of
from miniplm_assets.storage.manifest import MANIFEST, Manifest, StoredFile


@dataclass(frozen=True)
class Result:
    """One stored result: its folder and what its manifest says."""

    folder: Path
    manifest: Manifest

    @property
    def facts(self) -> dict[str, Any]:
        """What its step reported."""
        return self.manifest.facts

    def described(self, pattern: str) -> list[StoredFile]:
        """Return what the manifest says of the files whose names match a glob pattern, in its order."""
        return [file for file in self.manifest.files if fnmatchcase(file.name, pattern)]

    def matching(self, pattern: str) -> list[Path]:
        """Return the paths of its verified files whose names match a glob pattern, in the manifest's order."""
        self._verify()
        return [self.folder / file.name for file in self.described(pattern)]

    def file(self, name: str) -> Path:
        """Return the path of one verified file."""
        self._verify()
        return self.folder / name

    def verified_folder(self) -> Path:
        """Return its folder, all files verified: for a model or a tokenizer, which is read as a whole."""
        self._verify()
        return self.folder

    @property
    def address(self) -> str:
        """Where it is stored, as messages show it."""
        return str(self.folder)

    def problems(self) -> Iterator[str]:
        """Say what differs between the files and the manifest; re-reads every byte."""
        yield from self._local_problems()

    def _local_problems(self) -> Iterator[str]:
        named = {MANIFEST, *(file.name for file in self.manifest.files)}
        for path in sorted(self.folder.rglob("*")):
            if not path.is_dir() and path.relative_to(self.folder).as_posix() not in named:
                yield f"{path}: the manifest does not name this file"
        for file in self.manifest.files:
            path = self.folder / file.name
            try:
                found = path.stat().st_size
            except FileNotFoundError:
                yield f"{path}: missing"
                continue
            if found != file.num_bytes:
                yield f"{path}: {found:,} bytes, the manifest says {file.num_bytes:,}"
            elif sha256_of(path) != file.sha256:
                yield f"{path}: the content does not fit the checksum of the manifest"
            elif file.num_rows is not None and pq.read_metadata(path).num_rows != file.num_rows:
                yield f"{path}: {pq.read_metadata(path).num_rows:,} rows, the manifest says {file.num_rows:,}"

    def _verify(self) -> None:
        if self.folder in VERIFIED:
            return
        problem = next(self._local_problems(), None)
        if problem is not None:
            raise DamagedResultError(f"{problem}. Delete the folder {self.folder} and materialise {self.manifest.key}.")
        VERIFIED.add(self.folder)


# Published folders never change, so that one look at each is enough for a process.
VERIFIED: set[Path] = set()
