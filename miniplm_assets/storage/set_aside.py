"""Results that were set aside, to be made again: each stays, out of sight, until the new one is whole.

    <warehouse>/.work/<kind>-<fingerprint>/earlier/        the result, as it was, with its manifest
    <warehouse>/.work/<kind>-<fingerprint>/rests_on.json   of what rests on it: the files that must be the same again

What is set aside is not found, so that the next run makes it anew; when that is published, it goes with the rest of the
folder. What rests on it is set aside too, with the checksums of what it rests on: once those are there again, byte by
byte, it comes back as it was, and nothing is computed for it.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Protocol

from miniplm_assets.core.recipe import Recipe
from miniplm_assets.storage.files import flush_to_disk, write_json
from miniplm_assets.storage.manifest import MANIFEST, Manifest, read_manifest

# Where results are made, beside the names of the assets.
WORK: Final = ".work"
EARLIER: Final = "earlier"
RESTS_ON: Final = "rests_on.json"


@dataclass(frozen=True)
class Ground:
    """What another result rests on: where it is stored, and the checksum of each of its files."""

    key: str
    kind: str
    fingerprint: str
    files: dict[str, str]


@dataclass(frozen=True)
class Aside:
    """A result that is set aside.

    Attributes:
        manifest: of it.
        rests_on: what must be the same again for it to come back; None where it is made anew in any case.
    """

    manifest: Manifest
    rests_on: list[Ground] | None


class Stored(Protocol):
    """A stored result; see `store`."""

    @property
    def manifest(self) -> Manifest:
        """What it says of itself."""

    @property
    def folder(self) -> Path:
        """Where its files are."""


Find = Callable[[Ground], Stored | None]


class SetAside(Protocol):
    """What is set aside of a warehouse."""

    def put(self, result: Stored, rests_on: list[Ground] | None) -> None:
        """Put a result out of sight; a crash leaves it stored, or set aside.

        Args:
            result: is stored.
            rests_on: as in `Aside`; what it rested on before stays.
        """

    def all(self) -> Iterator[Aside]:
        """Go through what is set aside."""

    def may_hold(self, kind: str) -> bool:
        """Say whether a result of a kind may be set aside."""

    def holds(self, recipe: Recipe) -> bool:
        """Say whether the result of a recipe may be set aside."""

    def note(self, aside: Aside) -> None:
        """Write down what one rests on by now."""

    def come_back(self, recipe: Recipe, find: Find) -> bool:
        """Put one back, if all that it rests on is there again, with the same bytes; its lock is held.

        Args:
            recipe: of it.
            find: gives what is stored of something that it rests on.
        """


def ground_of(manifest: Manifest) -> Ground:
    """Return a result as what others rest on."""
    return Ground(
        manifest.key, manifest.kind, manifest.fingerprint, {file.name: file.sha256 for file in manifest.files}
    )


def still_holds(grounds: list[Ground] | None, find: Find) -> bool:
    """Say whether all that a result rests on is there again, with the same bytes; never of what is made anew."""
    if grounds is None:
        return False
    found = ((ground, find(ground)) for ground in grounds)
    return all(stored is not None and ground_of(stored.manifest).files == ground.files for ground, stored in found)


def work_folder(root: Path, kind: str, fingerprint: str) -> Path:
    """Return the folder of a warehouse that a result is made in."""
    return root / WORK / f"{kind}-{fingerprint}"


class LocalSetAside:
    """What is set aside of a warehouse that is a folder.

    Args:
        root: the folder of the warehouse.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, result: Stored, rests_on: list[Ground] | None) -> None:
        """Put a result out of sight; see `SetAside.put`."""
        manifest = result.manifest
        work = work_folder(self._root, manifest.kind, manifest.fingerprint)
        work.mkdir(parents=True, exist_ok=True)
        if rests_on is not None:
            self._write(work, [*(_grounds_of(work) or []), *rests_on])
        result.folder.rename(work / EARLIER)
        flush_to_disk(work)
        flush_to_disk(result.folder.parent)

    def all(self) -> Iterator[Aside]:
        """Go through what is set aside."""
        for path in sorted((self._root / WORK).glob(f"*/{EARLIER}/{MANIFEST}")):
            manifest = read_manifest(path.parent)
            if manifest is not None:
                yield Aside(manifest, _grounds_of(path.parent.parent))

    def may_hold(self, kind: str) -> bool:
        """Say whether a result of a kind is set aside."""
        return any((self._root / WORK).glob(f"{kind}-*/{EARLIER}"))

    def holds(self, recipe: Recipe) -> bool:
        """Say whether the result of a recipe is set aside."""
        return (work_folder(self._root, recipe.kind, recipe.fingerprint) / EARLIER).exists()

    def note(self, aside: Aside) -> None:
        """Write down what one rests on by now."""
        work = work_folder(self._root, aside.manifest.kind, aside.manifest.fingerprint)
        if aside.rests_on is None:
            (work / RESTS_ON).unlink(missing_ok=True)
        else:
            self._write(work, aside.rests_on)

    def come_back(self, recipe: Recipe, find: Find) -> bool:
        """Put one back, if it still holds; see `SetAside.come_back`."""
        work, folder = (
            work_folder(self._root, recipe.kind, recipe.fingerprint),
            self._root / recipe.key / recipe.fingerprint,
        )
        is_whole = (work / EARLIER / MANIFEST).exists() and not folder.exists()
        if not is_whole or not still_holds(_grounds_of(work), find):
            return False
        folder.parent.mkdir(parents=True, exist_ok=True)
        (work / EARLIER).rename(folder)
        flush_to_disk(folder.parent)
        return True

    def _write(self, work: Path, grounds: list[Ground]) -> None:
        write_json(work / RESTS_ON, [asdict(ground) for ground in grounds])


def _grounds_of(work: Path) -> list[Ground] | None:
    try:
        return [Ground(**one) for one in json.loads((work / RESTS_ON).read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return None
