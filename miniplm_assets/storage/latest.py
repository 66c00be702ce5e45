"""One name for what was made last of each asset, for people and other tools: `<warehouse>/latest/<asset key>`.

    latest/half/refined_corpus                      -> ../../.views/refined_corpus-<fingerprint>-<random>
    .views/refined_corpus-.../part-00000-of-00004.parquet -> ../../half/refined_corpus/<fingerprint>/<file>

A view is a folder of links to the files of a result, or of its pieces, without the manifests: who reads a folder of
tables would take those for one. It is complete before the name leads to it, which it does in one step. Links are
relative, so that a warehouse may be moved. They are an aid: nothing here reads them, and what is lost of them the next
run makes. Where a file system has no links, `latest/<asset key>.json` names the files.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from miniplm_assets.storage.files import beside, flush_to_disk, read_note, write_note

LATEST: Final = "latest"
VIEWS: Final = ".views"
# What a file system says that has no links: FAT, some of FUSE and CIFS.
NO_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True, kw_only=True)
class View:
    """What a name is to show.

    Attributes:
        key: of the asset.
        kind: of the asset.
        fingerprint: of the whole result.
        files: stored files, by their path in the view.
    """

    key: str
    kind: str
    fingerprint: str
    files: Mapping[str, Path]


def shown_fingerprint(root: Path, key: str) -> str | None:
    """Return the fingerprint of the result that a name leads to; None where it leads to none, or not to all of it.

    Args:
        root: the folder of the warehouse.
        key: of the asset.
    """
    view = _view_of(root / LATEST / key)
    if view is not None:
        is_whole = view.is_dir() and _leads_to_files(view)
        return view.name.rsplit("-", 2)[1] if is_whole else None
    noted = read_note(_index(root, key))
    if noted is None or not all((root / file).exists() for file in noted["files"].values()):
        return None
    return str(noted["fingerprint"])


def _leads_to_files(view: "Path | os.DirEntry[str]") -> bool:
    """Whether each link of a view leads somewhere; every run asks it of every name."""
    with os.scandir(view) as entries:  # not os.walk, which follows each link to find out whether it leads to a folder
        return all(
            _leads_to_files(entry) if entry.is_dir(follow_symlinks=False) else os.path.exists(entry)  # noqa: PTH110
            for entry in entries
        )


def show_latest(root: Path, view: View) -> bool:
    """Let the name of an asset lead to a result.

    Args:
        root: the folder of the warehouse.
        view: what to show; all of its files are stored.

    Returns:
        Whether it does now: not where the name of another asset is in the way, as `ledger` is of those of a student
        that is called so.
    """
    link = root / LATEST / view.key
    above = [place for place in link.parents if place.is_relative_to(root / LATEST)]
    if any(place.is_symlink() for place in above) or (link.is_dir() and not link.is_symlink()):
        return False
    link.parent.mkdir(parents=True, exist_ok=True)
    before = _view_of(link)
    try:
        folder = _write_view(root, view)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        files = {name: path.relative_to(root).as_posix() for name, path in view.files.items()}
        write_note(_index(root, view.key), {"fingerprint": view.fingerprint, "files": files})
        return True
    _index(root, view.key).unlink(missing_ok=True)
    _replace_link(link, folder)
    if before is not None:
        shutil.rmtree(before, ignore_errors=True)
    return True


def hide(root: Path, folders: Collection[Path]) -> None:
    """Take away the names that lead to some results, before these are removed.

    Args:
        root: the folder of the warehouse.
        folders: of the results.
    """
    gone = frozenset(map(_plain, folders))
    for link, view in list(_links(root)):
        if view.is_dir() and not gone.isdisjoint(_folders_behind(view)):
            link.unlink(missing_ok=True)
            shutil.rmtree(view, ignore_errors=True)
    for index in list((root / LATEST).rglob("*.json")):
        files = (read_note(index) or {"files": {}})["files"].values()
        if not gone.isdisjoint(_folders_of(root / file for file in files)):
            index.unlink(missing_ok=True)


def tidy(root: Path) -> None:
    """Remove the views that no name leads to, and names that lead nowhere: what killed runs left. No run is at work."""
    shown = set()
    for link, view in list(_links(root)):
        if link.name.startswith(".") or not view.is_dir():
            link.unlink(missing_ok=True)
        else:
            shown.add(view.name)
    for view in (root / VIEWS).glob("*"):
        if view.name not in shown:
            shutil.rmtree(view, ignore_errors=True)


def _write_view(root: Path, view: View) -> Path:
    """Make a folder of links under a name of its own, so that it needs no other before it is whole."""
    folder = root / VIEWS / f"{view.kind}-{view.fingerprint}-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True)
        for name, path in view.files.items():
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(os.path.relpath(path, place.parent))
        for place in (*(path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink()), folder):
            flush_to_disk(place)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _replace_link(link: Path, folder: Path) -> None:
    new = beside(link)
    new.symlink_to(os.path.relpath(folder, link.parent), target_is_directory=True)
    try:
        new.replace(link)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    flush_to_disk(link.parent)


def _index(root: Path, key: str) -> Path:
    return root / LATEST / f"{key}.json"


def _view_of(link: Path) -> Path | None:
    """Return the view that a name leads to; None where it is no name of a view."""
    with suppress(OSError):
        view = Path(os.path.normpath(link.parent / link.readlink()))
        if view.parent.name == VIEWS:
            return view
    return None


def _links(root: Path) -> Iterator[tuple[Path, Path]]:
    """Go through all names with the view that each leads to."""
    for place, folders, files in os.walk(root / LATEST):
        for name in (*folders, *files):  # a link that leads nowhere is no folder
            view = _view_of(Path(place) / name)
            if view is not None:
                yield Path(place) / name, view


@cache
def _folders_behind(view: Path) -> frozenset[Path]:
    """Return the folders that hold what a view shows; it never changes."""
    return _folders_of(path.parent / path.readlink() for path in view.rglob("*") if path.is_symlink())


def _folders_of(files: Iterable[Path]) -> frozenset[Path]:
    return frozenset(folder for file in files for folder in _plain(file).parents)


def _plain(path: Path) -> Path:
    """Return a path without `..`, whoever spelt it; links stay as they are."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow them
