"""Makes one result in a bucket, and says how: for two machines at once, and for one that is lost.

    python -m tests.make_in_bucket <url> <folder> <lease seconds> [die]

Each part is said when it is computed. `die` ends the process without notice once two of three parts are carried.
"""

import os
import sys
import time
from pathlib import Path

from miniplm_assets.core.recipe import Recipe
from miniplm_assets.storage.bucket.store import BucketStore, HeldResult
from miniplm_assets.storage.files import write_note
from miniplm_assets.storage.store import Draft

RECIPE = Recipe(kind="teacher_scores", names=("large",), code_version="1", settings={}, inputs={"model": "ab"})
NUM_PARTS = 3


def main(url: str, folder: str, lease_seconds: str, then: str = "") -> None:
    """Make it."""
    store = BucketStore(url, Path(folder), lease_seconds=float(lease_seconds))

    def write(draft: Draft) -> None:
        held = draft.lock
        assert isinstance(held, HeldResult) and held.work is not None
        for part in range(NUM_PARTS):
            path = draft.work / f"part-{part}.json"
            if not path.exists():
                print(f"part {part}", flush=True)
                write_note(path, part)
                held.work.carry()
                time.sleep(0.2)  # so that another one comes meanwhile
            if then == "die" and part == 1:
                os._exit(9)
        (draft.path / "all.txt").write_text("".join(path.read_text() for path in sorted(draft.work.glob("part-*"))))

    result = store.make(RECIPE, write, lambda line: print(line, flush=True))
    print((result.folder / "all.txt").read_text().count("checksum"), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
