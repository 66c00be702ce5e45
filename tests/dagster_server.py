"""A real Dagster: webserver and daemon as a person starts them, and a GraphQL client."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.pages import with_bookkeeping
from tests.ports import free_port

ROOT = Path(__file__).parents[1]
SELECTOR = {"repositoryName": "__repository__", "repositoryLocationName": "miniplm"}

ASSETS = """
query {
  assetNodes {
    assetKey { path } groupName opVersion dependencyKeys { path } kinds description tags { key value }
    owners { ... on UserAssetOwner { email } }
  }
}"""
LAUNCH = """
mutation Launch($parameters: ExecutionParams!) {
  launchRun(executionParams: $parameters) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}"""
TICKS = """
query Ticks($selector: SensorSelector!) {
  sensorOrError(sensorSelector: $selector) {
    ... on Sensor { sensorState { ticks(limit: 100) { timestamp status skipReason runIds error { message } } } }
  }
}"""
RUN = "query Run($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
RUNS = "query { runsOrError { ... on Runs { results { runId status tags { key value } assetSelection { path } } } } }"
MATERIALISATIONS = """
query Materialisations($key: AssetKeyInput!) {
  assetOrError(assetKey: $key) {
    ... on Asset {
      assetMaterializations {
        runId
        tags { key value }
        metadataEntries {
          label
          ... on IntMetadataEntry { intValue }
          ... on FloatMetadataEntry { floatValue }
          ... on TextMetadataEntry { text }
          ... on MarkdownMetadataEntry { mdStr }
          ... on PathMetadataEntry { path }
          ... on JsonMetadataEntry { jsonString }
          ... on TableSchemaMetadataEntry { schema { columns { name type description } } }
          ... on TableColumnLineageMetadataEntry { lineage { columnName columnDeps { assetKey { path } columnName } } }
        }
      }
    }
  }
}"""
START_SENSOR = """
mutation Start($selector: SensorSelector!) { startSensor(sensorSelector: $selector) {
  __typename ... on PythonError { message } } }"""

START_SCHEDULE = """
mutation Start($selector: ScheduleSelector!) { startSchedule(scheduleSelector: $selector) {
  __typename ... on ScheduleStateResult { scheduleState { id } } ... on PythonError { message } } }"""
STOP_SCHEDULE = """
mutation Stop($id: String!) { stopRunningSchedule(id: $id) {
  __typename ... on PythonError { message } } }"""


@dataclass
class Server:
    """A running Dagster."""

    url: str
    log: Path
    restarts: list[Callable[..., None]] = field(default_factory=list)

    def query(self, text: str, **variables: Any) -> Any:
        """Return the data of a GraphQL request; fail on any error."""
        body = json.dumps({"query": text, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def launch(self, *keys: str) -> str:
        """Launch a run of assets, all of them where none is named; return its id."""
        wanted = keys or tuple("/".join(node["assetKey"]["path"]) for node in self.query(ASSETS)["assetNodes"])
        selector = SELECTOR | {
            "pipelineName": "__ASSET_JOB",
            "assetSelection": [{"path": k.split("/")} for k in wanted],
        }
        launched = self.query(LAUNCH, parameters={"selector": selector, "mode": "default"})["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    def status(self, run_id: str) -> str:
        """Return the status of a run."""
        return str(self.query(RUN, id=run_id)["runOrError"]["status"])

    def wait_for_success(self, run_id: str, *, seconds: float) -> None:
        """Wait until a run has succeeded."""
        self.wait_until(lambda: self.status(run_id) in ("SUCCESS", "FAILURE", "CANCELED"), seconds=seconds)
        assert self.status(run_id) == "SUCCESS", self.log.read_text()[-5_000:]

    def start_sensor(self, name: str) -> None:
        """Switch a sensor on."""
        started = self.query(START_SENSOR, selector=SELECTOR | {"sensorName": name})["startSensor"]
        assert started["__typename"] == "Sensor", started

    def start_schedule(self, name: str) -> Callable[[], None]:
        """Switch a schedule on; return what switches it off."""
        started = self.query(START_SCHEDULE, selector=SELECTOR | {"scheduleName": name})["startSchedule"]
        assert started["__typename"] == "ScheduleStateResult", started

        def stop() -> None:
            stopped = self.query(STOP_SCHEDULE, id=started["scheduleState"]["id"])["stopRunningSchedule"]
            assert stopped["__typename"] == "ScheduleStateResult", stopped

        return stop

    def ticks(self, sensor: str) -> list[dict[str, Any]]:
        """Return the last ticks of a sensor, the newest first."""
        asked = self.query(TICKS, selector=SELECTOR | {"sensorName": sensor})["sensorOrError"]
        return list(asked["sensorState"]["ticks"])

    def materialisations(self, key: str) -> list[dict[str, Any]]:
        """Return the metadata of an asset's materialisations by label, the newest first."""
        asset = self.query(MATERIALISATIONS, key={"path": key.split("/")})["assetOrError"]
        return [
            with_bookkeeping(
                {
                    entry["label"]: next((v for k, v in entry.items() if k != "label" and v is not None), None)
                    for entry in one["metadataEntries"]
                }
            )
            | {"run_id": one["runId"], "tags": {tag["key"]: tag["value"] for tag in one["tags"]}}
            for one in asset.get("assetMaterializations", [])
        ]

    def wait_until(self, is_so: Callable[[], bool], *, seconds: float) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < deadline, f"not within {seconds} s:\n{self.log.read_text()[-5_000:]}"
            time.sleep(0.5)


@contextmanager
def running_dagster(experiment_file: Path, home: Path, *commands: list[str]) -> Iterator[Server]:
    """Start Dagster on an experiment, with an instance of its own; `dagster dev` where no commands are given.

    In a command, PORT stands for the webserver's port. A dagster.yaml that lies in `home` already is kept.
    """
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        shutil.copy(ROOT / "dagster.yaml", home)
    port = free_port()
    dagster = str(Path(sys.executable).with_name("dagster"))
    environment = os.environ | {"DAGSTER_HOME": str(home), "MINIPLM_EXPERIMENT": str(experiment_file)}
    # Else webserver and daemon make the databases at once, as two who do not know of each other.
    subprocess.run([dagster, "instance", "info"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
    server = Server(f"http://127.0.0.1:{port}", home / "server.log")
    wanted = commands or ([dagster, "dev", "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", "PORT"],)
    with server.log.open("w") as log:

        def start(command: list[str]) -> subprocess.Popen[bytes]:
            words = [str(port) if word == "PORT" else word for word in command]
            return subprocess.Popen(
                words, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

        def restart(number: int, *, with_children: bool = False) -> None:
            if with_children:
                os.killpg(processes[number].pid, signal.SIGKILL)
            processes[number].kill()
            processes[number].wait(20)
            processes[number] = start(wanted[number])

        processes = [start(command) for command in wanted]
        server.restarts = [partial(restart, number) for number in range(len(wanted))]
        try:
            server.wait_until(lambda: _answers(server), seconds=240)
            yield server
        finally:
            for process in processes:
                os.killpg(process.pid, signal.SIGINT)
            for process in processes:
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait(20)
    for name in ("history", "schedules", "storage"):
        shutil.rmtree(home / name, ignore_errors=True)


def _answers(server: Server) -> bool:
    try:
        return bool(server.query(ASSETS)["assetNodes"])
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def separate_services() -> tuple[list[str], list[str]]:
    """Return the commands of webserver and daemon as two processes, as an operator has them."""
    programs = Path(sys.executable).parent
    return (
        [str(programs / "dagster-webserver"), "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", "PORT"],
        [str(programs / "dagster-daemon"), "run", "-w", "workspace.yaml"],
    )
