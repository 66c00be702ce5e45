"""Kills a process at every request to a bucket, and goes on elsewhere, until one comes through.

Run as a script with a folder: prints, as JSON, the places where processes were killed, what each result is made of in
the end, and how often a manifest was put. A place is before or after the server did what a request of some kind asked
for. Every fourth process works in another folder, as another machine does.

Children are forked from a process that never used the client: its threads would be missing in them.
"""

import hashlib
import json
import os
import re
import signal
import sys
from collections import Counter
from pathlib import Path
from time import monotonic, sleep

import polars as pl

from miniplm_assets.core.errors import StoreError
from miniplm_assets.core.recipe import Recipe
from miniplm_assets.storage.bucket import work
from miniplm_assets.storage.bucket.store import BucketStore, HeldResult
from miniplm_assets.storage.files import write_note
from miniplm_assets.storage.store import Draft
from tests.bucket_server import BucketServer

URL = "s3://warehouse/killed"
NUM_PARTS = 3
HEX = re.compile(r"[0-9a-f]{16,}")
# Another machine waits for as long as this until what a killed one held has run out.
LEASE_SECONDS = 0.5
Place = tuple[str, str, str]


def recipes() -> list[Recipe]:
    """Return two results, the second made of the first."""
    found: list[Recipe] = []
    for kind in ("teacher_scores", "selection_cutoff"):
        inputs = {"before": found[-1].fingerprint} if found else {}
        found.append(Recipe(kind=kind, names=("large",), code_version="1", settings={}, inputs=inputs))
    return found


def make_all(store: BucketStore) -> None:
    """Make what is missing, each in parts that are carried to the bucket one by one."""
    before = ""
    for recipe in recipes():

        def write(draft: Draft, before: str = before) -> None:
            held = draft.lock
            assert isinstance(held, HeldResult) and held.work is not None
            for part in range(NUM_PARTS):
                path = draft.work / f"part-{part}.json"
                if not path.exists():
                    write_note(path, [before, part])
                    held.work.carry()
            parts = [(draft.work / f"part-{part}.json").read_text() for part in range(NUM_PARTS)]
            pl.DataFrame({"part": parts}).write_parquet(draft.path / "parts.parquet")
            (draft.path / "raw.txt").write_text("".join(parts))

        with store.in_use(lambda _line: None):
            result = store.make(recipe, write, lambda _line: None)
        before = hashlib.sha256(result.file("parts.parquet").read_bytes()).hexdigest()
        store.notes.change("latest.json", lambda _: recipe.fingerprint)  # noqa: B023 - called at once


def contents(store: BucketStore) -> dict[str, str]:
    """Return the checksum of every file of the results, by its name."""
    found = {}
    for recipe in recipes():
        for file in store.require(recipe).manifest.files:
            found[f"{recipe.kind}/{file.name}"] = file.sha256
    return found


class Killer:
    """Kills the process that is at work when its request is the first of its kind."""

    def __init__(self) -> None:
        self.covered: list[Place] = []
        self.puts: Counter[str] = Counter()
        self.child = 0

    def reached(self, when: str, method: str, path: str) -> bool:
        """Look at a request, before it is done or after; return whether whoever asked for it is gone."""
        kind = HEX.sub("*", path.removeprefix("/warehouse/killed/"))
        if when == "after" and method == "PUT" and kind.startswith("manifests/"):
            self.puts[path] += 1
        place = (method, kind, when)
        if place not in self.covered and self.child and not kind.startswith("clock/"):
            self.covered.append(place)
            os.kill(self.child, signal.SIGKILL)
            self.child = 0
            return True
        return False


def main(folder: Path) -> None:
    """Kill, go on, and say what came out."""
    work.CARRY_SECONDS = 3_600  # it is carried part by part
    server, killer = BucketServer(), Killer()
    os.environ.update(server.environment)
    server.watch = killer.reached
    number, status = 0, -1
    while status != 0:
        number += 1
        gate, release = os.pipe()
        child = os.fork()
        if child == 0:
            os.read(gate, 1)  # the server knows by now whom to kill
            root = folder / ("other" if number % 4 == 0 else "one")
            make_all(BucketStore(URL, root, lease_seconds=LEASE_SECONDS))
            os._exit(0)
        killer.child = child
        os.write(release, b".")
        _, status = os.waitpid(child, 0)
        os.close(gate)
        os.close(release)
        killer.child = 0
        assert status in (0, signal.SIGKILL), f"failed after {len(killer.covered)} kills"
    told = {
        "places": killer.covered,
        "puts": dict(killer.puts),
        "killed": contents(BucketStore(URL, folder / "third")),
    }
    plain = BucketStore(f"{URL}-not", folder / "plain")
    make_all(plain)
    store = BucketStore(URL, folder / "one")
    prune_when_unused(store)
    told |= {"plain": contents(plain), "left": [one.name for one in store.bucket.list("")]}
    print(json.dumps(told))


def prune_when_unused(store: BucketStore) -> None:
    """Remove what belongs to no result, once the leases of the last that were killed have run out."""
    until = monotonic() + 60
    while True:
        try:
            with store.unused():
                for left in list(store.left_objects()):
                    store.remove_objects(left)
            return
        except StoreError:  # one that was killed a moment ago counts as a user yet
            if monotonic() > until:
                raise
            sleep(LEASE_SECONDS)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
