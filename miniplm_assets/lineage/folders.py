"""Content fingerprints of local folders: a teacher, a reference or a tokenizer that lies on this machine."""

import json
from pathlib import Path

from miniplm_assets.core.errors import ModelError
from miniplm_assets.core.recipe import fingerprint_of
from miniplm_assets.storage.files import sha256_of, write_json
from miniplm_assets.storage.store import Store


class FolderFingerprints:
    """Fingerprints of folders; a file is read again only when its size, time or inode changed."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __call__(self, folder: Path) -> str:
        """Return the fingerprint of the names and contents of a folder's files.

        Raises:
            ModelError: if there is no such folder, or nothing in it.
        """
        files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
        if not files:
            raise ModelError(f"{folder}: no such folder, or nothing in it; correct the path in the experiment file")
        cache = self._store.root / ".folders" / f"{fingerprint_of(str(folder))}.json"
        known = json.loads(cache.read_text(encoding="utf-8")) if cache.exists() else {}
        seen = {}
        for path in files:
            status = path.stat()
            stamp = [status.st_size, status.st_mtime_ns, status.st_ino]
            name = path.relative_to(folder).as_posix()
            old = known.get(name)
            seen[name] = {"stamp": stamp, "sha256": old["sha256"] if old and old["stamp"] == stamp else sha256_of(path)}
        if seen != known:
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_json(cache, seen)
        return fingerprint_of({name: entry["sha256"] for name, entry in seen.items()})
