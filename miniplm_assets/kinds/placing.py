"""A file of a result at the top of the warehouse, where a person looks for it: of the latest state of the corpus."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from miniplm_assets.lineage.latest import place_result
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.files import beside, flush_to_disk


def place_latest(work: Work[Any], name: str, placed_own: Callable[[], None] = lambda: None) -> None:
    """Put a file of the latest state of the corpus at the top of the warehouse, whoever has made it.

    Where a run on an older state ends last, what a newer one put there stays. Where the newer one has not come to it
    yet, it will.

    Args:
        work: the asset, made on the state that its run works on.
        name: of the file, in its result and there.
        placed_own: called where that state is the latest, once its file is there.
    """
    root = work.pipeline.store.root
    place_result(work, name, lambda stored: _place(stored.folder / name, root / name), placed_own)


def _place(stored: Path, target: Path) -> None:
    """Copy a stored file to the top of the warehouse, unless it is there: clients may write into that one."""
    if is_placed(stored, target):
        return
    copied = beside(target)
    shutil.copy2(stored, copied)
    flush_to_disk(copied)
    copied.replace(target)
    flush_to_disk(target.parent)


def is_placed(stored: Path, target: Path) -> bool:
    """Say whether the file at the top of the warehouse is that of a result."""
    there, wanted = (path.stat() if path.exists() else None for path in (target, stored))
    return bool(there and wanted and (there.st_size, there.st_mtime_ns) == (wanted.st_size, wanted.st_mtime_ns))
