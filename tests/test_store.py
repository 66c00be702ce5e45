"""The store: complete or invisible, found by what went in, refused when damaged."""

import errno
import fcntl
import json
import os
import stat
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from miniplm_assets.core.errors import DamagedResultError, MissingResultError, StoreError
from miniplm_assets.core.recipe import Recipe, canonical_json, fingerprint_of
from miniplm_assets.storage.files import beside, read_note, write_note
from miniplm_assets.storage.leases import in_use, unused
from miniplm_assets.storage.result import VERIFIED
from miniplm_assets.storage.store import Draft, Store

RECIPE = Recipe(
    kind="teacher_scores", names=("large",), code_version="1", settings={"dtype": "float32"}, inputs={"model": "ab"}
)


def write_table(draft: Draft) -> None:
    pl.DataFrame({"sequence_id": [3, 1, 2]}).write_parquet(draft.path / "scores.parquet")
    draft.facts = {"num_sequences": 3}


@pytest.fixture(autouse=True)
def nothing_verified_yet():
    VERIFIED.clear()


def test_fingerprint_is_the_sha256_of_the_canonical_json():
    import hashlib

    assert canonical_json({"b": 1, "a": [1.5, None]}) == '{"a":[1.5,null],"b":1}'
    assert fingerprint_of({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()[:32]


def test_fingerprint_depends_on_what_goes_in_and_not_on_the_name():
    def changed(**change):
        content = {"kind": RECIPE.kind, "names": RECIPE.names, "code_version": "1"}
        content |= {"settings": RECIPE.settings, "inputs": RECIPE.inputs}
        return Recipe(**{**content, **change}).fingerprint

    assert changed(names=("other",)) == RECIPE.fingerprint
    assert changed(kind="reference_scores") != RECIPE.fingerprint
    assert changed(code_version="2") != RECIPE.fingerprint
    assert changed(settings={"dtype": "bfloat16"}) != RECIPE.fingerprint
    assert changed(inputs={"model": "cd"}) != RECIPE.fingerprint
    assert changed(shard="a.jsonl") != RECIPE.fingerprint


def test_a_result_is_made_once_and_found_afterwards(tmp_path):
    calls = []
    store = Store(tmp_path)
    for _ in range(2):
        result = store.make(RECIPE, lambda draft: (calls.append(1), write_table(draft))[1])
    assert calls == [1]
    assert result.folder == tmp_path / "large" / "teacher_scores" / RECIPE.fingerprint
    assert pl.read_parquet(result.file("scores.parquet"))["sequence_id"].to_list() == [3, 1, 2]
    manifest = json.loads((result.folder / "manifest.json").read_text())
    assert manifest["facts"] == {"num_sequences": 3}
    assert [(file["name"], file["num_rows"]) for file in manifest["files"]] == [("scores.parquet", 3)]
    assert [path.name for path in result.folder.parent.iterdir()] == [RECIPE.fingerprint]
    assert list((tmp_path / ".work").iterdir()) == []


def test_the_same_result_under_another_name_is_found(tmp_path):
    store = Store(tmp_path)
    result = store.make(RECIPE, write_table)
    renamed = replace(RECIPE, names=("renamed",))
    for other in (store, Store(tmp_path)):
        assert other.make(renamed, pytest.fail).folder == result.folder
        assert other.require(renamed).file("scores.parquet") == result.folder / "scores.parquet"
    # Another kind with the same fingerprint is not the same result.
    assert store.lookup("large/reference_scores", "reference_scores", RECIPE.fingerprint) is None


def test_work_under_another_name_is_gone_on_with(tmp_path):
    def fail(draft):
        (draft.work / "part").write_text("kept")
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        Store(tmp_path).make(RECIPE, fail)
    renamed = replace(RECIPE, names=("renamed",))
    result = Store(tmp_path).make(
        renamed, lambda draft: (draft.path / "part").write_bytes((draft.work / "part").read_bytes())
    )
    assert (result.folder / "part").read_text() == "kept"
    assert result.folder == tmp_path / "renamed" / "teacher_scores" / RECIPE.fingerprint


def test_a_failure_leaves_nothing_but_the_work(tmp_path):
    store = Store(tmp_path)

    def fail(draft):
        write_table(draft)
        (draft.work / "part").write_text("kept")
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        store.make(RECIPE, fail)
    assert store.find(RECIPE) is None

    def go_on(draft):
        assert (draft.work / "part").read_text() == "kept"
        write_table(draft)

    work = tmp_path / ".work" / f"teacher_scores-{RECIPE.fingerprint}"
    assert work.exists()
    store.make(RECIPE, go_on)
    assert not work.exists()


def test_a_missing_result_says_what_to_materialise(tmp_path):
    with pytest.raises(
        MissingResultError, match=r"dagster asset materialize --select '\+key:\"large/teacher_scores\"'"
    ):
        Store(tmp_path).require(RECIPE)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes, the manifest says"),
        (lambda path: path.write_bytes(b"X" + path.read_bytes()[1:]), "does not fit the checksum"),
    ],
)
def test_a_damaged_file_is_named_and_never_read(tmp_path, damage, message):
    result = Store(tmp_path).make(RECIPE, write_table)
    damage(result.folder / "scores.parquet")
    with pytest.raises(DamagedResultError, match=message) as caught:
        Store(tmp_path).require(RECIPE).file("scores.parquet")
    assert str(result.folder / "scores.parquet") in str(caught.value)
    assert "materialise large/teacher_scores" in str(caught.value)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"format": 99}', b'{"format": 2, "key": "x"}', b"\xff{}"])
def test_a_manifest_that_is_none_or_of_another_version_is_refused(tmp_path, content):
    result = Store(tmp_path).make(RECIPE, write_table)
    (result.folder / "manifest.json").write_bytes(content)
    with pytest.raises(DamagedResultError, match=r"manifest\.json"):
        Store(tmp_path).find(RECIPE)


def test_a_manifest_that_lies_elsewhere_is_refused(tmp_path):
    result = Store(tmp_path).make(RECIPE, write_table)
    result.folder.rename(result.folder.with_name("0" * 32))
    with pytest.raises(DamagedResultError, match="is not where it lies"):
        Store(tmp_path).lookup(RECIPE.key, RECIPE.kind, "0" * 32)


def test_a_full_disk_is_told_from_the_words_of_a_library_too(tmp_path):
    def fill(draft):
        pl.DataFrame({"a": [1]}).write_parquet("/dev/full")

    with pytest.raises(StoreError, match="is full"):
        Store(tmp_path).make(RECIPE, fill)


def test_a_folder_without_a_manifest_is_no_result(tmp_path):
    result = Store(tmp_path).make(RECIPE, write_table)
    (result.folder / "manifest.json").unlink()
    assert Store(tmp_path).find(RECIPE) is None
    assert Store(tmp_path).make(RECIPE, write_table).file("scores.parquet").exists()


def test_two_writers_at_once_compute_once(tmp_path):
    started, go_on, calls, results = threading.Event(), threading.Event(), [], []

    def slow(draft):
        calls.append(1)
        started.set()
        assert go_on.wait(60)
        write_table(draft)

    first = threading.Thread(target=lambda: results.append(Store(tmp_path).make(RECIPE, slow)))
    first.start()
    assert started.wait(60)
    second = threading.Thread(target=lambda: results.append(Store(tmp_path).make(RECIPE, slow)))
    second.start()
    go_on.set()
    first.join(60)
    second.join(60)
    assert calls == [1]
    assert results[0].folder == results[1].folder


def test_who_waits_says_so_and_finds_what_the_other_made(tmp_path):
    store, lines = Store(tmp_path), []
    draft = store.begin(replace(RECIPE, names=("other_name",)))
    published = []

    def report(line):
        lines.append(line)
        write_table(draft)
        published.append(store.publish(draft))

    assert Store(tmp_path).make(RECIPE, pytest.fail, report) == published[0]
    assert len(lines) == 1 and "large/teacher_scores: another run is making it" in lines[0]
    assert list((tmp_path / ".work").iterdir()) == []


def test_a_lock_that_its_holder_removed_is_not_taken_for_one(tmp_path):
    store = Store(tmp_path)
    draft = store.begin(RECIPE)
    write_table(draft)

    def report(_line):
        result = store.publish(draft)  # removes the lock, and
        store.remove(result)  # somebody removes the result before the one who waits has looked

    calls = []
    Store(tmp_path).make(RECIPE, lambda draft: (calls.append(1), write_table(draft))[1], report)
    assert calls == [1]


def test_a_killed_writer_leaves_no_lock_and_its_leftovers_go(tmp_path):
    script = f"""
import os, signal
from pathlib import Path
from miniplm_assets.core.recipe import Recipe
from miniplm_assets.storage.store import Store
def die(draft):
    (draft.path / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
Store(Path({str(tmp_path)!r})).make(Recipe(kind={RECIPE.kind!r}, names={RECIPE.names!r}, code_version="1",
    settings={dict(RECIPE.settings)!r}, inputs={dict(RECIPE.inputs)!r}), die)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    [work] = (tmp_path / ".work").iterdir()
    assert (work / "draft" / "half").exists()
    assert Store(tmp_path).find(RECIPE) is None
    result = Store(tmp_path).make(RECIPE, write_table)
    assert not work.exists()
    assert not (result.folder / "half").exists()


@pytest.fixture
def ordinary_user():
    """Root may write everywhere, so the test of a read-only folder runs as nobody."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


def test_a_read_only_warehouse_is_named(ordinary_user):
    with tempfile.TemporaryDirectory() as folder:
        warehouse = Path(folder) / "warehouse"
        warehouse.mkdir(mode=0o500)
        with pytest.raises(StoreError, match="cannot be written .*MINIPLM_WAREHOUSE"):
            Store(warehouse).make(RECIPE, write_table)


def test_a_warehouse_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(NotADirectoryError, match="file") as caught:
        Store(tmp_path / "file").make(RECIPE, write_table)
    assert "while making large/teacher_scores" in caught.value.__notes__[0]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_said_to_be_full(tmp_path):
    def fill(draft):
        with Path("/dev/full").open("wb", buffering=0) as file:
            file.write(b"x")

    with pytest.raises(StoreError, match="disk of the warehouse .* is full"):
        Store(tmp_path).make(RECIPE, fill)
    assert Store(tmp_path).find(RECIPE) is None


def test_removing_takes_the_manifest_first(tmp_path):
    store = Store(tmp_path)
    result = store.make(RECIPE, write_table)
    assert [found.folder for found in store.results(on_problem=pytest.fail)] == [result.folder]
    store.remove(result)
    assert list(store.results(on_problem=pytest.fail)) == []
    assert store.find(RECIPE) is None


def test_no_flipped_bit_of_a_manifest_passes(tmp_path):
    result = Store(tmp_path).make(RECIPE, write_table)
    path = result.folder / "manifest.json"
    content = path.read_bytes()
    said = json.loads(content)
    for place in range(len(content)):
        for bit in (0, 3, 6):
            flipped = bytearray(content)
            flipped[place] ^= 1 << bit
            path.write_bytes(flipped)
            try:
                found = Store(tmp_path).find(RECIPE)
            except DamagedResultError as error:
                assert str(path) in str(error)
            else:
                assert json.loads(path.read_bytes()) == said and found == result  # white space


@pytest.mark.parametrize("name", ["../../../other", "/etc/passwd", "", "a/../../b", "nul\0"])
def test_a_manifest_that_names_a_file_outside_of_its_folder_is_refused(tmp_path, name):
    result = Store(tmp_path).make(RECIPE, write_table)
    manifest = result.manifest
    changed = manifest.model_copy(update={"files": (manifest.files[0].model_copy(update={"name": name}),)}).sealed()
    (result.folder / "manifest.json").write_text(changed.model_dump_json())
    with pytest.raises(DamagedResultError, match=r"manifest\.json: not a manifest .*which is no file of its folder"):
        Store(tmp_path).find(RECIPE)


def test_a_file_that_the_manifest_does_not_name_is_refused(tmp_path):
    result = Store(tmp_path).make(RECIPE, write_table)
    (result.folder / "model-00002.safetensors").write_text("from elsewhere")
    with pytest.raises(DamagedResultError, match=r"model-00002\.safetensors: the manifest does not name this file"):
        result.matching("*.parquet")


def test_a_manifest_of_an_earlier_release_without_a_checksum_is_read(tmp_path):
    result = Store(tmp_path).make(RECIPE, write_table)
    path = result.folder / "manifest.json"
    content = json.loads(path.read_text())
    del content["checksum"]
    path.write_text(json.dumps(content))
    assert Store(tmp_path).require(RECIPE).matching("*.parquet")
    path.write_text(json.dumps(content | {"ingredients": content["ingredients"] | {"code_version": "9"}}))
    with pytest.raises(DamagedResultError, match="its fingerprint is not that of its ingredients"):
        Store(tmp_path).find(RECIPE)


@pytest.mark.parametrize("damage", ["folder", "format", "nested"])
def test_what_is_wrong_with_one_manifest_stops_nothing_but_its_own_result(tmp_path, damage):
    other = replace(RECIPE, code_version="2")
    store = Store(tmp_path)
    path = store.make(RECIPE, write_table).folder / "manifest.json"
    store.make(other, write_table)
    content = json.loads(path.read_text())
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        path.write_text(json.dumps(content | {"format": 1}) if damage == "format" else "[" * 100_000)
    problems = []
    assert [result.manifest.fingerprint for result in store.results(on_problem=problems.append)] == [other.fingerprint]
    assert len(problems) == 1 and f"Delete the folder {path.parent} and materialise again" in problems[0]
    assert store.require(other)
    with pytest.raises(DamagedResultError, match="Delete the folder"):
        store.require(RECIPE)


def test_a_file_system_without_locks_is_said_so_at_once(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StoreError, match="the file system has no locks"):
        Store(tmp_path).make(RECIPE, write_table)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_folder_that_cannot_be_flushed_is_no_error_and_a_file_is(tmp_path, monkeypatch, code):
    flush = os.fsync

    def refuse(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    assert Store(tmp_path).make(RECIPE, write_table).facts == {"num_sequences": 3}
    monkeypatch.setattr(os, "fsync", lambda _: refuse(os.open(tmp_path, os.O_RDONLY)))
    with pytest.raises(OSError, match=os.strerror(code)):
        Store(tmp_path).make(replace(RECIPE, code_version="2"), write_table)


def test_no_two_writers_meet_in_a_temporary_name(tmp_path):
    """Process ids do not tell containers apart: in each, the first process has 1."""
    assert len({beside(tmp_path / "a.json") for _ in range(1_000)}) == 1_000


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"nonsense", b'{"content": {"a": 1}, "checksum": "0"}'])
def test_a_damaged_note_is_none(tmp_path, content):
    path = tmp_path / "folder" / "note.json"
    write_note(path, {"a": [1, None]})
    assert read_note(path) == {"a": [1, None]}
    path.write_bytes(content)
    assert read_note(path) is None
    assert read_note(tmp_path / "none.json") is None


def test_a_warehouse_is_used_by_many_or_deleted_from_by_one(tmp_path):
    waiting = threading.Event()
    refused = pytest.raises(StoreError, match="a run is using the warehouse")
    with in_use(tmp_path, pytest.fail), in_use(tmp_path, pytest.fail), refused, unused(tmp_path):
        pass
    with ThreadPoolExecutor(1) as threads:

        def use():
            with in_use(tmp_path, lambda _: waiting.set()):
                return deleted

        deleted = False
        with unused(tmp_path):
            user = threads.submit(use)
            assert waiting.wait(60)
            deleted = True
        assert user.result(60)
