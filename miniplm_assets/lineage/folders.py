"""Content fingerprints of local folders: a teacher, a reference or a tokenizer that lies on this machine."""

import time
from pathlib import Path
from typing import Any

from miniplm_assets.core.errors import ModelError
from miniplm_assets.core.recipe import Recipe, fingerprint_of
from miniplm_assets.corpus.files import local_state
from miniplm_assets.corpus.shards import RACY_NS
from miniplm_assets.lineage.kind import Node
from miniplm_assets.storage.files import read_note, sha256_of, write_note
from miniplm_assets.storage.store import Store


class FolderFingerprints:
    """Fingerprints of folders; a file is read again only when its size, times or inode changed.

    Args:
        store: where it is noted what the files were known by.
        takes_notes: whether that is written; else the next one reads again what this one has read.
    """

    def __init__(self, store: Store, *, takes_notes: bool = True) -> None:
        self._store = store
        self._takes_notes = takes_notes

    def __call__(self, node: Node[Any]) -> str:
        """Return the fingerprint of the names and contents of the files that a node copies out of its folder.

        Only what is copied counts: the fingerprint of a copy is that of the folder.

        Raises:
            ModelError: if there is no such folder, or no such file in it.
        """
        folder, files = _copied(node)
        if not files:
            raise ModelError(
                f"{folder}: no such folder, or no file of a {node.kind.name} in it; correct the path in the "
                "experiment file"
            )
        cache = self._store.root / ".folders" / f"{fingerprint_of([node.kind.name, str(folder)])}.json"
        known: dict[str, list[Any]] = read_note(cache) or {}
        trusted: dict[str, list[Any]] = {}
        digests = {}
        now_ns = time.time_ns()
        for path in files:
            state = local_state(path)
            name = path.relative_to(folder).as_posix()
            old_stamp, digest = known.get(name, (None, ""))
            digests[name] = digest if old_stamp == state.stamp else sha256_of(path)
            if state.modified_ns <= now_ns - RACY_NS:
                trusted[name] = [state.stamp, digests[name]]
        if self._takes_notes and trusted != known:
            write_note(cache, trusted)
        return fingerprint_of(digests)


def require_copied(node: Node[Any], recipe: Recipe, copy: Path) -> None:
    """Make sure that the copy of a folder is what its recipe names; nothing to do for a node without a folder.

    Args:
        node: the asset.
        recipe: of its result.
        copy: the folder that its files were copied into.

    Raises:
        ModelError: if they changed between the fingerprint and the copy.
    """
    if node.folder is None:
        return
    folder, files = _copied(node, copy)
    found = fingerprint_of({path.relative_to(folder).as_posix(): sha256_of(path) for path in files})
    if found != recipe.settings["content"]:
        raise ModelError(
            f"{node.key}: the files in {node.folder} changed while they were copied (fingerprint "
            f"{recipe.settings['content']} when the run began, {found} now). Start again when nothing writes to them."
        )


def files_of_node(node: Node[Any]) -> list[Path]:
    """Return the files of a node's folder that go into it, by name.

    Raises:
        ModelError: if one of its patterns matches none.
    """
    return _copied(node)[1]


def _copied(node: Node[Any], copy: Path | None = None) -> tuple[Path, list[Path]]:
    """Return the folder of a node, or a copy of it, and those of its files that are copied."""
    assert node.folder is not None and node.kind.copied_files is not None, f"{node.key} copies no folder"
    folder = copy or node.folder
    if not node.files:
        return folder, node.kind.copied_files(folder)
    found: set[Path] = set()
    for pattern in node.files:
        matching = {path for path in folder.glob(pattern) if path.is_file()}
        if not matching:
            raise ModelError(f"{node.key}: no file matches {folder / pattern}; correct the path in the experiment file")
        found |= matching
    return folder, sorted(found)
