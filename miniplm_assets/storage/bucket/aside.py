"""What is set aside of a warehouse on an object store.

    aside/<kind>/<fingerprint>.json     the manifest of a result that is to be made again, and what it rests on

Its files stay where they are: they are named by their checksums, so that what is made again lies beside them.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from time import monotonic
from typing import Final

from miniplm_assets.core.doors import cause_of
from miniplm_assets.core.errors import DamagedResultError
from miniplm_assets.core.recipe import Recipe
from miniplm_assets.storage.bucket.door import Bucket
from miniplm_assets.storage.bucket.results import SEEN_SECONDS, file_name, manifest_name
from miniplm_assets.storage.manifest import Manifest
from miniplm_assets.storage.set_aside import Aside, Find, Ground, Stored, still_holds

ASIDE: Final = "aside"


class BucketSetAside:
    """See `set_aside.SetAside`.

    Args:
        bucket: of the warehouse.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._listed: tuple[float, frozenset[tuple[str, str]]] | None = None

    def put(self, result: Stored, rests_on: list[Ground] | None) -> None:
        """Put a result out of sight; see `SetAside.put`."""
        manifest = result.manifest
        before = self.find(manifest.kind, manifest.fingerprint)  # of a crash as it came back
        if rests_on is not None and before is not None and before.rests_on is not None:
            rests_on = [*before.rests_on, *rests_on]
        self.note(Aside(manifest, rests_on))
        self._bucket.delete([manifest_name(manifest.kind, manifest.fingerprint)])

    def all(self) -> Iterator[Aside]:
        """Go through what is set aside, and not stored again since."""
        for kind, fingerprint in sorted(self._list()):
            aside = self.find(kind, fingerprint)
            if aside is not None and self._bucket.size(manifest_name(kind, fingerprint)) is None:
                yield aside

    def may_hold(self, kind: str) -> bool:
        """Say whether a result of a kind may be set aside, as a listing has it."""
        return any(kind == one for one, _ in self._seen())

    def holds(self, recipe: Recipe) -> bool:
        """Say whether the result of a recipe may be set aside, as a listing has it."""
        return (recipe.kind, recipe.fingerprint) in self._seen()

    def note(self, aside: Aside) -> None:
        """Write down that a result is set aside, and what it rests on by now."""
        grounds = None if aside.rests_on is None else [asdict(ground) for ground in aside.rests_on]
        content = {"manifest": aside.manifest.model_dump(mode="json"), "rests_on": grounds}
        name = _name(aside.manifest.kind, aside.manifest.fingerprint)
        self._bucket.write(name, json.dumps(content).encode())
        self._listed = None

    def come_back(self, recipe: Recipe, find: Find) -> bool:
        """Put one back, if it still holds; see `SetAside.come_back`."""
        aside = self.find(recipe.kind, recipe.fingerprint)
        if aside is None or not still_holds(aside.rests_on, find) or not self._has_files(aside.manifest):
            return False
        content = json.dumps(aside.manifest.model_dump(mode="json")).encode()
        self._bucket.create(manifest_name(recipe.kind, recipe.fingerprint), content)
        self._bucket.delete([_name(recipe.kind, recipe.fingerprint)])
        return True

    def _has_files(self, manifest: Manifest) -> bool:
        return all(self._bucket.size(file_name(manifest, file)) == file.num_bytes for file in manifest.files)

    def find(self, kind: str, fingerprint: str) -> Aside | None:
        """Return a result that is set aside; None where none is.

        Raises:
            DamagedResultError: if the object does not hold one.
        """
        name = _name(kind, fingerprint)
        there = self._bucket.read(name)
        if there is None:
            return None
        try:
            content = json.loads(there.content)
            grounds = content["rests_on"]
            rests_on = None if grounds is None else [Ground(**one) for one in grounds]
            return Aside(Manifest.model_validate(content["manifest"]), rests_on)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DamagedResultError(
                f"{self._bucket.address(name)}: does not say which result is set aside ({cause_of(error)}). Delete it: "
                "that result is made anew then"
            ) from None

    def drop(self, manifest: Manifest) -> None:
        """Delete what was set aside of a result that is stored again, but for the files that it still has."""
        address = (manifest.kind, manifest.fingerprint)
        aside = self.find(*address) if address in self._seen() else None
        if aside is None:
            return
        kept = {file_name(manifest, file) for file in manifest.files}
        self._bucket.delete([_name(*address)])
        self._bucket.delete(sorted({file_name(aside.manifest, file) for file in aside.manifest.files} - kept))

    def _seen(self) -> frozenset[tuple[str, str]]:
        if self._listed is None or monotonic() - self._listed[0] > SEEN_SECONDS:
            self._listed = monotonic(), self._list()
        return self._listed[1]

    def _list(self) -> frozenset[tuple[str, str]]:
        names = (one.name.removesuffix(".json").split("/") for one in self._bucket.list(f"{ASIDE}/"))
        return frozenset((kind, fingerprint) for _, kind, fingerprint in names)


def _name(kind: str, fingerprint: str) -> str:
    return f"{ASIDE}/{kind}/{fingerprint}.json"
