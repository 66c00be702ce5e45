"""What the warehouse holds that no experiment asks for any more, and what killed runs left behind."""

import fcntl
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from miniplm_assets.core.recipe import FINGERPRINT_HEX_DIGITS
from miniplm_assets.experiment import DemoSource
from miniplm_assets.lineage.graph import RAW_CORPUS
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.snapshot import demo_recipe, latest_snapshot
from miniplm_assets.storage.manifest import MANIFEST
from miniplm_assets.storage.store import Result, Store

# Work to go on with, a draft, or a result without its manifest, as the store names them.
_LEFTOVER: Final = re.compile(
    rf"(?P<kind>\.work-|\.writing-|)(?P<fingerprint>[0-9a-f]{{{FINGERPRINT_HEX_DIGITS}}})(-.*)?"
)


@dataclass(frozen=True)
class Leftover:
    """A folder that is no result: its place, the result that it was to become, its size."""

    folder: Path
    fingerprint: str
    num_bytes: int


def referenced(pipelines: Sequence[Pipeline]) -> set[tuple[str, str]]:
    """Return key and fingerprint of all results of the experiments, each on the latest state of its corpus.

    Raises:
        MissingResultError: if the corpus of one has never been looked at, so that its results are unknown.
    """
    return {address for pipeline in pipelines for address in _referenced(pipeline)}


def unreferenced_results(store: Store, wanted: set[tuple[str, str]]) -> list[Result]:
    """Return the stored results that are not among the wanted ones."""
    return [result for result in store.results() if (result.manifest.key, result.manifest.fingerprint) not in wanted]


def leftovers(store: Store, wanted: set[tuple[str, str]]) -> list[Leftover]:
    """Return what killed runs left behind and nobody works on.

    The work folder of a wanted result is none: the next run goes on with it.
    """
    found = []
    for folder, kind, fingerprint in _unfinished(store.root):
        is_to_go_on = kind == ".work-" and (folder.parent.relative_to(store.root).as_posix(), fingerprint) in wanted
        with _unless_in_use(folder.parent, fingerprint) as is_free:
            if is_free and not is_to_go_on:
                found.append(Leftover(folder, fingerprint, _num_bytes(folder)))
    return found


def remove_leftover(leftover: Leftover) -> bool:
    """Delete a leftover, unless somebody works on it by now; return whether it is gone."""
    with _unless_in_use(leftover.folder.parent, leftover.fingerprint) as is_free:
        if not is_free or (leftover.folder / MANIFEST).exists():
            return False
        shutil.rmtree(leftover.folder)
        return True


def _unfinished(place: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield folder, kind and fingerprint."""
    for folder in sorted(path for path in place.glob("*") if path.is_dir() and not path.is_symlink()):
        match = _LEFTOVER.fullmatch(folder.name)
        if match is None:
            if not folder.name.startswith("."):
                yield from _unfinished(folder)
        elif match["kind"] or not (folder / MANIFEST).exists():
            yield folder, match["kind"], match["fingerprint"]


@contextmanager
def _unless_in_use(place: Path, fingerprint: str) -> Iterator[bool]:
    """Hold the store's lock of a result, if no process holds it."""
    with (place / f".lock-{fingerprint}").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _referenced(pipeline: Pipeline) -> Iterator[tuple[str, str]]:
    fingerprints = pipeline.fingerprints(latest_snapshot(pipeline.graph[RAW_CORPUS], pipeline.store))
    recipes = [fingerprints.recipe(key) for key in pipeline.graph]
    for key, node in pipeline.graph.items():
        if node.is_stored_by_shard:
            recipes.extend(fingerprints.shard_recipes(key).values())
    source = pipeline.experiment.corpus.source
    if isinstance(source, DemoSource):
        recipes.append(demo_recipe(source))
    yield from ((recipe.key, recipe.fingerprint) for recipe in recipes)
