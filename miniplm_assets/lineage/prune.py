"""What the warehouse holds that no experiment asks for any more, and what killed runs left behind."""

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from miniplm_assets.core.recipe import FINGERPRINT_HEX_DIGITS
from miniplm_assets.experiment import DemoSource
from miniplm_assets.lineage.fingerprints import RAW_CORPUS
from miniplm_assets.lineage.kind import Node
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.snapshot import demo_recipe
from miniplm_assets.storage.bucket.results import LeftObjects
from miniplm_assets.storage.bucket.store import BucketStore
from miniplm_assets.storage.curves import CURVES, SHOWN_DIGITS
from miniplm_assets.storage.files import try_lock
from miniplm_assets.storage.latest import hide
from miniplm_assets.storage.manifest import MANIFEST, Manifest
from miniplm_assets.storage.set_aside import work_folder
from miniplm_assets.storage.store import LOCK, WORK, Result, Store

_FINGERPRINT: Final = re.compile(rf"[0-9a-f]{{{FINGERPRINT_HEX_DIGITS}}}")
# In place of a corpus file or a seed: the result of a whole asset.
_WHOLE: Final = ""


@dataclass(frozen=True)
class Leftover:
    """A folder that is no result: its place, kind and fingerprint of the result that it was to become, its size."""

    folder: Path
    kind: str
    fingerprint: str
    num_bytes: int


def referenced(pipelines: Sequence[Pipeline]) -> set[tuple[str, str]]:
    """Return kind and fingerprint of all results of the experiments, each on the latest state of its corpus.

    Where one of these is not made yet, the newest that there is of its asset, or of its piece, counts in its place:
    what a changed corpus or setting replaces is the best that there is until then.

    Raises:
        MissingResultError: if the corpus of one has never been looked at, so that its results are unknown.
    """
    return {address for pipeline in pipelines for address in _referenced(pipeline)}


def unreferenced_results(store: Store, wanted: set[tuple[str, str]], on_problem: Callable[[str], None]) -> list[Result]:
    """Return the stored results that are not among the wanted ones.

    Args:
        store: the warehouse.
        wanted: kind and fingerprint of those that stay.
        on_problem: takes what is wrong with a result whose manifest cannot be read, and which is left alone.
    """
    results = store.results(on_problem=on_problem)
    return [result for result in results if (result.manifest.kind, result.manifest.fingerprint) not in wanted]


def leftovers(store: Store, wanted: set[tuple[str, str]]) -> list[Leftover]:
    """Return what killed runs left behind and nobody works on.

    What is kept of a wanted result is none: the next run goes on with it.
    """
    found = []
    for folder, kind, fingerprint in (*_unfinished(store.root / WORK), *_without_manifest(store.root)):
        is_to_go_on = folder.parent.name == WORK and (kind, fingerprint) in wanted
        with _unless_in_use(store.root, kind, fingerprint) as is_free:
            if is_free and not is_to_go_on:
                found.append(Leftover(folder, kind, fingerprint, num_bytes_in(folder)))
    return found


def left_objects(store: Store, wanted: set[tuple[str, str]]) -> list[LeftObjects]:
    """Return what killed runs left behind in a bucket, and nobody works on; nothing of a warehouse that is a folder.

    What was uploaded of a wanted result that is not stored is none: the next run goes on with it.
    """
    if not isinstance(store, BucketStore):
        return []
    return [left for left in store.left_objects() if left.is_of_stored or (left.kind, left.fingerprint) not in wanted]


def remove_objects(store: Store, left: LeftObjects) -> None:
    """Delete what killed runs left in a bucket; the caller has the warehouse for himself."""
    assert isinstance(store, BucketStore), f"{store.address} has no objects"
    store.remove_objects(left)


def unreferenced_curves(store: Store, wanted: set[tuple[str, str]]) -> list[Path]:
    """Return the folders of curves for TensorBoard that are of none of the wanted results."""
    shown = {(kind, fingerprint[:SHOWN_DIGITS]) for kind, fingerprint in wanted}
    runs = {path.parent for path in (store.root / CURVES).rglob("events.out.*")}
    return sorted(run for run in runs if (run.parent.name, run.name.rpartition(".")[2]) not in shown)


def remove_leftover(store: Store, leftover: Leftover) -> bool:
    """Delete a leftover, unless somebody works on it by now; return whether it is gone."""
    with _unless_in_use(store.root, leftover.kind, leftover.fingerprint) as is_free:
        if not is_free or (leftover.folder / MANIFEST).exists():
            return False
        hide(store.root, [leftover.folder])
        shutil.rmtree(leftover.folder)
        return True


def _unfinished(place: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield the folder, kind and fingerprint of each result in the making."""
    for folder in sorted(place.glob("*")):
        kind, _, fingerprint = folder.name.rpartition("-")
        if folder.is_dir() and _FINGERPRINT.fullmatch(fingerprint):
            yield folder, kind, fingerprint


def _without_manifest(place: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield the folder, kind and fingerprint of each result that has lost its manifest."""
    for folder in sorted(path for path in place.glob("*") if path.is_dir() and not path.is_symlink()):
        if _FINGERPRINT.fullmatch(folder.name):
            if not (folder / MANIFEST).exists():
                yield folder, place.name, folder.name
        elif not folder.name.startswith("."):
            yield from _without_manifest(folder)


@contextmanager
def _unless_in_use(root: Path, kind: str, fingerprint: str) -> Iterator[bool]:
    """Hold the store's lock of a result, if no process holds it."""
    path = work_folder(root, kind, fingerprint) / LOCK
    if not path.exists():  # who makes the result would have made it
        yield True
        return
    with path.open("a") as lock:
        yield try_lock(lock)


def num_bytes_in(folder: Path) -> int:
    """Return the bytes of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _referenced(pipeline: Pipeline) -> Iterator[tuple[str, str]]:
    fingerprints, store = pipeline.latest_fingerprints(), pipeline.store
    for key, node in pipeline.graph.items():
        wanted = {_WHOLE: fingerprints.recipe(key)}
        if node.kind.pieces:
            wanted |= fingerprints.pieces(key)
        yield from ((recipe.kind, recipe.fingerprint) for recipe in wanted.values())
        missing = {piece for piece, recipe in wanted.items() if not store.holds(recipe)}
        if missing:
            yield from ((node.kind.name, newest) for newest in _newest(node, store, missing))
    source = pipeline.graph[RAW_CORPUS].settings.source
    if isinstance(source, DemoSource):
        demo = demo_recipe(source)
        yield demo.kind, demo.fingerprint


def _newest(node: Node[Any], store: Store, pieces: set[str]) -> Iterator[str]:
    """Yield the fingerprint of the newest result of each of some pieces of an asset."""
    found: dict[str, Manifest] = {}
    for manifest in (result.manifest for result in store.results(node.key, on_problem=lambda _problem: None)):
        piece = _piece_of(node, manifest)
        if piece in pieces and (piece not in found or manifest.created_at >= found[piece].created_at):
            found[piece] = manifest
    yield from (manifest.fingerprint for manifest in found.values())


def _piece_of(node: Node[Any], manifest: Manifest) -> str:
    """Return which corpus file, or which seed, a result of an asset is of."""
    ingredients = manifest.ingredients
    if node.kind.pieces == "seed":
        return str(ingredients["settings"].get("seed", _WHOLE))
    return ingredients.get("shard") or _WHOLE
