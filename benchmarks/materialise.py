"""Materialises an experiment without Dagster, each asset in a process of its own: for machines that have no Dagster.

    python benchmarks/materialise.py experiments/demo.yaml --at-once 2

Assets whose inputs are there run side by side, in the order of the graph. Results are those of a run in Dagster, and
are found by one. At the end: what each took. Ends with 1, and the names, if an asset failed.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.scale import QuietRun
from miniplm_assets.kinds.registry import open_chosen
from miniplm_assets.lineage.latest import link_latest
from miniplm_assets.lineage.work import Work

POLL_SECONDS = 0.1


@dataclass(frozen=True)
class TellingRun(QuietRun):
    """A run that prints what it is told."""

    key: str = ""

    def report(self, line: str) -> None:
        """Print a line."""
        print(f"{self.key}: {line}", flush=True)


def make_one(experiment: Path, key: str) -> int:
    """Make one asset in this process, print what failed of its checks; return 1 if that stops what follows."""
    pipeline = open_chosen(experiment)
    node = pipeline.graph[key]
    work = Work(pipeline, node, TellingRun(pipeline, key=key))
    result = node.kind.make(work)
    link_latest(work, result)
    blocking = {check.name for check in node.kind.checks if check.is_blocking}
    failed = [check for check in [*result.manifest.checks, *work.tally.checks] if not check.passed]
    for check in failed:
        print(f"{key}: check {check.name} failed: {check.description}", flush=True)
    return int(any(check.name in blocking and not check.is_warning for check in failed))


def make_all(experiment: Path, *, at_once: int, until: Collection[str]) -> int:
    """Make every asset, or those that some need, in processes of their own; return the exit status."""
    graph = open_chosen(experiment).graph
    wanted = set(until) or set(graph)
    for key in reversed(list(graph)):
        if key in wanted:
            wanted |= {one for one in graph[key].needs if one in graph}
    waiting = [key for key in graph if key in wanted]
    running: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
    seconds: dict[str, float] = {}
    failed: list[str] = []
    started = time.monotonic()
    while waiting or running:
        for key in list(waiting):
            if len(running) < at_once and all(one in seconds or one not in graph for one in graph[key].needs):
                command = [sys.executable, "-W", "ignore", __file__, str(experiment), "--key", key]
                running[key] = subprocess.Popen(command), time.monotonic()  # noqa: S603 - this script
                waiting.remove(key)
        if not running:
            break  # what is left wants something that failed
        for key, (process, since) in list(running.items()):
            if process.poll() is not None:
                del running[key]
                if process.returncode == 0:
                    seconds[key] = time.monotonic() - since
                else:
                    failed.append(key)
        time.sleep(POLL_SECONDS)
    for key, taken in seconds.items():
        print(f"{taken:>8.1f} s  {key}")
    print(f"{time.monotonic() - started:>8.1f} s  together")
    for key in failed:
        print(f"failed: {key}")
    for key in waiting:
        print(f"not made, since an input failed: {key}")
    return 1 if failed else 0


def main() -> None:
    """Run everything, or one asset where a parent asks for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--at-once", type=int, default=1, help="assets side by side; of models on one GPU also")
    parser.add_argument("--until", nargs="*", default=[], help="keys: these and what they need; default: all")
    parser.add_argument("--key", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.key:
        sys.exit(make_one(arguments.experiment, arguments.key))
    sys.exit(make_all(arguments.experiment, at_once=arguments.at_once, until=arguments.until))


if __name__ == "__main__":
    main()
