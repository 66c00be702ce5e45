"""Doing a stored result again: it is out of sight until it is made anew, and what rests on it until that is known."""
# ruff: noqa: F811

import dagster as dg
import pytest

from miniplm_assets.assets.build import build_assets
from miniplm_assets.core.errors import MiniplmError
from miniplm_assets.lineage.forget import _shares_of_files, forget
from miniplm_assets.lineage.latest import link_latest
from miniplm_assets.storage.store import WORK
from tests.pages import value_of
from tests.test_work import make_lengths, work  # noqa: F401 (a fixture)


def make_all(work, compute=len):
    """Make lengths of both files, two seeds that rest on them, and a summary that reads one file alone."""
    made = []
    lengths = work("lengths")
    make_lengths(lengths, compute, begun=made)

    def note(what, text):
        def write(*arguments):
            made.append(what)
            (arguments[-1].path / "note").write_text(text)

        return write

    work("one/learnt").make_pieces(note("learnt", "weights"))
    work("summary").make(note("summary", "words"))
    return made


def forgotten(work, key, *pieces, made_by=None):
    one = work("summary")
    return forget(one.pipeline, one.fingerprints, key, pieces, made_by=made_by)


def folders(work):
    return sorted(path.parent for path in work("summary").pipeline.store.root.glob("*/**/manifest.json"))


@pytest.fixture
def made(work):
    assert make_all(work) == ["a.jsonl", "b.jsonl", "learnt", "learnt", "summary"]
    return work


def test_one_file_is_made_again_and_what_rests_on_it_comes_back_without_work(made):
    before = folders(made)
    done = forgotten(made, "lengths", "b.jsonl")
    assert [recipe.shard for recipe in done.again] == ["b.jsonl"]
    assert sorted(manifest.key for manifest in done.waiting) == [
        "lengths",
        "one/learnt",
        "one/learnt",
        "one/learnt",
        "summary",
    ]
    assert not made("one/learnt").is_stored
    assert make_all(made) == ["b.jsonl"]
    assert [path for path in folders(made) if WORK not in path.parts] == [
        path for path in before if WORK not in path.parts
    ]
    assert not list((made("lengths").pipeline.store.root / WORK).glob("*/earlier*"))
    assert make_all(made) == []


def test_what_rests_on_other_bytes_than_before_is_made_anew(made):
    forgotten(made, "lengths", "b.jsonl")
    assert make_all(made, compute=lambda text: 2 * len(text)) == ["b.jsonl", "learnt", "learnt", "summary"]


def test_what_reads_some_files_alone_rests_on_those_alone(made):
    fingerprints = made("summary").fingerprints
    assert list(_shares_of_files(fingerprints).values()) == [{fingerprints.pieces("lengths")["b.jsonl"].fingerprint}]
    assert made("summary").recipe.inputs["lengths"] in _shares_of_files(fingerprints)


def test_nothing_is_lost_while_the_new_one_is_made(made):
    forgotten(made, "lengths", "b.jsonl")
    aside = list((made("lengths").pipeline.store.root / WORK).glob("lengths-*/earlier/lengths.parquet"))
    assert len(aside) == 1 and aside[0].is_file()

    def killed(_text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_all(made, compute=killed)
    assert aside[0].is_file()
    assert make_all(made) == ["b.jsonl"]
    assert not aside[0].exists()


def test_no_name_leads_to_what_is_set_aside(made):
    def shown():
        root = made("summary").pipeline.store.root
        return {
            key for key in ("documents", "lengths", "one/learnt", "summary") if (root / "latest" / key).is_symlink()
        }

    def link_all():
        for key in ("documents", "lengths", "one/learnt", "summary"):
            link_latest(made(key), made(key).pipeline.store.require(made(key).recipe))

    link_all()
    assert shown() == {"documents", "lengths", "one/learnt", "summary"}
    forgotten(made, "lengths", "b.jsonl")
    assert shown() == {"documents"}
    make_all(made)
    link_all()
    assert shown() == {"documents", "lengths", "one/learnt", "summary"}


def test_who_forgets_twice_waits_for_both(made):
    forgotten(made, "lengths", "b.jsonl")
    again = forgotten(made, "one/learnt")
    assert len(again.again) == 2
    assert make_all(made) == ["b.jsonl", "learnt", "learnt"]


def test_a_result_of_the_run_itself_is_not_made_twice(made):
    forgotten(made, "lengths", "b.jsonl")
    one = made("lengths")
    one.run.run_id = "this run"
    make_lengths(one)
    assert one.tally.pieces["b.jsonl"].manifest.made_by == {"run": "this run"}
    assert forgotten(made, "lengths", "b.jsonl", made_by="this run").again == []
    assert len(forgotten(made, "lengths", "b.jsonl", made_by="another").again) == 1


def test_what_is_not_there_is_refused_with_what_there_is(made):
    with pytest.raises(MiniplmError, match="no asset lenghts; did you mean lengths"):
        forgotten(made, "lenghts")
    with pytest.raises(MiniplmError, match=r"no shard c.jsonl; there are a.jsonl, b.jsonl"):
        forgotten(made, "lengths", "c.jsonl")
    with pytest.raises(MiniplmError, match="looked at by every run"):
        forgotten(made, "raw_corpus")
    with pytest.raises(MiniplmError, match="one result"):
        forgotten(made, "summary", "b.jsonl")


def test_a_run_is_told_how_far_an_asset_is(work):
    one = work("lengths")
    make_lengths(one)
    told = [(there, list(wanted)) for there, wanted in one.run.progress]
    assert told == [(["a.jsonl"], ["a.jsonl", "b.jsonl"]), (["a.jsonl", "b.jsonl"], ["a.jsonl", "b.jsonl"])]


def test_a_run_may_be_asked_to_do_a_file_again(work):
    pipeline = work("documents").pipeline
    assets = [one for one in build_assets(pipeline) if one.key.to_user_string() in ("raw_corpus", "documents")]

    def run(**config):
        with dg.DagsterInstance.ephemeral() as instance:
            asked = {"ops": {"documents": {"config": config}}}
            return dg.materialize(assets, instance=instance, run_config=asked, raise_on_error=False)

    def page(done):
        return done.asset_materializations_for_node("documents")[0]

    assert value_of(page(run()), "num_results_computed") == 0
    again = page(run(shards=["b.jsonl"]))
    assert (value_of(again, "num_results_computed"), value_of(again, "num_results_reused")) == (1, 1)
    assert "| b.jsonl | 3 | computed |" in value_of(again, "shards")
    assert not run(shards=["c.jsonl"]).success
