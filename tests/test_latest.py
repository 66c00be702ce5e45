"""`<warehouse>/latest`: one name for the latest result of each asset, that never leads to half of one."""

import errno
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from miniplm_assets.core.recipe import Recipe
from miniplm_assets.lineage.kind import ALL_FILES, Kind, Node
from miniplm_assets.lineage.latest import view_of
from miniplm_assets.storage.latest import View, hide, show_latest, shown_fingerprint, tidy
from miniplm_assets.storage.store import Store


@pytest.fixture(params=["warehouse", "ware [1] $HOUSE é'"])
def store(request, tmp_path):
    return Store(tmp_path / request.param)


def made(store, name, content, *, code_version="1", files=("table.parquet",), **facts):
    """Return a stored result of some kind, under a name, that holds tables of one row."""

    def write(draft):
        for file in files:
            draft.path.joinpath(file).parent.mkdir(parents=True, exist_ok=True)
            if file.endswith(".parquet"):
                pl.DataFrame({"value": [content]}).write_parquet(draft.path / file)
            else:
                draft.path.joinpath(file).write_text("{}")
        draft.facts = facts

    recipe = Recipe(kind="thing", names=(name,), code_version=code_version, settings={"content": content})
    return store.make(recipe, write)


def show(store, result, key=None):
    files = {file.name: result.folder / file.name for file in result.manifest.files}
    return show_latest(
        store.root,
        View(key=key or result.manifest.key, kind="thing", fingerprint=result.manifest.fingerprint, files=files),
    )


def read(store, key):
    return pl.read_parquet(store.root / "latest" / key / "table.parquet", glob=False)["value"].to_list()


def views(store):
    return sorted((store.root / ".views").iterdir())


def test_a_name_leads_to_what_was_made_last_and_the_manifest_is_not_there(store):
    first, second = made(store, "half", 1), made(store, "half", 2)
    assert shown_fingerprint(store.root, "half/thing") is None
    for value, result in ((1, first), (2, second), (1, first)):
        assert show(store, result)
        assert read(store, "half/thing") == [value]
        assert shown_fingerprint(store.root, "half/thing") == result.manifest.fingerprint
    assert [path.name for path in (store.root / "latest" / "half" / "thing").iterdir()] == ["table.parquet"]
    assert len(views(store)) == 1  # what nothing leads to is gone
    # Whoever goes through the results meets each once.
    assert {result.folder for result in store.results(on_problem=pytest.fail)} == {first.folder, second.folder}


def test_a_warehouse_that_is_moved_keeps_its_names(store):
    show(store, made(store, "half", 7))
    moved = Store(store.root.rename(store.root.with_name("elsewhere")))
    assert read(moved, "half/thing") == [7]
    assert shown_fingerprint(moved.root, "half/thing") is not None


@pytest.mark.parametrize("by", ["remove", "hide"])
def test_no_name_leads_to_a_result_that_is_removed(store, by):
    one, other = made(store, "half", 1), made(store, "best", 2)
    show(store, one)
    show(store, one, key="same/thing")
    show(store, other)
    store.remove(one) if by == "remove" else hide(store.root, [one.folder])
    assert not (store.root / "latest" / "half" / "thing").is_symlink()
    assert not (store.root / "latest" / "same" / "thing").is_symlink()
    assert read(store, "best/thing") == [2]


def test_a_result_that_was_deleted_by_hand_is_shown_again_once_it_is_made(store):
    one = made(store, "half", 1)
    show(store, one)
    shutil.rmtree(one.folder)
    assert shown_fingerprint(store.root, "half/thing") is None
    show(store, made(store, "other", 1), key="half/thing")  # the same result, under another name
    assert read(store, "half/thing") == [1]


def test_what_killed_runs_leave_is_tidied_up(store):
    result = made(store, "half", 1)
    show(store, result)
    [view] = views(store)
    orphan = store.root / ".views" / f"thing-{'a' * 32}-12345678"
    orphan.mkdir()
    (store.root / "latest" / "half" / ".thing.1234").symlink_to(f"../../.views/{view.name}")
    (store.root / "latest" / "gone").symlink_to("../.views/nowhere")
    tidy(store.root)
    assert views(store) == [view]
    assert [path.name for path in (store.root / "latest").rglob("*") if path.is_symlink()] == ["thing"]
    assert read(store, "half/thing") == [1]


def test_a_view_that_cannot_be_made_whole_leaves_the_old_one(store, monkeypatch):
    first, second = made(store, "half", 1), made(store, "half", 2, files=("a.parquet", "table.parquet"))
    show(store, first)
    link = Path.symlink_to

    def full(path, target, **kwargs):
        if path.name == "table.parquet":
            raise OSError(errno.ENOSPC, "No space left on device")
        link(path, target, **kwargs)

    monkeypatch.setattr(Path, "symlink_to", full)
    with pytest.raises(OSError, match="No space left"):
        show(store, second)
    assert read(store, "half/thing") == [1]
    assert len(views(store)) == 1


def test_a_file_system_without_links_gets_an_index(store, monkeypatch):
    def refused(*_args, **_kwargs):
        raise OSError(errno.EPERM, "Operation not permitted")

    result = made(store, "half", 3)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "symlink_to", refused)
        assert show(store, result)
    index = store.root / "latest" / "half" / "thing.json"
    [file] = json.loads(index.read_text())["content"]["files"].values()
    assert pl.read_parquet(store.root / file, glob=False)["value"].to_list() == [3]
    assert shown_fingerprint(store.root, "half/thing") == result.manifest.fingerprint
    show(store, result)  # on one that has them, it goes
    assert not index.exists() and read(store, "half/thing") == [3]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "symlink_to", refused)
        show(store, result, key="best/thing")
    store.remove(result)
    assert list((store.root / "latest").rglob("*.json")) == []


def test_a_name_in_the_way_is_left_alone(store):
    result = made(store, "half", 1)
    show(store, result, key="ledger")
    assert not show(store, result, key="ledger/thing")  # would be written into the view
    folder = store.root / "latest" / "copied" / "thing"
    folder.mkdir(parents=True)
    assert not show(store, result, key="copied/thing")
    assert folder.is_dir() and not folder.is_symlink()


def a_node(pieces, table=ALL_FILES):
    kind = Kind(
        name="thing",
        code_version="1",
        section="student",
        technologies=frozenset(),
        description="",
        nodes=lambda _: (),
        make=lambda _: None,
        pieces=pieces,
        table=table,
    )
    return Node(kind=kind, names=("half",), settings=None)


@pytest.mark.parametrize(
    ("pieces", "table", "files", "names", "expected"),
    [
        (None, "t.parquet", ("t.parquet", "plot.png"), (), {"t.parquet", "__more__/plot.png"}),
        (None, None, ("a.parquet", "vocab.json"), (), {"a.parquet", "vocab.json"}),
        (
            "shard",
            "t.parquet",
            ("t.parquet", "rejected.parquet"),
            ("b.jsonl", "sub/A [1].jsonl"),
            {
                "part-00000-of-00002.parquet",
                "__more__/part-00000-of-00002/rejected.parquet",
                "part-00001-of-00002.parquet",
                "__more__/part-00001-of-00002/rejected.parquet",
            },
        ),
        ("seed", "t.parquet", ("t.parquet", "x.json"), ("3",), {"seed=3/t.parquet", "__more__/seed=3/x.json"}),
        ("seed", "log.parquet", ("log.parquet", "config.json"), ("3",), {"log.parquet", "config.json"}),
        (
            "seed",
            "log.parquet",
            ("config.json",),
            ("3", "5"),
            {"config.json", "seed=3/config.json", "seed=5/config.json"},
        ),
    ],
)
def test_how_a_result_is_laid_out(tmp_path, pieces, table, files, names, expected):
    store = Store(tmp_path)
    whole = SimpleNamespace(facts={})
    parts = [made(store, "half", number, files=files, code_version=name) for number, name in enumerate(names)]
    if pieces is None:
        whole = made(store, "half", 0, files=files)
    else:
        listed = [
            {"piece": name, "fingerprint": part.manifest.fingerprint} for name, part in zip(names, parts, strict=True)
        ]
        whole = SimpleNamespace(facts={"pieces": listed})
    found = dict(view_of(a_node(pieces, table), whole, store))
    assert found.keys() == expected
    assert all(path.is_file() for path in found.values())
    if len(names) > 1 and pieces == "seed":
        assert found["config.json"] == found["seed=3/config.json"] == parts[0].folder / "config.json"
