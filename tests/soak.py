"""Random events on a corpus under the real daemon, and at the end: is all as one run on the final corpus makes it?

    python -m tests.soak --minutes 60 --events 200 --seed 7 [--postgres] [--folder FOLDER]

Files are added (at times bit by bit), grow, change, go, are touched, broken and mended; runs are killed and stopped,
the daemon is killed and started again. Everything random follows from the seed. Ends with 1 where a check fails.
"""

import argparse
import gzip
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import yaml

from miniplm_assets.assets.run_tags import PROCESS_TAG, is_put_down
from miniplm_assets.kinds.registry import PROJECT, open_pipeline
from tests.corpora import tiny_experiment, write_experiment, write_shard
from tests.dagster_server import Server, running_dagster, separate_services
from tests.postgres_server import running_postgres

SENSOR = "corpus_changed"
QUIET_SECONDS = 3
LEARNT = "a.jsonl"  # what models learn from, so that it is left alone: another one makes everything anew
MODULES = (
    *("bisect", "cmd", "code", "codeop", "colorsys", "contextvars", "copyreg", "fnmatch", "getpass", "glob", "heapq"),
    *("linecache", "netrc", "opcode", "queue", "quopri", "reprlib", "sched", "shlex", "stat", "struct", "token"),
)
IN_PROGRESS = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
SECONDS_TO_SETTLE = 600
CONTENT = (".parquet", ".safetensors")


@dataclass
class Run:
    """What is known of a run.

    Attributes:
        run_id: Dagster's.
        status: how it ended.
        begun: when it was asked for, seconds since 1970.
        ended: when it ended.
        is_retry: whether Dagster tried another one again.
        is_put_down: whether it was put down, for a newer state of the corpus or by a signal, to be asked for again.
        errors: what its failed steps say.
        made: fingerprints that a step has made which ended well.
    """

    run_id: str
    status: str
    begun: float
    ended: float
    is_retry: bool = False
    is_put_down: bool = False
    errors: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)


@dataclass
class History:
    """What happened.

    Attributes:
        runs: in the order in which they were asked for.
        writes: when something was written to the corpus, seconds since 1970.
        broken: of each file that was broken: from when to when.
        killed: the runs whose process was killed.
        stopped: the runs that were told to stop.
        rewritten: manifests that changed, or went, after they were there.
    """

    runs: list[Run] = field(default_factory=list)
    writes: list[float] = field(default_factory=list)
    broken: list[tuple[str, float, float]] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    rewritten: list[str] = field(default_factory=list)


def unexplained_failures(history: History) -> Iterator[str]:
    """Name the runs that failed though nobody killed them and no file was broken, or were cancelled by nobody."""
    for run in history.runs:
        if run.status == "CANCELED" and not run.is_put_down and run.run_id not in history.stopped:
            yield f"run {run.run_id} is cancelled, and nobody stopped it"
        if run.status != "FAILURE" or run.run_id in history.killed:
            continue
        bad = [name for name, since, until in history.broken if since <= run.ended and run.begun <= until]
        if not run.errors or not all(any(name in error for name in bad) for error in run.errors):
            yield f"run {run.run_id} failed, while {bad or 'nothing'} was broken: {run.errors or 'no step says why'}"


def computed_twice(history: History) -> Iterator[str]:
    """Name what two runs have made, and manifests that did not stay as they were."""
    makers: dict[str, list[str]] = {}
    for run in history.runs:
        for fingerprint in run.made:
            makers.setdefault(fingerprint, []).append(run.run_id)
    yield from (f"{made} was made by {' and '.join(by)}" for made, by in makers.items() if len(by) > 1)
    yield from history.rewritten


def too_many_runs(history: History, *, quiet_seconds: float) -> Iterator[str]:
    """Say where the sensor asked more often than the corpus rested; what Dagster tried again, it did not ask for."""
    writes = sorted(history.writes)
    rests = sum(later - sooner >= quiet_seconds for sooner, later in pairwise(writes)) + 1
    asked = sum(not run.is_retry for run in history.runs)
    if asked > rests + len(history.stopped):  # what a signal put down is asked for once more
        yield f"{asked} runs were asked for, {len(history.stopped)} stopped, and the corpus rested {rests} times"


class Corpus:
    """The files, and what is done to them."""

    def __init__(self, folder: Path, random_numbers: random.Random, history: History) -> None:
        self.folder = folder
        self.random = random_numbers
        self.history = history
        self.broken: dict[str, float] = {}
        self.num_added = 0
        write_shard(folder / LEARNT, ("textwrap", "calendar", "argparse"))
        self._wrote()

    def _wrote(self) -> None:
        self.history.writes.append(time.time())

    def _text(self) -> str:
        scratch = self.folder.with_name("scratch.jsonl")
        return write_shard(scratch, (self.random.choice(MODULES),)).read_text(encoding="utf-8")

    def _names(self, *, broken: bool) -> list[str]:
        names = sorted(path.name for path in self.folder.iterdir() if path.name != LEARNT)
        return [name for name in names if (name in self.broken) == broken]

    def _write(self, name: str, text: str) -> None:
        data = text.encode()
        (self.folder / name).write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
        self._wrote()

    def add(self) -> str:
        """Add a file, at once or bit by bit."""
        self.num_added += 1
        name = f"file-{self.num_added:03}.jsonl" + self.random.choice(["", "", ".gz"])
        text, is_slow = self._text(), self.random.random() < 0.3
        if is_slow and not name.endswith(".gz"):
            lines = text.splitlines(keepends=True)
            for end in range(1, len(lines), max(1, len(lines) // 4)):
                self._write(name, "".join(lines[:end]))
                time.sleep(self.random.uniform(0.2, 0.8) * QUIET_SECONDS)
        self._write(name, text)
        return name

    def grow(self, name: str) -> None:
        """Put more behind a file's end."""
        more = self._text().encode()
        with (self.folder / name).open("ab") as file:
            file.write(gzip.compress(more, mtime=0) if name.endswith(".gz") else more)
        self._wrote()

    def change(self, name: str) -> None:
        """Write other documents into a file."""
        self._write(name, self._text())

    def remove(self, name: str) -> None:
        """Take a file away."""
        (self.folder / name).unlink()
        self._wrote()
        self._mended(name)

    def touch(self, name: str) -> None:
        """Give a file another time, and no other content."""
        (self.folder / name).touch()
        self._wrote()

    def break_(self, name: str) -> None:
        """Make a file one that cannot be used."""
        self.broken[name] = time.time()
        path = self.folder / name
        if name.endswith(".gz"):
            path.write_bytes(path.read_bytes()[:-20])
        else:
            path.write_bytes(self.random.choice([b"\xff\xfe\x00garbage\n" * 9, b'{"words": "no text"}\n' * 9]))
        self._wrote()

    def mend(self, name: str) -> None:
        """Make a broken file a good one."""
        self.change(name)
        self._mended(name)

    def _mended(self, name: str) -> None:
        if name in self.broken:
            # A run that read it before may say so a moment later.
            self.history.broken.append((name, self.broken.pop(name), time.time() + 60))

    def mend_all(self) -> None:
        """Leave nothing broken."""
        for name in list(self.broken):
            self.mend(name)

    def event(self) -> str:
        """Do something, by chance; say what."""
        good, bad = self._names(broken=False), self._names(broken=True)
        possible: list[tuple[int, Callable[..., Any], list[str]]] = [
            (4 if len(good) < 12 else 1, self.add, [""]),
            (3, self.grow, good),
            (3, self.change, good),
            (2 if len(good) > 3 else 0, self.remove, good),
            (2, self.touch, good),
            (2 if len(bad) < 2 else 0, self.break_, good),
            (4, self.mend, bad),
        ]
        weights = [weight if names else 0 for weight, _, names in possible]
        [(_, act, names)] = self.random.choices(possible, weights)
        name = self.random.choice(names)
        told = act() if not name else act(name)
        return f"{act.__name__} {name or told}"


def disturb(
    instance: dg.DagsterInstance, server: Server, random_numbers: random.Random, history: History
) -> str | None:
    """Kill or stop a run that is under way, or the daemon, now and then; say which."""
    what = random_numbers.choices([None, "kill", "stop", "daemon"], [84, 8, 5, 3])[0]
    if what == "daemon":
        server.restarts[1]()
        return "killed the daemon and started it again"
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])) if what else ():
        process = json.loads(run.tags.get(PROCESS_TAG, "{}"))
        if process.get("run") != run.run_id:  # it has not noted its own yet
            continue
        noted, number = (history.killed, signal.SIGKILL) if what == "kill" else (history.stopped, signal.SIGTERM)
        noted.append(run.run_id)
        try:
            os.kill(process["pid"], number)
        except ProcessLookupError:  # it has ended this moment
            noted.remove(run.run_id)
            continue
        return f"{what} of run {run.run_id}"
    return None


def watch_manifests(warehouse: Path, history: History, is_over: threading.Event) -> None:
    """Note each manifest that does not stay as it was first seen."""
    seen: dict[Path, tuple[int, int]] = {}
    while not is_over.wait(1):
        found = {}
        for path in warehouse.glob("**/manifest.json"):
            if ".work" not in path.parts:
                status = path.stat()
                found[path] = (status.st_ino, status.st_mtime_ns)
        history.rewritten += [f"{path} changed, or went" for path, state in seen.items() if found.get(path) != state]
        seen = found


def runs_of(instance: dg.DagsterInstance) -> list[Run]:
    """Return all runs of the sensor, in the order in which they were asked for."""
    found = []
    for record in reversed(instance.get_run_records()):
        run, steps, making = record.dagster_run, set(), []
        errors = []
        for entry in instance.all_logs(run.run_id):
            event = entry.dagster_event
            if event is None and ": making " in entry.user_message:
                making.append((entry.step_key, entry.user_message.rpartition(" ")[2]))
            elif event is not None and event.is_step_success:
                steps.add(event.step_key)
            elif event is not None and event.is_step_failure:
                data = event.step_failure_data
                told = data.user_failure_data.description if data.user_failure_data else data.error.message
                if run.status == dg.DagsterRunStatus.FAILURE:
                    errors.append(str(told))
        found.append(
            Run(
                run_id=run.run_id,
                status=run.status.value,
                begun=record.create_timestamp.timestamp(),
                ended=record.end_time or time.time(),
                is_retry=run.parent_run_id is not None,
                is_put_down=is_put_down(run.run_id, run.tags),
                errors=errors,
                made=[fingerprint for step, fingerprint in making if step in steps],
            )
        )
    return found


def settled(instance: dg.DagsterInstance, server: Server, since: float) -> bool:
    """Whether nothing is under way, and the sensor has looked since, and finds everything stored."""
    if instance.get_runs(dg.RunsFilter(statuses=IN_PROGRESS), limit=1):
        return False
    newest = next(iter(server.ticks(SENSOR)), None)
    return newest is not None and newest["timestamp"] > since and "everything is stored" in str(newest["skipReason"])


def other_than_in_one_run(experiment_file: Path, folder: Path) -> Iterator[str]:
    """Make the same experiment once, in a fresh warehouse; say what differs."""
    content = yaml.safe_load(experiment_file.read_text())
    fresh_file = write_experiment(folder / "fresh.yaml", content | {"warehouse": str(folder / "fresh")})
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.run_once", str(fresh_file)], cwd=PROJECT, capture_output=True
    )
    if done.returncode:
        yield f"the one run failed: {done.stderr.decode()[-2_000:]}"
        return
    soaked, fresh = open_pipeline(experiment_file), open_pipeline(fresh_file)
    theirs, ours = fresh.latest_fingerprints(), soaked.latest_fingerprints()
    for key in fresh.graph:
        if key == "warehouse_catalog":  # which names its files by their place
            continue
        if ours.recipe(key).fingerprint != theirs.recipe(key).fingerprint:
            yield f"{key}: what is the latest here is not that of the final corpus"
        for recipe in theirs.stored(key):
            mine = soaked.store.find(recipe)
            if mine is None:
                yield f"{recipe.describe()} {recipe.fingerprint} is not in the warehouse"
                continue
            other = fresh.store.require(recipe)
            for name in (
                file.name for file in other.manifest.files if file.name.endswith((".parquet", ".safetensors"))
            ):
                if name != "training_log.parquet" and digest(mine.folder / name) != digest(other.folder / name):
                    yield f"{mine.folder / name} is not what one run makes"
    wanted, found = (tables(one.store.root / "warehouse.duckdb") for one in (fresh, soaked))
    for table in sorted(wanted.keys() | found.keys()):
        if found.get(table) != wanted.get(table):
            yield f"table {table} of warehouse.duckdb is {found.get(table)}, and that of one run {wanted.get(table)}"


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tables(catalog: Path) -> dict[str, tuple[int, str]]:
    """Return the number of rows and a digest of each table, whatever the order, but for what says how long it took."""
    found = {}
    with duckdb.connect(str(catalog), read_only=True) as connection:
        for (name,) in connection.execute("select table_name from information_schema.tables").fetchall():
            columns = [row[0] for row in connection.execute(f'describe "{name}"').fetchall()]
            kept = ", ".join(f'"{column}"' for column in columns if "seconds" not in column)
            rows = sorted(map(repr, connection.execute(f'select {kept} from "{name}"').fetchall()))
            found[name] = (len(rows), hashlib.sha256("\n".join(rows).encode()).hexdigest())
    return found


def work_left(experiment_file: Path) -> Iterator[str]:
    """Name what is still in the making of what the final corpus wants; and what `verify` says."""
    pipeline = open_pipeline(experiment_file)
    fingerprints = pipeline.latest_fingerprints()
    for key in pipeline.graph:
        for recipe in fingerprints.stored(key):
            folder = pipeline.store.root / ".work" / f"{recipe.kind}-{recipe.fingerprint}"
            if folder.exists():
                yield f"{folder} is left"
    command = [sys.executable, "-m", "miniplm_assets", "verify", str(experiment_file)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    if done.returncode:
        yield f"verify: {done.stdout[-2_000:]}{done.stderr[-1_000:]}"


@contextmanager
def history_in_postgres(home: Path) -> Iterator[None]:
    """Let Dagster keep what it remembers in a PostgreSQL of its own."""
    with running_postgres() as port:
        settings = yaml.safe_load((PROJECT / "dagster.yaml").read_text())
        place = {"hostname": "127.0.0.1", "port": port, "db_name": "dagster", "username": "dagster", "password": "none"}
        settings["storage"] = {"postgres": {"postgres_db": {"scheme": "postgresql+psycopg2", **place}}}
        home.mkdir(parents=True)
        (home / "dagster.yaml").write_text(yaml.safe_dump(settings))
        yield


def soak(folder: Path, *, minutes: float, num_events: int, seed: int, in_postgres: bool = False) -> dict[str, Any]:
    """Run it, and return what was found by each check: nothing, where all is well.

    Args:
        folder: for everything; empty.
        minutes: how long events come.
        num_events: how many.
        seed: of everything random.
        in_postgres: whether Dagster's history lies in PostgreSQL.
    """
    numbers, history = random.Random(seed), History()
    corpus = Corpus(folder / "corpus", numbers, history)
    content = tiny_experiment(folder / "corpus", folder / "warehouse")
    for learner in (content["tokenizers"]["bpe"], *(content[of][name]["model"] for of, name in MODELS)):
        learner["shards"] = [LEARNT]
    del content["evaluation"]  # a domain may go with its last file
    content["automation"] = {"seconds_between_looks": 1, "quiet_seconds": QUIET_SECONDS}
    content["automation"]["keep_runs"] = 10 * num_events + 10  # all of them are looked at in the end
    experiment_file = write_experiment(folder / "experiment.yaml", content)
    home, is_over, events = folder / "home", threading.Event(), []
    with ExitStack() as stack:
        if in_postgres:
            stack.enter_context(history_in_postgres(home))
        server = stack.enter_context(running_dagster(experiment_file, home, *separate_services()))
        instance = stack.enter_context(dg.DagsterInstance.from_config(str(home)))
        watcher = threading.Thread(target=watch_manifests, args=(folder / "warehouse", history, is_over), daemon=True)
        watcher.start()
        server.start_sensor(SENSOR)
        pause = 60 * minutes / num_events
        for number in range(num_events):
            events.append((round(time.time(), 1), corpus.event()))
            if (disturbed := disturb(instance, server, numbers, history)) is not None:
                events.append((round(time.time(), 1), disturbed))
            print(f"{number + 1}/{num_events}", *(told for _, told in events[-2:]), flush=True)
            # Bursts and rests: the mean of the shares is one.
            time.sleep(pause * numbers.choice([0, 0.1, 0.4, 1, 1.5, 3]))
        corpus.mend_all()
        corpus.add()  # what was stopped by hand is asked for again when something changes
        finished = time.time()
        server.wait_until(lambda: settled(instance, server, finished + QUIET_SECONDS), seconds=SECONDS_TO_SETTLE)
        history.runs = runs_of(instance)
        failed_ticks = [tick["error"]["message"] for tick in server.ticks(SENSOR) if tick["status"] == "FAILURE"]
    is_over.set()
    watcher.join()
    return {
        "events": events,
        "history": asdict(history),
        "found": {
            "equals one run": list(other_than_in_one_run(experiment_file, folder)),
            "no run failed but for broken files": list(unexplained_failures(history)),
            "nothing is computed twice": list(computed_twice(history)),
            "one run for a rest": list(too_many_runs(history, quiet_seconds=QUIET_SECONDS)),
            "nothing is left over": list(work_left(experiment_file)),
            "no tick failed": failed_ticks,
        },
    }


MODELS = (("teachers", "large"), ("references", "small"))


def main() -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--folder", type=Path, help="is kept; default: a temporary one, kept where a check fails")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="soak-"))
    report = soak(
        folder, minutes=options.minutes, num_events=options.events, seed=options.seed, in_postgres=options.postgres
    )
    (folder / "report.json").write_text(json.dumps(report, indent=1))
    runs = report["history"]["runs"]
    by_status = {status: sum(run["status"] == status for run in runs) for status in ("SUCCESS", "FAILURE", "CANCELED")}
    print(f"{len(report['events'])} events, {len(runs)} runs {by_status}, {folder}")
    for check, problems in report["found"].items():
        print(f"{'FAILED' if problems else 'ok':8} {check}", *problems[:20], sep="\n         " if problems else " ")
    is_well = not any(report["found"].values())
    if is_well and options.folder is None:
        shutil.rmtree(folder)
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
