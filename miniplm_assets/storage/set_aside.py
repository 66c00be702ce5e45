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

from miniplm_assets.storage.files import flush_to_disk, write_json
from miniplm_assets.storage.manifest import MANIFEST, Manifest, read_manifest

EARLIER: Final = "earlier"
RESTS_ON: Final = "rests_on.json"


@dataclass(frozen=True)
class Ground:
    """What another result rests on: where it is stored, and the checksum of each of its files."""

    key: str
    kind: str
    fingerprint: str
    files: dict[str, str]


class Stored(Protocol):
    """A stored result; see `store`."""

    @property
    def manifest(self) -> Manifest:
        """What it says of itself."""


def ground_of(manifest: Manifest) -> Ground:
    """Return a result as what others rest on."""
    return Ground(
        manifest.key, manifest.kind, manifest.fingerprint, {file.name: file.sha256 for file in manifest.files}
    )


def set_aside(folder: Path, work: Path, rests_on: list[Ground] | None) -> None:
    """Move a result aside; a crash leaves it where it was, or there.

    Args:
        folder: of the result.
        work: the folder that it is made in.
        rests_on: of what rests on others that are set aside; None of what is to be made anew in any case.
    """
    work.mkdir(parents=True, exist_ok=True)
    if rests_on is not None:
        write_grounds(work, [*(grounds_of(work) or []), *rests_on])
    folder.rename(work / EARLIER)
    flush_to_disk(work)
    flush_to_disk(folder.parent)


def make_anew(work: Path) -> None:
    """Let a result that is set aside not come back, whatever it rests on."""
    (work / RESTS_ON).unlink(missing_ok=True)


def grounds_of(work: Path) -> list[Ground] | None:
    """Return what a result that is set aside rests on; None where it is to be made anew."""
    try:
        return [Ground(**one) for one in json.loads((work / RESTS_ON).read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return None


def write_grounds(work: Path, grounds: list[Ground]) -> None:
    """Write down what a result that is set aside rests on."""
    write_json(work / RESTS_ON, [asdict(ground) for ground in grounds])


def come_back(work: Path, folder: Path, find: Callable[[Ground], Stored | None]) -> bool:
    """Put a result back that was set aside, if all that it rests on is there again, with the same bytes.

    Args:
        work: the folder that it is made in; its lock is held.
        folder: its place.
        find: gives what is stored of something that it rests on.
    """
    grounds = grounds_of(work) if (work / EARLIER / MANIFEST).exists() else None
    if grounds is None or folder.exists():
        return False
    for ground in grounds:
        stored = find(ground)
        if stored is None or ground_of(stored.manifest).files != ground.files:
            return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    (work / EARLIER).rename(folder)
    flush_to_disk(folder.parent)
    return True


def all_set_aside(root: Path) -> Iterator[tuple[Path, Manifest]]:
    """Go through all results of a `.work` folder that are set aside: each with the folder that it is made in."""
    for path in sorted(root.glob(f"*/{EARLIER}/{MANIFEST}")):
        manifest = read_manifest(path.parent)
        if manifest is not None:
            yield path.parent.parent, manifest
