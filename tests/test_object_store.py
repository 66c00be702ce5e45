"""A warehouse on an object store: complete or invisible there, made once by however many machines, never half."""

import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
import yaml

from miniplm_assets.assets.build import build_assets
from miniplm_assets.cli import main
from miniplm_assets.core.errors import DamagedResultError, MissingResultError, StoreError, UnreachableStoreError
from miniplm_assets.core.recipe import Recipe
from miniplm_assets.kinds.registry import open_pipeline
from miniplm_assets.storage.bucket.door import Bucket
from miniplm_assets.storage.bucket.held import HeldResult
from miniplm_assets.storage.bucket.leases import LEASES, Holder, Lease, Leases
from miniplm_assets.storage.bucket.results import file_name, manifest_name
from miniplm_assets.storage.bucket.store import BucketStore
from miniplm_assets.storage.files import write_note
from miniplm_assets.storage.result import VERIFIED
from miniplm_assets.storage.set_aside import ground_of
from miniplm_assets.storage.store import Draft
from tests.bucket_server import BUCKET, KEY, SECRET, BucketServer
from tests.corpora import write_shard
from tests.make_in_bucket import RECIPE as MADE_APART
from tests.pages import value_of
from tests.test_crash_safety import contents

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1]
RECIPE = Recipe(kind="teacher_scores", names=("large",), code_version="1", settings={}, inputs={"model": "ab"})
# Short: every fault but the last is over after one more try.
PATIENCE = timedelta(seconds=10)


def write(draft: Draft) -> None:
    pl.DataFrame({"sequence_id": [3, 1, 2]}).write_parquet(draft.path / "scores.parquet")
    (draft.path / "more").mkdir()
    (draft.path / "more" / "empty.txt").write_bytes(b"")
    draft.facts = {"num_sequences": 3}


def never(_draft: Draft) -> None:
    raise AssertionError("it is stored")


@pytest.fixture(scope="module")
def server() -> Iterator[BucketServer]:
    server = BucketServer()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def environment(server: BucketServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    return f"s3://{BUCKET}/{re.sub('[^a-z0-9]+', '-', request.node.name)}"


@pytest.fixture
def machine(url: str, tmp_path: Path) -> Callable[[str], BucketStore]:
    def open_on(name: str) -> BucketStore:
        VERIFIED.clear()
        return BucketStore(url, tmp_path / name, patience=PATIENCE, lease_seconds=2)

    return open_on


def test_one_of_many_creates_an_object_and_one_of_many_replaces_it(url: str) -> None:
    bucket = Bucket(url)
    with ThreadPoolExecutor(8) as threads:
        created = [one for one in threads.map(lambda n: bucket.create("a", str(n).encode()), range(8)) if one]
        assert len(created) == 1
        there = bucket.read("a")
        assert there is not None and there.version["e_tag"] == created[0]["e_tag"]
        replaced = list(threads.map(lambda n: bucket.replace("a", f"new {n}".encode(), created[0]), range(8)))
    assert sum(one is not None for one in replaced) == 1
    assert bucket.replace("none", b"", created[0]) is None and bucket.read("none") is None


def test_a_store_that_takes_no_quotes_decides_likewise(url: str, server: BucketServer) -> None:
    server.takes_no_quotes = True
    try:
        bucket = Bucket(url)
        first = bucket.create("a", b"first")
        assert first is not None and bucket.create("a", b"other") is None
        second = bucket.replace("a", b"second", first)
        assert second is not None and bucket.replace("a", b"third", first) is None
        assert Bucket(url).replace("a", b"third", second) is not None
    finally:
        server.takes_no_quotes = False
    assert bucket.replace("a", b"fourth", second) is None
    last = bucket.read("a")
    assert last is not None and last.content == b"third"
    assert bucket.replace("a", b"fourth", last.version) is not None


def test_what_one_machine_publishes_another_finds_with_the_same_bytes_and_fetches_once(
    machine: Callable[[str], BucketStore], server: BucketServer
) -> None:
    made = machine("one").make(RECIPE, write)
    other = machine("other")
    found = other.find(RECIPE)
    assert found is not None and found.manifest == made.manifest
    assert not (other.root / RECIPE.key).exists()  # what nobody reads is not fetched
    assert pl.read_parquet(found.file("scores.parquet"))["sequence_id"].to_list() == [3, 1, 2]
    assert {path.name for path in found.folder.rglob("*")} == {"scores.parquet", "more", "empty.txt", "manifest.json"}
    before = server.requests["GET"]
    again = machine("other").make(RECIPE, never)
    assert again.file("scores.parquet").exists()
    assert server.requests["GET"] - before == 1  # the manifest


def test_files_without_a_manifest_are_no_result(machine: Callable[[str], BucketStore], server: BucketServer) -> None:
    store = machine("one")
    refused = pytest.raises(StoreError, match=r"manifests/.*cannot be written: the store refuses these credentials")

    def at_the_manifest(method: str, path: str) -> str | None:
        return "AccessDenied" if method == "PUT" and "/manifests/" in path else None

    with server.faulty(at_the_manifest), refused:
        store.make(RECIPE, write)
    assert store.find(RECIPE) is None and machine("other").find(RECIPE) is None
    before = server.requests["PUT"]
    store.make(RECIPE, write)
    # A lease, the clock of the server (the lease was let go of, not left), the manifest; the files are there.
    assert server.requests["PUT"] - before <= 4


def test_of_two_that_make_a_result_at_once_the_second_goes_on_with_what_the_first_published(
    machine: Callable[[str], BucketStore],
) -> None:
    first, second = machine("one"), machine("other")
    late = second.begin(RECIPE)
    assert isinstance(late, Draft) and isinstance(late.lock, HeldResult)
    late.lock.lease.is_lost = True  # as of a machine that slept
    second.bucket.delete([late.lock.lease.name])
    made = first.make(RECIPE, write)
    write(late)
    late.facts = {"num_sequences": 4}
    published = second.publish(late)
    assert published.manifest == made.manifest and published.facts == {"num_sequences": 3}
    assert published.folder.is_relative_to(second.root) and list(published.problems()) == []


def test_a_manifest_whose_put_got_no_answer_is_its_own(
    machine: Callable[[str], BucketStore], server: BucketServer
) -> None:
    cut = []

    def once(method: str, path: str) -> str | None:
        if method == "PUT" and "/manifests/" in path and not cut:
            cut.append(path)
            return "late cut"
        return None

    with server.faulty(once):
        made = machine("one").make(RECIPE, write)
    assert cut and made.folder.exists() and machine("other").require(RECIPE).manifest == made.manifest


def apart(url: str, folder: Path, seconds: float, *then: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.make_in_bucket", url, str(folder), str(seconds), *then]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def told(process: "subprocess.Popen[str]", code: int = 0) -> list[str]:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == code, errors[-2_000:]
    return output.splitlines()


def test_of_two_machines_at_once_one_computes_and_the_other_finds(url: str, tmp_path: Path) -> None:
    outputs = [told(one) for one in [apart(url, tmp_path / name, 30) for name in ("one", "other")]]
    parts = [line for output in outputs for line in output if line.startswith("part")]
    assert sorted(parts) == ["part 0", "part 1", "part 2"]
    assert [output[-1] for output in outputs] == ["3", "3"]


def test_another_machine_goes_on_from_the_parts_of_one_that_was_lost(url: str, tmp_path: Path) -> None:
    assert told(apart(url, tmp_path / "lost", 2, "die"), code=9) == ["part 0", "part 1"]
    output = told(apart(url, tmp_path / "other", 2))
    assert "waiting for that" in output[0] and "process" in output[0]
    assert output[1:] == ["goes on from 2 files that another machine left", "part 2", "3"]
    bucket = Bucket(url)
    assert [one.name.split("/")[0] for one in bucket.list("")] == ["files", "manifests"]
    # And the lost one, back again, finds it.
    assert told(apart(url, tmp_path / "lost", 2)) == ["3"]


def test_what_a_killed_process_held_is_free_at_once_on_its_own_machine(url: str, tmp_path: Path) -> None:
    told(apart(url, tmp_path / "one", 3_600, "die"), code=9)
    assert told(apart(url, tmp_path / "one", 3_600)) == ["part 2", "3"]


def test_a_machine_goes_on_from_what_another_did_since_and_from_its_own_where_nobody_did(
    machine: Callable[[str], BucketStore],
) -> None:
    def begun(name: str) -> tuple[Draft, HeldResult]:
        draft = machine(name).begin(RECIPE)
        assert isinstance(draft, Draft) and isinstance(draft.lock, HeldResult)
        return draft, draft.lock

    def names(draft: Draft) -> list[str]:
        return sorted(path.name for path in draft.work.rglob("*") if path.is_file())

    draft, held = begun("one")
    write_note(draft.work / "checkpoint-1" / "state.json", 1)
    (draft.work / ".checkpoint-2").mkdir()
    (draft.work / ".checkpoint-2" / "half.json").write_text("{")
    (draft.work / "tokens").mkdir()
    (draft.work / "tokens" / "all.bin").write_bytes(b"0")
    held.close()
    (draft.work / "later.json").write_text("not carried: its machine was lost before")
    draft, held = begun("one")
    assert names(draft) == ["all.bin", "half.json", "later.json", "state.json"]
    (draft.work / "later.json").unlink()
    held.close()
    draft, held = begun("other")
    assert names(draft) == ["state.json"]
    write_note(draft.work / "checkpoint-3" / "newer.json", 3)
    (draft.work / "checkpoint-1" / "state.json").unlink()
    held.close()
    draft, held = begun("one")
    assert names(draft) == ["newer.json"]
    held.close()


def test_a_folder_that_changes_while_it_is_carried_is_not_told_of_in_part(
    machine: Callable[[str], BucketStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = machine("one")
    draft = store.begin(RECIPE)
    assert isinstance(draft, Draft) and isinstance(draft.lock, HeldResult) and draft.lock.work is not None
    work = draft.lock.work
    write_note(draft.work / "checkpoint-1.json", 1)
    work.carry()
    before = store.bucket.read(f"work/{RECIPE.kind}/{RECIPE.fingerprint}/index.json")
    upload = store.bucket.upload

    def upload_while_it_changes(name: str, path: Path) -> None:
        upload(name, path)
        (draft.work / "checkpoint-1.json").unlink(missing_ok=True)

    monkeypatch.setattr(store.bucket, "upload", upload_while_it_changes)
    write_note(draft.work / "checkpoint-2.json", 2)
    work.carry()
    assert store.bucket.read(f"work/{RECIPE.kind}/{RECIPE.fingerprint}/index.json") == before
    work.carry()
    draft.lock.close()
    gone_on = machine("other").begin(RECIPE)
    assert isinstance(gone_on, Draft)
    assert [path.name for path in gone_on.work.iterdir()] == ["checkpoint-2.json"]
    gone_on.lock.close()


def test_a_lease_is_renewed_while_its_process_lives_and_runs_out_by_the_servers_clock(url: str) -> None:
    bucket = Bucket(url)
    one, other = Leases(bucket, "one", seconds=1), Leases(bucket, "other", seconds=1)
    lease = one.take("leases/a.json")
    assert isinstance(lease, Lease)
    time.sleep(3)  # three times its time
    held = other.take("leases/a.json", is_locked_here=True)
    assert isinstance(held, Holder) and f"process {os.getpid()}" in held.who
    with lease.guard:  # nobody renews it any more
        deadline = time.monotonic() + 60
        while isinstance(taken := other.take("leases/a.json"), Holder):
            assert time.monotonic() < deadline
            time.sleep(0.2)
    deadline = time.monotonic() + 60
    while not lease.is_lost:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    one.release(lease)  # what is another's by now stays his
    assert other.is_held("leases/a.json")
    other.release(taken)
    assert isinstance(one.take("leases/a.json"), Lease)


def test_nothing_is_deleted_while_a_run_on_another_machine_is_at_work(machine: Callable[[str], BucketStore]) -> None:
    one, other = machine("one"), machine("other")
    refused = pytest.raises(StoreError, match=r"a run \(process \d+ of .*\) is using the warehouse s3://")
    with one.in_use(print), refused, other.unused():
        raise AssertionError("it is in use")
    lines: list[str] = []
    with other.unused():
        waiting = threading.Thread(target=lambda: one.in_use(lines.append).__enter__())
        waiting.start()
        while not lines:
            time.sleep(0.05)
    waiting.join(60)
    assert lines == [f"results of {one.address} are being deleted; waiting for that"] and not waiting.is_alive()


def test_what_was_pruned_elsewhere_is_not_stored_and_is_put_back_from_here(
    machine: Callable[[str], BucketStore],
) -> None:
    one, other = machine("one"), machine("other")
    made = one.make(RECIPE, write)
    with other.unused():
        other.remove(other.require(RECIPE))
    assert [listed.name for listed in other.bucket.list("")] == ["deleting.json"]
    with pytest.raises(MissingResultError, match=f"in {one.address}"):
        machine("one").require(RECIPE)
    assert machine("one").make(RECIPE, never).manifest == made.manifest
    assert machine("third").require(RECIPE).file("scores.parquet").exists()


def anew(draft: Draft) -> None:
    write(draft)
    (draft.path / "more" / "empty.txt").write_text("another making")


RESTING = Recipe(
    kind="notes", names=("large",), code_version="1", settings={}, inputs={"teacher_scores": RECIPE.fingerprint}
)


def test_no_machine_finds_what_is_set_aside_nor_puts_a_copy_of_it_back(machine: Callable[[str], BucketStore]) -> None:
    one, other = machine("one"), machine("other")
    first = one.make(RECIPE, write).manifest
    assert other.require(RECIPE).file("scores.parquet").exists()
    with one.unused():
        one.set_aside(one.require(RECIPE), None)
    assert [aside.manifest for aside in machine("third").aside.all()] == [first]
    for name in ("one", "other", "third"):
        assert machine(name).find(RECIPE) is None
    with pytest.raises(KeyboardInterrupt):
        machine("other").make(RECIPE, killed)
    assert [aside.manifest for aside in machine("third").aside.all()] == [first], "the earlier one stays until then"
    machine("other").make(RECIPE, anew)
    made = machine("one").require(RECIPE)
    assert (made.folder / "more" / "empty.txt").read_text() == "another making"
    assert not list(machine("third").aside.all())
    kept = {file_name(made.manifest, file) for file in made.manifest.files}
    assert {listed.name for listed in one.bucket.list("files/")} == kept
    assert not list(one.bucket.list("aside/")) and list(made.problems()) == []


def killed(_draft: Draft) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("makes", "comes_back"), [(write, True), (anew, False)])
def test_what_rests_on_it_comes_back_with_the_same_bytes_alone(
    machine: Callable[[str], BucketStore], makes: Callable[[Draft], None], comes_back: bool
) -> None:
    one = machine("one")
    first, resting = one.make(RECIPE, write).manifest, one.make(RESTING, write).manifest
    with one.unused():
        one.set_aside(one.require(RESTING), [ground_of(first)])
        one.set_aside(one.require(RECIPE), None)
    other = machine("other")
    assert other.find(RESTING) is None
    other.bring_back(RESTING)
    assert other.find(RESTING) is None, "what it rests on is not there"
    other.make(RECIPE, makes)
    other.bring_back(RESTING)
    found = machine("third").find(RESTING)
    assert (found is not None) is comes_back
    if found is not None:
        assert found.manifest == resting and list(found.problems()) == []
        assert other.make(RESTING, never).manifest == resting
    made = []
    other.make(RESTING, lambda draft: (made.append(1), write(draft))[1])
    assert bool(made) is not comes_back
    assert not list(machine("third").bucket.list("aside/"))


def test_a_result_whose_setting_aside_broke_off_is_still_stored(
    machine: Callable[[str], BucketStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = machine("one")
    one.make(RECIPE, write)

    def killed_before(_self: Bucket, _names: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(Bucket, "delete", killed_before)
        one.set_aside(one.require(RECIPE), None)
    assert not list(machine("other").aside.all())
    assert machine("other").make(RECIPE, never).file("scores.parquet").exists()
    # Where its files are gone, it does not come back as a manifest alone.
    other, third = machine("other"), machine("third")
    with other.unused():
        other.set_aside(other.require(RECIPE), [])
    other.bucket.delete([listed.name for listed in other.bucket.list("files/")])
    third.bring_back(RECIPE)
    assert third.find(RECIPE) is None


def test_a_copy_of_another_making_gives_way_to_what_is_stored(machine: Callable[[str], BucketStore]) -> None:
    one, other = machine("one"), machine("other")
    one.make(RECIPE, write)
    with other.unused():
        other.remove(other.require(RECIPE))

    other.make(RECIPE, anew)
    assert (machine("one").require(RECIPE).folder / "more" / "empty.txt").read_text() == "another making"


def test_an_object_that_is_not_what_the_manifest_says_is_refused(machine: Callable[[str], BucketStore]) -> None:
    made = machine("one").make(RECIPE, write)
    file = next(file for file in made.manifest.files if file.name == "scores.parquet")
    name = file_name(made.manifest, file)
    made_of = Path(made.file("scores.parquet")).read_bytes()
    bucket = machine("one").bucket
    bucket.write(name, bytes([made_of[0] ^ 1]) + made_of[1:])
    other = machine("other")
    with pytest.raises(DamagedResultError, match=f"{name}: the content does not fit the checksum of the manifest"):
        other.require(RECIPE).file("scores.parquet")
    assert not (other.root / RECIPE.key).exists()
    assert [problem for problem in other.require(RECIPE).problems() if "checksum" in problem]
    bucket.write(name, made_of[:-1])
    assert any("bytes, the manifest says" in problem for problem in other.require(RECIPE).problems())
    bucket.delete([name])
    assert any(problem.endswith("missing") for problem in other.require(RECIPE).problems())
    bucket.write(manifest_name(RECIPE.kind, RECIPE.fingerprint), b"{}")
    with pytest.raises(DamagedResultError, match=r"manifests/.*written as format None"):
        machine("other").find(RECIPE)


@pytest.mark.parametrize("fault", ["cut", "late cut", "500", "503"])
def test_a_fault_of_any_request_changes_nothing(
    fault: str, machine: Callable[[str], BucketStore], server: BucketServer
) -> None:
    num_faults, apart = 0, 7  # far enough for a request that is tried again to come through
    checksums = set()
    one, other = machine("one"), machine("other")
    for first in range(apart):
        requests = itertools.count()

        def goes_wrong(_method: str, _path: str, first: int = first, requests: Iterator[int] = requests) -> str | None:
            nonlocal num_faults
            if next(requests) % apart != first:
                return None
            num_faults += 1
            return fault

        recipe = Recipe(kind="teacher_scores", names=("large",), code_version="1", settings={"first": first}, inputs={})
        computed = []

        def write_once(draft: Draft, computed: list[int] = computed) -> None:
            computed.append(1)
            write_note(draft.work / "part.json", 1)
            assert isinstance(draft.lock, HeldResult) and draft.lock.work is not None
            draft.lock.work.carry()
            write(draft)

        with server.faulty(goes_wrong), one.in_use(print):
            made = one.make(recipe, write_once)
            found = other.require(recipe)
            assert found.file("scores.parquet").exists() and found.manifest == made.manifest
        assert computed == [1] and list(found.problems()) == []
        checksums.add(tuple(file.sha256 for file in made.manifest.files))
    assert num_faults >= 20 and len(checksums) == 1


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidAccessKeyId", "403"])
def test_credentials_that_ran_out_stop_a_run_in_words_that_do_not_tell_them(
    code: str, machine: Callable[[str], BucketStore], server: BucketServer
) -> None:
    store = machine("one")
    begun = store.begin(RECIPE)
    assert isinstance(begun, Draft)
    write(begun)
    with server.faulty(lambda _method, _path: code):
        with pytest.raises(StoreError, match=r"the store refuses these credentials \(40[03].*Renew them") as refused:
            store.publish(begun)
        assert not isinstance(refused.value, UnreachableStoreError)
        shown = "".join(traceback.format_exception(refused.value))
        assert SECRET not in shown and KEY not in shown
        store.give_up(begun, refused.value)
    assert machine("one").make(RECIPE, write).facts == {"num_sequences": 3}


def test_a_store_that_does_not_answer_may_do_so_later(url: str, server: BucketServer, tmp_path: Path) -> None:
    store = BucketStore(url, tmp_path, patience=timedelta(seconds=0.3))
    refused = pytest.raises(UnreachableStoreError, match="does not answer as it should")
    with server.faulty(lambda _method, _path: "503"), refused:
        store.find(RECIPE)
    assert store.find(RECIPE) is None


def test_a_bucket_that_is_not_there_is_refused_and_taken_for_no_empty_one(tmp_path: Path) -> None:
    store = BucketStore("s3://not-there/a", tmp_path, patience=PATIENCE)
    with pytest.raises(StoreError, match="there is no such bucket"):
        store.find(RECIPE)


def test_a_listing_that_lags_hides_no_result(machine: Callable[[str], BucketStore], server: BucketServer) -> None:
    server.listings_lag = True
    try:
        made = machine("one").make(RECIPE, write)
        other = machine("other")
        assert list(other.bucket.list("")) == []
        assert other.make(RECIPE, never).manifest == made.manifest
        assert other.require(RECIPE).file("scores.parquet").exists()
    finally:
        server.listings_lag = False


def test_a_process_killed_at_any_request_loses_nothing_and_makes_nothing_twice(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.kill_in_bucket", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4_000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["places"]) >= 40
    assert {when for _, _, when in found["places"]} == {"before", "after"}
    assert found["killed"] == found["plain"] and len(found["killed"]) == 4
    assert {place: puts for place, puts in found["puts"].items() if puts != 1} == {}
    assert {name.split("/")[0] for name in found["left"]} == {"manifests", "files", "notes", "deleting.json"}


@pytest.fixture
def small(url: str, tmp_path: Path) -> Path:
    """An experiment without a model: what is read, cut and laid out."""
    write_shard(tmp_path / "corpus" / "a.jsonl")
    content = {
        "warehouse": url,
        "corpus": {"source": {"type": "jsonl", "path": str(tmp_path / "corpus")}},
        "tokenizers": {"bpe": {"source": "trained", "vocab_size": 260}},
    }
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def materialise(path: Path, instance: dg.DagsterInstance, warehouse: str | None = None) -> dict[str, int]:
    """Return how many results each asset computed."""
    result = dg.materialize(build_assets(open_pipeline(path, warehouse=warehouse)), instance=instance)
    assert result.success
    events = [event.materialization for event in result.get_asset_materialization_events()]
    return {"/".join(event.asset_key.path): value_of(event, "num_results_computed") for event in events}


def test_an_experiment_on_a_bucket_has_the_bytes_of_one_on_a_folder_and_no_keys_and_is_verified_and_pruned(
    small: Path,
    tmp_path: Path,
    server: BucketServer,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def cache(name: str) -> Path:
        monkeypatch.setenv("MINIPLM_CACHE", str(tmp_path / name))
        return tmp_path / name

    (tmp_path / "instance").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "instance")) as instance:
        first = materialise(small, instance, str(tmp_path / "folder"))
        one = cache("one")
        assert main(["plan", str(small)]) == 0
        assert materialise(small, instance) == first
        assert materialise(small, instance) == dict.fromkeys(first, 0)
        other = cache("other")
        assert main(["plan", str(small)]) == 0
        # The catalog names files by their place, so that each machine has its own.
        assert materialise(small, instance) == dict.fromkeys(first, 0) | {"warehouse_catalog": 1}
        assert main(["forget", "bpe/sequences", str(small)]) == 0
        assert main(["plan", str(small)]) == 0
        # What rests on it comes back, since the same bytes were made.
        again = materialise(small, instance)
        assert again == dict.fromkeys(first, 0) | {"bpe/sequences": first["bpe/sequences"]}
        cache("one")
        assert materialise(small, instance) == dict.fromkeys(first, 0)
        cache("other")
    kept = contents(tmp_path / "folder")
    assert kept and contents(next(one.iterdir())) == contents(next(other.iterdir())) == kept
    for command in (["show", "bpe/sequences", str(small)], ["verify", str(small)], ["prune", str(small)]):
        assert main(command) == 0, command
    printed = "".join(capfd.readouterr())
    assert "bpe/sequences" in printed and "set aside; the next run makes it anew" in printed
    assert "all is well" in printed
    assert "0 leftovers" in printed and "never finished" not in printed
    store = open_pipeline(small).store
    assert isinstance(store, BucketStore)
    objects = [store.bucket.read(one.name) for one in store.bucket.list("")]
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    for secret in (SECRET, KEY):
        assert secret not in printed
        assert not any(secret.encode() in content for content in files)
        assert not any(secret.encode() in there.content for there in objects if there is not None)
    prune_what_nobody_asks_for(small, store, capfd)


def prune_what_nobody_asks_for(small: Path, store: BucketStore, capfd: pytest.CaptureFixture[str]) -> None:
    before = {one.name for one in store.bucket.list("manifests/")}
    stray = store.make(RECIPE, write)
    store.bucket.write(f"files/{MADE_APART.kind}/{'0' * 32}/{'1' * 16}/a.txt", b"left")
    store.bucket.write(f"work/{MADE_APART.kind}/{'0' * 32}/index.json", b"{}")
    assert main(["prune", str(small), "--delete"]) == 0
    printed = capfd.readouterr().out
    assert stray.address in printed and "2 results that no given experiment refers to" in printed
    assert "2 leftovers" in printed
    left = {one.name for one in store.bucket.list("")}
    (other_place,) = before - left  # the catalog of the first machine
    assert other_place.startswith("manifests/warehouse_catalog/")
    assert not any(name.startswith(("work/", f"{LEASES}/")) or RECIPE.fingerprint in name for name in left)
    assert main(["verify", str(small)]) == 0
