"""Kills a run at every place where something is made durable, and starts it again, until one comes through.

Run as a script, with an experiment file: prints a JSON list of the places where runs were killed. A place is
before or after a flush or a rename of some kind of file by some kind of asset. The first run that reaches a new
place is killed there with SIGKILL; the next one goes on from what it left.

Children are forked from a process that has imported everything and used nothing, which saves the seconds that
each would take to import torch.
"""

import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate  # noqa: F401
import dagster as dg
import duckdb  # noqa: F401
import torch  # noqa: F401
import transformers  # noqa: F401

from miniplm_assets.assets.build import build_assets
from miniplm_assets.kinds.registry import PROJECT, open_pipeline
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


def run_once(root: Path, assets: list[dg.AssetsDefinition], covered: set[Place]) -> Place | None:
    """Materialise in a child; return where it was killed, None where it came through."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        kill_at_new_places(root, covered, lambda place: os.write(write_end, json.dumps(place).encode()) and None)
        with dg.DagsterInstance.ephemeral() as instance:
            dg.materialize(assets, instance=instance)
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return tuple(json.loads(told))
    assert os.WEXITSTATUS(status) == 0, f"the run failed after {len(covered)} kills"
    return None


def results_of(root: Path) -> set[str]:
    """Return the addresses of all published results."""
    return {str(path.parent) for path in root.glob("**/manifest.json") if "/.work/" not in str(path)}


def main(experiment_file: Path) -> None:
    """Kill, start again, and check after each kill that nothing published was lost."""
    pipeline = open_pipeline(experiment_file)
    root, assets = pipeline.store.root, build_assets(pipeline)
    covered: set[Place] = set()
    published: set[str] = set()
    while True:
        place = run_once(root, assets, covered)
        now = results_of(root)
        assert published <= now, f"lost after a kill at {place}: {published - now}"
        published = now
        if place is None:
            break
        covered.add(place)
        print(len(covered), *place, file=sys.stderr, flush=True)
    print(json.dumps(sorted(covered)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
