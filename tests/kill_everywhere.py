"""Kills a run at every place where something is made durable, and starts it again, until one comes through.

Run as a script, with an experiment file: prints a JSON list of the places where runs were killed. A place is
before or after a flush or a rename of some kind of file by some kind of asset. The first run that reaches a new
place is killed there with SIGKILL; the next one goes on from what it left, with the assets that are not stored. At
the end, one goes through all of them.

Children are forked from a process that has imported what the children before them have, which saves each the seconds
that this takes. It must use nothing of it: what has threads of its own, such as Polars, waits in a child for ever for
those, which a fork leaves behind.
"""

import gc
import importlib
import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import dagster as dg

from miniplm_assets.assets.build import asset_key, build_assets
from miniplm_assets.core.errors import MissingResultError
from miniplm_assets.kinds.registry import PROJECT, open_pipeline
from miniplm_assets.lineage.fingerprints import RAW_CORPUS
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.storage.sql_project import load_sql_project

Place = tuple[str, str, str, str]
# Kinds that the same code writes count as one.
SAME_CODE = {
    "teacher_model": "model",
    "reference_model": "model",
    "teacher_scores": "scores",
    "reference_scores": "scores",
    **dict.fromkeys((model.name for model in load_sql_project(PROJECT / "dbt_like_sql").marts), "selection"),
}
FINGERPRINT = re.compile("[0-9a-f]{32}")
MAKING = re.compile("(.+)-[0-9a-f]{32}")
PUBLISHING = ("manifest", ".latest")


def category(path: Path) -> str:
    """Say what kind of file or folder a path is, whatever its name says of shards, runs and fingerprints."""
    if any(part.startswith((".checkpoint-", "checkpoint-")) for part in path.parts):
        return "checkpoint"
    kinds = (
        "draft",
        "manifest",
        ".latest",
        ".stamps",
        "part-",
        "contents",
        "parquet",
        "json",
        "duckdb",
        "safetensors",
    )
    other = "result" if FINGERPRINT.fullmatch(path.name) else "other"
    return next((kind for kind in kinds if kind in path.name), other)


def asset_kind(path: Path) -> str:
    """Return the kind of asset that a file of the warehouse belongs to: <key>/<fingerprint>/..., .work/<kind>-..."""
    parts = path.parts or ("warehouse",)
    making = MAKING.fullmatch(parts[1]) if parts[0] == ".work" and len(parts) > 1 else None
    stored = [place for place, part in enumerate(parts) if FINGERPRINT.fullmatch(part)]
    kind = making[1] if making else parts[stored[0] - 1] if stored else parts[0]
    return SAME_CODE.get(kind, kind)


def kill_at_new_places(root: Path, covered: set[Place], tell: Callable[[Place], None]) -> None:
    """Wrap the system calls that make something durable."""
    first = threading.Lock()

    def wrap(operation: str) -> None:
        original = getattr(os, operation)

        def reached(when: str, target: Any) -> None:
            path = Path(f"/proc/self/fd/{target}").readlink() if isinstance(target, int) else Path(target)
            if not path.is_relative_to(root):
                return
            kind = category(path)
            # What publishes a result is a place for each kind of asset; how its files are flushed is one for all.
            asset = asset_kind(path.relative_to(root)) if kind in PUBLISHING or operation == "rename" else "any"
            place = (asset, operation, kind, when)
            if place not in covered:
                first.acquire()  # another thread that comes to one waits here for its end
                tell(place)
                os.kill(os.getpid(), signal.SIGKILL)

        def wrapped(target: Any, *args: Any, **kwargs: Any) -> Any:
            reached("before", target)
            result = original(target, *args, **kwargs)
            if operation != "fsync":  # after a flush, nothing is different until the next call
                reached("after", args[0])
            return result

        setattr(os, operation, wrapped)

    for operation in ("fsync", "rename", "replace"):
        wrap(operation)


def unfinished(pipeline: Pipeline) -> list[str]:
    """Return the assets of which something is not stored, and the one that looks at the corpus."""
    try:
        fingerprints = pipeline.looked_at().latest_fingerprints()
    except MissingResultError:
        return list(pipeline.graph)

    def is_stored(key: str) -> bool:
        recipes = (fingerprints.recipe(key), *fingerprints.stored(key))
        return all(pipeline.store.find(recipe) is not None for recipe in recipes)

    return [key for key in pipeline.graph if key == RAW_CORPUS or not is_stored(key)]


def run_once(
    pipeline: Pipeline, assets: list[dg.AssetsDefinition], covered: set[Place], *, is_whole: bool
) -> Place | None:
    """Materialise in a child; return where it was killed, None where it came through.

    Args:
        pipeline: the experiment.
        assets: all of its assets.
        covered: where runs were killed already.
        is_whole: whether it goes through all assets, or those of which something is not stored.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)

        def tell(place: Place | None) -> None:
            with os.fdopen(write_end, "w") as pipe:
                json.dump([place, list(sys.modules)], pipe)

        kill_at_new_places(pipeline.store.root, covered, tell)
        keys = pipeline.graph if is_whole else unfinished(pipeline)
        with dg.DagsterInstance.ephemeral() as instance:
            dg.materialize(assets, selection=[asset_key(key) for key in keys], instance=instance)
        tell(None)
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        assert os.WEXITSTATUS(status) == 0, f"the run failed after {len(covered)} kills"
    place, modules = json.loads(told)
    import_all(modules)
    return None if place is None else tuple(place)


def import_all(names: Iterable[str]) -> None:
    """Import what a child has, for those to come; and let the garbage collector of none look through it again."""
    for name in names:
        if name not in sys.modules:
            with suppress(ImportError):  # some are no module of their own
                importlib.import_module(name)
    gc.collect()
    gc.freeze()


def results_of(root: Path) -> dict[str, bytes]:
    """Return the manifest of every published result by its address."""
    manifests = (path for path in root.glob("**/manifest.json") if "/.work/" not in str(path))
    return {str(path.parent): path.read_bytes() for path in manifests}


def main(experiment_file: Path) -> None:
    """Kill, start again, and check after each kill that nothing published was lost, nor made again."""
    pipeline = open_pipeline(experiment_file)
    assets = build_assets(pipeline)
    covered: set[Place] = set()
    published: dict[str, bytes] = {}
    is_whole = False
    while True:
        place = run_once(pipeline, assets, covered, is_whole=is_whole)
        now = results_of(pipeline.store.root)
        lost = [address for address, manifest in published.items() if now.get(address) != manifest]
        assert not lost, f"lost, or made again, after a kill at {place}: {lost}"
        published = now
        if place is not None:
            covered.add(place)
            print(len(covered), *place, file=sys.stderr, flush=True)
        elif is_whole:
            break
        else:
            is_whole = True
    print(json.dumps(sorted(covered)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
