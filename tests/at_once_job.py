"""A job of assets that take a device, though no model is run: what `test_models_at_once` lets an executor execute.

Each notes when it is made, and waits until those are made that it must meet. In a process of its own:
python -m tests.at_once_job HOME
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import dagster as dg

from miniplm_assets.assets import models_at_once
from miniplm_assets.assets.executor import own_executor
from miniplm_assets.assets.stopping import stopped_by_signals
from miniplm_assets.core.stop import Stop
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.storage.store import Store

FOLDER = "AT_ONCE_FOLDER"
DEVICES = "devices"
# Of a step whose model is a cluster's: the gate that it waits for.
HELD_BY = "held_by"
RANK = "dagster/priority"
SECONDS = 240.0


def note(name, **more):
    """Note that something has happened, and in which process."""
    path = Path(os.environ[FOLDER]) / name
    path.with_suffix(".new").write_text(json.dumps({"pid": os.getpid(), **more}))
    path.with_suffix(".new").rename(path)


def noted(name):
    """Return what is noted, or None."""
    path = Path(os.environ[FOLDER]) / name
    return json.loads(path.read_text()) if path.exists() else None


def wait_for(*names, stop=None):
    """Wait until all of these are noted."""
    deadline = time.monotonic() + SECONDS
    while not all(map(noted, names)):
        if stop is not None:
            stop.look()
        if time.monotonic() > deadline:
            raise TimeoutError(f"{names} were never noted together")
        time.sleep(0.02)


def what_there_is():
    """Return what this process has of the machine."""
    return {"threads": os.environ.get("OMP_NUM_THREADS"), "cores": sorted(os.sched_getaffinity(0))}


@dg.asset(op_tags={DEVICES: "1", RANK: "-1"})
def left():
    """Waits for its neighbour, so that one after the other they would never end."""
    note("left", **what_there_is())
    wait_for("right")


@dg.asset(op_tags={DEVICES: "1", RANK: "-2"})
def right():
    """Waits for its neighbour."""
    note("right", **what_there_is())
    wait_for("left")


@dg.asset(deps=[left, right], op_tags={DEVICES: "0", RANK: "-3"})
def both():
    """Is made where the run is."""
    note("both")


@dg.asset(op_tags={DEVICES: "1", RANK: "-1"})
def killed():
    """Ends its process, as a machine does that is out of memory, until somebody has noted that it may live."""
    if not noted("may live"):
        note("killed")
        os.kill(os.getpid(), signal.SIGKILL)


@dg.asset(deps=[killed], op_tags={DEVICES: "0", RANK: "-2"})
def after_killed():
    """Is made where the run is."""
    note("after_killed")


@dg.asset(check_specs=[dg.AssetCheckSpec("is_good", asset="gate", blocking=True)], op_tags={DEVICES: "1", RANK: "-1"})
def gate():
    """Has a check that fails, and keeps what follows from being made."""
    return dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed=False)])


@dg.asset(deps=[gate], op_tags={DEVICES: "1", RANK: "-2"})
def after_gate():
    """Is not made."""
    note("after_gate")


@dg.asset(op_tags={DEVICES: "1", RANK: "-1"})
def pilot():
    """Speaks after a while."""
    time.sleep(2)
    note("pilot")


@dg.asset(op_tags={DEVICES: "0", RANK: "-2", HELD_BY: "pilot"})
def on_cluster():
    """Needs nothing that the pilot makes, but waits until that has spoken."""
    note("on_cluster", pilot_has_spoken=noted("pilot") is not None)


def goes_on(key: str) -> None:
    """Go on until told to stop, and keep what there is."""
    stop = Stop()
    with stopped_by_signals(stop, key=key, wake=lambda: None), stop.held():
        note(key)
        try:
            wait_for("never", stop=stop)
        finally:
            note(f"{key} is kept")


@dg.asset(op_tags={DEVICES: "1", RANK: "-1"})
def long():
    """Goes on until it is told to stop."""
    goes_on("long")


@dg.asset(op_tags={DEVICES: "1", RANK: "-2"})
def as_long():
    """Goes on like the other."""
    goes_on("as_long")


PIPELINE = Pipeline({}, Store(Path(os.environ[FOLDER])), models_at_once=2)
defs = dg.Definitions(
    assets=[left, right, both, killed, after_killed, gate, after_gate, pilot, on_cluster, long, as_long],
    jobs=[
        dg.define_asset_job("meeting", dg.AssetSelection.assets(left, right, both)),
        dg.define_asset_job("losing", dg.AssetSelection.assets(killed, after_killed)),
        dg.define_asset_job("gated", dg.AssetSelection.assets(gate, after_gate)),
        dg.define_asset_job("held", dg.AssetSelection.assets(pilot, on_cluster)),
        dg.define_asset_job("endless", dg.AssetSelection.assets(long, as_long)),
    ],
    executor=own_executor(PIPELINE),
)


class TaggedSteps:
    """Takes the number of devices from a tag, in place of the kind of an asset."""

    def __init__(self, _pipeline, _instance, _run, _step_keys):
        """Know nothing of an experiment."""
        self._ended = set()

    def key_of(self, step):
        """Return its name."""
        return step

    def num_devices(self, step):
        """Return what its tag says."""
        return int(defs.get_assets_def(step).op.tags[DEVICES])

    def is_alone(self, _step):
        """None is."""
        return False

    def is_clusters(self, step):
        """Return whether it waits for a gate."""
        return HELD_BY in defs.get_assets_def(step).op.tags

    def is_held(self, step):
        """Whether the gate that its tag names has not spoken."""
        return defs.get_assets_def(step).op.tags.get(HELD_BY, step) not in {step, *self._ended}

    def end(self, step, *, is_failed):  # noqa: ARG002 - as `DeviceSteps`
        """A gate has spoken."""
        self._ended.add(step)


def execute(job, instance, **config):
    """Execute a job as a command or the UI does."""
    run_config = {"execution": {"config": config}} if config else {}
    with dg.execute_job(job_of(job), instance, run_config=run_config) as result:
        return result


def job_of(name):
    """Return a job that other processes can load."""
    return dg.build_reconstructable_job("tests.at_once_job", "load_job", reconstructable_args=(name,))


def load_job(name):
    """Return a job of this file."""
    return defs.resolve_job_def(name)


if __name__ == "__main__":
    models_at_once.DeviceSteps = TaggedSteps
    with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
        execute("endless", instance)
