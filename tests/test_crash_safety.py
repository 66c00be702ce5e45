"""A run that is killed wherever something is published ends, started again, with the same results."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from tests.corpora import tiny_experiment, write_experiment, write_shard

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1]


def contents(warehouse):
    """Return a digest of every published file by its address.

    Left out is what says when, how long or where: the catalog names its files by their place in the warehouse, and the
    report says when each result was made.
    """
    found = {}
    for manifest_file in sorted(warehouse.glob("**/manifest.json")):
        folder = manifest_file.parent
        manifest = json.loads(manifest_file.read_text())
        if manifest["kind"] in ("warehouse_catalog", "report") or ".work" in manifest_file.parts:
            continue
        for file in manifest["files"]:
            path = folder / file["name"]
            address = f"{manifest['key']}/{manifest['fingerprint']}/{file['name']}"
            if path.name == "training_log.parquet":
                found[address] = pl.read_parquet(path).drop("seconds").to_dicts()
            else:
                found[address] = hashlib.sha256(path.read_bytes()).hexdigest()
        found[f"{manifest['key']}/{manifest['fingerprint']} facts"] = {
            name: value
            for name, value in manifest["facts"].items()
            if name not in ("training_seconds", "resumed_from_step", "device_seconds")
        }
    return found


def run(script, experiment_file):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", script, str(experiment_file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=1_800,
    )
    assert done.returncode == 0, done.stderr[-4_000:]
    return done.stdout


@pytest.fixture(scope="module")
def experiments(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crash")
    write_shard(folder / "corpus" / "a.jsonl")
    files = []
    for name in ("uninterrupted", "killed"):
        content = tiny_experiment(folder / "corpus", folder / name)
        for scored in (content["teachers"]["large"], content["references"]["small"]):
            scored["model"]["training"] |= {"checkpoint_minutes": 0.0001, "token_budget": 2_000}
            scored["scoring"]["sequences_per_part"] = 200
        # One token each.
        content["generations"] = {"continued": {"teacher": "large", "prompt_tokens": 64, "device": "cpu"}}
        files.append(write_experiment(folder / f"{name}.yaml", content))
    return folder, *files


def test_a_run_killed_at_every_publication_point_ends_with_the_same_bytes(experiments):
    folder, uninterrupted, killed = experiments
    places = [tuple(place) for place in json.loads(run("tests.kill_everywhere", killed).splitlines()[-1])]
    assert len(places) >= 40
    # Every kind of asset was killed before and after its manifest and its renaming; parts and checkpoints too.
    kinds = {place[0] for place in places}
    assert kinds == {
        "raw_corpus",
        "documents",
        "tokenizer",
        "sequences",
        "model",
        "scores",
        "selection",
        "selection_diversity",
        "generated_corpus",
        "student_checkpoint",
        "student_evaluation",
        "student_differences",
        "comparison",
        "ledger",
        "break_even",
        "scaling_laws",
        "report",
        "warehouse_catalog",
        "any",
    }
    for kind in kinds - {"any"}:
        for when in ("before", "after"):
            assert (kind, "replace", "manifest", when) in places
            assert (kind, "rename", "draft" if when == "before" else "result", when) in places
    assert {place[2] for place in places} >= {"draft", "manifest", "part-", "checkpoint", "parquet", ".latest"}

    run("tests.run_once", uninterrupted)
    assert contents(folder / "killed") == contents(folder / "uninterrupted")
    # Nothing half is left behind.
    assert list((folder / "killed" / ".work").iterdir()) == []


def test_two_runs_at_once_on_one_warehouse_compute_once_and_agree(experiments):
    folder, uninterrupted, _ = experiments
    content = uninterrupted.read_text().replace(str(folder / "uninterrupted"), str(folder / "shared"))
    shared = folder / "shared.yaml"
    shared.write_text(content)
    runs = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.run_once", str(shared)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [one.communicate(timeout=600) for one in runs]
    assert [one.returncode for one in runs] == [0, 0], [errors[-2_000:] for _, errors in outputs]
    computed = [json.loads(output.splitlines()[-1]) for output, _ in outputs]
    # The corpus is one file, so that each asset is computed once, by whichever came first.
    assert {key: computed[0][key] + computed[1][key] for key in computed[0]} == dict.fromkeys(computed[0], 1)
    assert contents(folder / "shared") == contents(folder / "uninterrupted")
