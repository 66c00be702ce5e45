"""Random events on a corpus under the real daemon, and at the end: is all as one run on the final corpus makes it?

    python -m tests.soak --minutes 60 --events 200 --seed 7 [--postgres] [--folder FOLDER]

Files are added (at times bit by bit), grow, change, go, are touched, broken and mended; runs are killed and stopped,
the daemon is killed and started again. Beside the sensor the schedule is on, every minute. Everything random
follows from the seed. Ends with 1 where a check fails.
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
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import yaml

from miniplm_assets.assets.run_tags import PROCESS_TAG, PUT_DOWN_TAG, STATE_TAG, is_put_down
from miniplm_assets.kinds.registry import PROJECT, open_pipeline
from tests.corpora import tiny_experiment, write_experiment, write_shard
from tests.dagster_server import Server, running_dagster, separate_services
from tests.postgres_server import running_postgres

SENSOR = "corpus_changed"
SCHEDULE = "nightly"
EVERY_MINUTE = "* * * * *"
QUIET_SECONDS = 3
LEARNT = "a.jsonl"  # what models learn from, so that it is left alone: another one makes everything anew
MODULES = (
    *("bisect", "cmd", "code", "codeop", "colorsys", "contextvars", "copyreg", "fnmatch", "getpass", "glob", "heapq"),
    *("linecache", "netrc", "opcode", "queue", "quopri", "reprlib", "sched", "shlex", "stat", "struct", "token"),
)
UNDER_WAY = dg.RunsFilter(
    statuses=[
        dg.DagsterRunStatus.QUEUED,
        dg.DagsterRunStatus.NOT_STARTED,
        dg.DagsterRunStatus.STARTING,
        dg.DagsterRunStatus.STARTED,
        dg.DagsterRunStatus.CANCELING,
    ]
)
SECONDS_TO_SETTLE = 600
# How long a run is waited for that is to be killed or stopped: the quiet period, a tick, and a process that starts.
SECONDS_TO_BEGIN = 30
# A write is noted a moment after a file's own time says.
SECONDS_TO_NOTE = 0.5
# Shares of the mean pause, of which the mean is one: bursts, and rests in which a run comes to its end.
PAUSES = (0, 0.05, 0.1, 0.2, 0.65, 5)
# What two runs on the same files make alike, but for these: how long it took, and where files lie.
OWN_FILES = ("training_log.parquet", "warehouse.duckdb", "report.html")


@dataclass
class Run:
    """What is known of a run.

    Attributes:
        run_id: Dagster's.
        status: how it ended.
        begun: when it was asked for, seconds since 1970.
        ended: when it ended.
        is_retry: whether Dagster tried another one again.
        is_scheduled: whether the schedule asked for it, not the sensor.
        has_started: whether its process has begun with it.
        state: digest of all results that it was asked for.
        put_down: why it was put down, to be asked for again; nothing where it was not.
        errors: what its failed steps say.
        made: fingerprints that a step has made which ended well.
        begun_to_make: each fingerprint that it began to make, and when.
    """

    run_id: str
    status: str
    begun: float
    ended: float
    is_retry: bool = False
    is_scheduled: bool = False
    has_started: bool = True
    state: str = ""
    put_down: str = ""
    errors: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    begun_to_make: list[tuple[str, float]] = field(default_factory=list)


@dataclass
class Write:
    """One change of the corpus.

    Attributes:
        at: when, seconds since 1970.
        name: of the file.
        state: digest of all files' names and contents after it.
    """

    at: float
    name: str
    state: str


@dataclass
class History:
    """What happened.

    Attributes:
        runs: in the order in which they were asked for.
        writes: what was written to the corpus, in its order.
        broken: of each file that was broken: from when to when.
        killed: the runs whose process was killed.
        stopped: the runs that were told to stop.
        daemon_killed: when the daemon was killed, and with it whatever it was about to start.
        rewritten: manifests that changed, or went, after they were there.
        published: when each fingerprint that is stored was published, in whole seconds since 1970.
    """

    runs: list[Run] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    broken: list[tuple[str, float, float]] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    daemon_killed: list[float] = field(default_factory=list)
    rewritten: list[str] = field(default_factory=list)
    published: dict[str, float] = field(default_factory=dict)


@dataclass
class Outcome:
    """What a warehouse holds for the state of the corpus that is its latest.

    Attributes:
        recipes: the fingerprint of each asset.
        files: the digest of each stored file, by asset, fingerprint and name.
        tables: the number of rows and a digest of each table of warehouse.duckdb.
    """

    recipes: dict[str, str]
    files: dict[str, str]
    tables: dict[str, tuple[int, str]]


def unexplained_failures(history: History) -> Iterator[str]:
    """Name the runs that failed though nobody killed them and no file was broken, or were cancelled by nobody."""
    names = {write.name for write in history.writes}
    for run in history.runs:
        if run.status == "CANCELED" and run.run_id not in history.stopped:
            # A signal that nobody sent is no explanation.
            is_explained = run.put_down.startswith("a newer state") or any(name in run.put_down for name in names)
            if not is_explained:
                yield f"run {run.run_id} is cancelled ({run.put_down or 'nothing says why'}), and nobody stopped it"
        if run.status != "FAILURE" or run.run_id in history.killed:
            continue
        # Nobody starts it any more; after a while it is marked as failed, and the next tick asks for another.
        if not run.has_started and any(0 <= at - run.begun <= SECONDS_TO_BEGIN for at in history.daemon_killed):
            continue
        bad = [name for name, since, until in history.broken if since <= run.ended and run.begun <= until]
        # Under a run of the sensor's, a file may change: it is put down. Under any other it may not.
        until = run.ended + SECONDS_TO_NOTE
        changed = [write.name for write in history.writes if run.is_scheduled and run.begun <= write.at <= until]
        because = [*bad, *(f"{name}: its files changed while the run was at work" for name in changed)]
        if not run.errors or not all(any(why in error for why in because) for error in run.errors):
            yield f"run {run.run_id} failed, while {bad or 'nothing'} was broken: {run.errors or 'no step says why'}"


def computed_twice(history: History) -> Iterator[str]:
    """Name what two runs have made, or one once more after it was published, and manifests that did not stay."""
    makers: dict[str, list[str]] = {}
    for run in history.runs:
        for fingerprint in run.made:
            makers.setdefault(fingerprint, []).append(run.run_id)
    yield from (f"{made} was made by {' and '.join(by)}" for made, by in makers.items() if len(by) > 1)
    for run in history.runs:
        for fingerprint, at in run.begun_to_make:
            published = history.published.get(fingerprint)
            if published is not None and at >= published + 1:  # a manifest tells whole seconds
                yield f"run {run.run_id} began to make {fingerprint}, published {at - published:.0f} s before"
    yield from history.rewritten


def rests(history: History, *, quiet_seconds: float) -> list[str]:
    """Return the states in which the corpus rested so long that they may be asked for.

    Args:
        history: with at least one write.
        quiet_seconds: for how long.

    Returns:
        Digests of the states, in their order; one that comes again at once, after a touch, stands there once.
    """
    shortest = quiet_seconds - SECONDS_TO_NOTE
    rested = [sooner.state for sooner, later in pairwise(history.writes) if later.at - sooner.at >= shortest]
    return [state for state, _ in groupby([*rested, history.writes[-1].state])]


def too_many_runs(history: History, *, quiet_seconds: float) -> Iterator[str]:
    """Say where the sensor asked more often than the corpus rested; what Dagster tried again, it did not ask for."""
    num_asked = num_again = 0
    last = None
    for run in history.runs:
        if run.is_scheduled:
            continue
        if not run.is_retry:
            num_asked += 1
            if last is not None and last.state == run.state:
                num_again += 1
                if not last.put_down:
                    yield f"run {run.run_id} was asked for, which {last.run_id} had been, and ended {last.status}"
        last = run
    num_rests = len(rests(history, quiet_seconds=quiet_seconds))
    if num_asked > num_rests + num_again:
        yield f"{num_asked} runs were asked for, {num_again} of them again, and the corpus rested {num_rests} times"


def differences(soaked: Outcome, fresh: Outcome) -> Iterator[str]:
    """Say what differs from what one run makes."""
    for what in ("recipes", "files", "tables"):
        mine, theirs = getattr(soaked, what), getattr(fresh, what)
        if not theirs:
            yield f"{what}: one run made none"
        for name in sorted(mine.keys() | theirs.keys()):
            if mine.get(name) != theirs.get(name):
                yield f"{what}: {name} is {mine.get(name)}, by one run {theirs.get(name)}"


def left_in_the_making(root: Path, wanted: set[str]) -> Iterator[str]:
    """Name the work folders that are left of results that are wanted.

    Args:
        root: of the warehouse.
        wanted: fingerprints.
    """
    for folder in sorted((root / ".work").glob("*")):
        if folder.is_dir() and folder.name.rpartition("-")[2] in wanted:
            yield f"{folder} is left"


class Corpus:
    """The files, and what is done to them."""

    def __init__(self, folder: Path, random_numbers: random.Random, history: History) -> None:
        self.folder = folder
        self.random = random_numbers
        self.history = history
        self.broken: dict[str, float] = {}
        self.num_added = 0
        write_shard(folder / LEARNT, ("textwrap", "calendar", "argparse"))
        self._wrote(LEARNT)

    def _wrote(self, name: str) -> None:
        at = time.time()
        files = [(path.name, digest(path)) for path in sorted(self.folder.iterdir())]
        self.history.writes.append(Write(at, name, hashlib.sha256(json.dumps(files).encode()).hexdigest()))

    def _text(self) -> str:
        scratch = self.folder.with_name("scratch.jsonl")
        return write_shard(scratch, (self.random.choice(MODULES),)).read_text(encoding="utf-8")

    def _names(self, *, broken: bool) -> list[str]:
        names = sorted(path.name for path in self.folder.iterdir() if path.name != LEARNT)
        return [name for name in names if (name in self.broken) == broken]

    def _write(self, name: str, text: str) -> None:
        data = text.encode()
        (self.folder / name).write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
        self._wrote(name)

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
        self._wrote(name)

    def change(self, name: str) -> None:
        """Write other documents into a file."""
        self._write(name, self._text())

    def remove(self, name: str) -> None:
        """Take a file away."""
        (self.folder / name).unlink()
        self._wrote(name)
        self._mended(name)

    def touch(self, name: str) -> None:
        """Give a file another time, and no other content."""
        (self.folder / name).touch()
        self._wrote(name)

    def break_(self, name: str) -> None:
        """Make a file one that cannot be used."""
        self.broken[name] = time.time()
        path = self.folder / name
        if name.endswith(".gz"):
            path.write_bytes(path.read_bytes()[:-20])
        else:
            path.write_bytes(self.random.choice([b"\xff\xfe\x00garbage\n" * 9, b'{"words": "no text"}\n' * 9]))
        self._wrote(name)

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
        return f"{act.__name__.strip('_')} {name or told}"


def disturb(
    instance: dg.DagsterInstance, server: Server, random_numbers: random.Random, history: History
) -> str | None:
    """Kill or stop a run at a random moment, or kill the daemon, now and then; say which."""
    what = random_numbers.choices([None, "kill", "stop", "daemon"], [82, 8, 7, 3])[0]
    seconds = random_numbers.choice([0, 1, 3, 6, 10, 15, 25])
    if what is None:
        return None
    if what == "daemon":
        history.daemon_killed.append(time.time())
        server.restarts[1]()
        return "killed the daemon and started it again"
    deadline = time.monotonic() + SECONDS_TO_BEGIN
    while not (begun := under_way(instance)) and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(seconds if begun else 0)
    for run_id, process in under_way(instance).items():
        noted, number = (history.killed, signal.SIGKILL) if what == "kill" else (history.stopped, signal.SIGTERM)
        noted.append(run_id)
        try:
            os.kill(process, number)
        except ProcessLookupError:  # it has ended this moment
            noted.remove(run_id)
            continue
        return f"{what} of run {run_id}"
    return f"no run for a {what}"


def under_way(instance: dg.DagsterInstance) -> dict[str, int]:
    """Return the runs that are executed now, and the process of each."""
    found = {}
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        process = json.loads(run.tags.get(PROCESS_TAG, "{}"))
        if process.get("run") == run.run_id:  # a retry carries that of the run before it, until it has noted its own
            found[run.run_id] = process["pid"]
    return found


def watch_manifests(warehouse: Path, history: History, is_over: threading.Event) -> None:
    """Note each manifest that does not stay as it was first seen."""
    seen: dict[Path, tuple[int, int]] = {}
    while not is_over.wait(1):
        found = {}
        for place, folders, files in os.walk(warehouse):  # which passes over a folder that goes meanwhile
            if ".work" in folders:
                folders.remove(".work")
            if "manifest.json" in files:
                path = Path(place) / "manifest.json"
                status = path.stat()
                found[path] = (status.st_ino, status.st_mtime_ns)
        history.rewritten += [f"{path} changed, or went" for path, state in seen.items() if found.get(path) != state]
        seen = found


def runs_of(instance: dg.DagsterInstance) -> list[Run]:
    """Return all runs, in the order in which they were asked for."""
    found = []
    for record in reversed(instance.get_run_records()):
        run, steps = record.dagster_run, set()
        errors, making = [], []
        for entry in instance.all_logs(run.run_id):
            event = entry.dagster_event
            if event is None and ": making " in entry.user_message:
                making.append((entry.step_key, entry.user_message.rpartition(" ")[2], entry.timestamp))
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
                is_scheduled="dagster/schedule_name" in run.tags,
                has_started=record.start_time is not None,
                state=run.tags.get(STATE_TAG, ""),
                put_down=run.tags[PUT_DOWN_TAG].partition(": ")[2] if is_put_down(run.run_id, run.tags) else "",
                errors=errors,
                made=[fingerprint for step, fingerprint, _ in making if step in steps],
                begun_to_make=[(fingerprint, at) for _, fingerprint, at in making],
            )
        )
    return found


def settled(instance: dg.DagsterInstance, server: Server, since: float) -> bool:
    """Whether nothing is under way, and the sensor has looked since, and finds everything stored."""
    if instance.get_runs(UNDER_WAY, limit=1):
        return False
    newest = next(iter(server.ticks(SENSOR)), None)
    return newest is not None and newest["timestamp"] > since and "everything is stored" in str(newest["skipReason"])


def published_in(warehouse: Path) -> dict[str, float]:
    """Return when each result was published, by its fingerprint, in whole seconds since 1970."""
    manifests = [
        json.loads(path.read_text()) for path in warehouse.glob("**/manifest.json") if ".work" not in path.parts
    ]
    return {one["fingerprint"]: datetime.fromisoformat(one["created_at"]).timestamp() for one in manifests}


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
    yield from differences(outcome_of(experiment_file), outcome_of(fresh_file))


def outcome_of(experiment_file: Path) -> Outcome:
    """Return what a warehouse holds for the state of the corpus that is its latest; what is missing is not there."""
    pipeline = open_pipeline(experiment_file)
    latest = pipeline.latest_fingerprints()
    files = {}
    for key in pipeline.graph:
        for recipe in latest.stored(key):
            result = pipeline.store.find(recipe)
            for file in result.manifest.files if result is not None else ():
                if file.name not in OWN_FILES:
                    files[f"{key} {recipe.fingerprint} {file.name}"] = digest(result.folder / file.name)
    # The catalog's own names the place of the warehouse; its tables are held against each other.
    recipes = {key: latest.recipe(key).fingerprint for key in pipeline.graph if key != "warehouse_catalog"}
    return Outcome(recipes, files, tables(pipeline.store.root / "warehouse.duckdb"))


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
    latest = pipeline.latest_fingerprints()
    wanted = {recipe.fingerprint for key in pipeline.graph for recipe in latest.stored(key)}
    yield from left_in_the_making(pipeline.store.root, wanted)
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
    # The history of every run is evidence.
    content["automation"] = {
        "seconds_between_looks": 1,
        "quiet_seconds": QUIET_SECONDS,
        "keep_runs": 10_000,
        "nightly": EVERY_MINUTE,
    }
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
        stop_schedule = server.start_schedule(SCHEDULE)
        pause = 60 * minutes / num_events
        for number in range(num_events):
            told = [corpus.event()]
            if (disturbed := disturb(instance, server, numbers, history)) is not None:
                told.append(disturbed)
            events += [(round(time.time(), 1), one) for one in told]
            print(f"{number + 1}/{num_events}", "; ".join(told), flush=True)
            time.sleep(pause * numbers.choice(PAUSES))
        stop_schedule()
        corpus.mend_all()
        corpus.add()  # what was stopped by hand is asked for again when something changes
        finished = time.time()
        try:
            server.wait_until(lambda: settled(instance, server, finished + QUIET_SECONDS), seconds=SECONDS_TO_SETTLE)
            unsettled = []
        except AssertionError as error:  # what happened until then is worth a report all the same
            unsettled = [f"{[run.run_id for run in instance.get_runs(UNDER_WAY)]} go on; {error}"]
        history.runs = runs_of(instance)
        failed_ticks = [tick["error"]["message"] for tick in server.ticks(SENSOR) if tick["status"] == "FAILURE"]
    is_over.set()
    watcher.join()
    history.published = published_in(folder / "warehouse")
    return {
        "events": events,
        "history": asdict(history),
        "rests": len(rests(history, quiet_seconds=QUIET_SECONDS)),
        "found": {
            "it comes to an end": unsettled,
            "equals one run": list(other_than_in_one_run(experiment_file, folder)),
            "no run failed but for broken files": list(unexplained_failures(history)),
            "nothing is computed twice": list(computed_twice(history)),
            "one run for a rest": list(too_many_runs(history, quiet_seconds=QUIET_SECONDS)),
            "nothing is left over": list(work_left(experiment_file)),
            "no tick failed": failed_ticks,
        },
    }


MODELS = (("teachers", "large"), ("references", "small"))


def table(report: dict[str, Any]) -> Iterator[str]:
    """Say in short what happened, and what each check found."""
    runs, history = report["history"]["runs"], report["history"]
    events = Counter(told.split()[0] for _, told in report["events"])
    yield f"{len(report['events'])} events: " + ", ".join(f"{number} {what}" for what, number in sorted(events.items()))
    statuses = Counter(run["status"] for run in runs)
    yield f"{len(runs)} runs: " + ", ".join(f"{number} {status}" for status, number in sorted(statuses.items()))
    scheduled = sum(run["is_scheduled"] for run in runs)
    asked = sum(not (run["is_retry"] or run["is_scheduled"]) for run in runs)
    yield f"{asked} asked for by the sensor, {scheduled} scheduled, the rest tried again"
    yield f"the corpus rested in {report['rests']} states"
    yield f"{len(history['killed'])} killed, {len(history['stopped'])} stopped, {len(history['published'])} results"
    for check, problems in report["found"].items():
        yield f"{'FAILED' if problems else 'ok':8} {check}"
        yield from (f"         {problem}" for problem in problems[:20])


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
    print(*table(report), folder, sep="\n")
    is_well = not any(report["found"].values())
    if is_well and options.folder is None:
        shutil.rmtree(folder)
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
