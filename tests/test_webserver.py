"""The Dagster UI's own way: the real webserver and daemon, driven over GraphQL, and looked at in a browser."""

import shutil
import subprocess
from pathlib import Path

import duckdb
import pytest

from tests.corpora import MODULES, tiny_experiment, write_experiment, write_shard
from tests.dagster_server import ASSETS, running_dagster

pytestmark = pytest.mark.long

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    write_shard(folder / "corpus" / "a.jsonl", MODULES)
    content = tiny_experiment(folder / "corpus", folder / "warehouse", owners=["d@e.org"])
    content["students"]["miniplm"]["owners"] = ["a@b.org"]
    experiment_file = write_experiment(folder / "experiment.yaml", content)
    with running_dagster(experiment_file, folder / "home") as server:
        run_id = server.launch()
        server.wait_for_success(run_id, seconds=600)
        yield folder, server


def test_the_graph_is_there_with_its_boxes_and_dependencies(served):
    nodes = {"/".join(node["assetKey"]["path"]): node for node in served[1].query(ASSETS)["assetNodes"]}
    assert {node["groupName"] for node in nodes.values()} == {
        "corpus",
        "tokenizer_bpe",
        "teacher_large",
        "reference_small",
        "selection_half",
        "student_no_kd",
        "student_miniplm",
        "reports",
    }
    # A box holds what the file calls by that name, and a node says what it is in the last part of its key.
    for key, node in nodes.items():
        *names, kind = key.split("/")
        assert {"key": "kind", "value": kind} in node["tags"]
        assert node["groupName"].endswith("_".join(["", *names]))
        assert [owner["email"] for owner in node["owners"]] == (["a@b.org"] if "miniplm" in names else ["d@e.org"])
    dependencies = {"/".join(key["path"]) for key in nodes["half/refined_corpus"]["dependencyKeys"]}
    assert dependencies == {"bpe/sequences", "documents", "half/difference_scores", "half/selection_cutoff"}
    assert all(node["description"] and node["kinds"] and node["opVersion"] for node in nodes.values())


def test_what_a_run_made_can_be_read_back(served):
    folder, server = served
    (refined,) = server.materialisations("half/refined_corpus")
    (cutoff,) = server.materialisations("half/selection_cutoff")
    rows = duckdb.sql(f"select count(*) from '{refined['folder']}/*.parquet'").fetchall()[0]
    assert refined["dagster/row_count"] == rows[0]
    assert refined["tags"]["dagster/data_version"] == Path(refined["folder"]).name
    assert {column["name"] for column in refined["columns"]["columns"]} >= {"sequence_id", "texts"}
    assert cutoff["num_results_computed"] == 1
    (comparison,) = server.materialisations("comparison")
    assert "no_kd" in comparison["verdict"]
    assert any("data:image/png;base64," in str(entry) for entry in comparison.values())
    with duckdb.connect(str(folder / "warehouse" / "warehouse.duckdb"), read_only=True) as warehouse:
        assert warehouse.sql("select count(*) from refined_corpus").fetchall() == [rows]
        assert warehouse.sql("select * from kept_and_dropped_texts").fetchall()


def test_a_second_run_finds_everything_stored(served):
    server = served[1]
    run_id = server.launch()
    server.wait_for_success(run_id, seconds=600)
    newest = server.materialisations("miniplm/student_checkpoint")[0]
    assert newest["run_id"] == run_id
    assert (newest["num_results_computed"], newest["num_results_reused"]) == (0, 1)
    assert newest["seconds_saved"] > 0


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_the_graph_can_be_looked_at_in_a_browser(served, tmp_path):
    picture = tmp_path / "graph.png"
    subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=1600,1200",
            "--virtual-time-budget=20000",
            f"--screenshot={picture}",
            f"{served[1].url}/asset-groups",
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    from matplotlib import image

    pixels = image.imread(picture)
    assert pixels.shape[:2] == (1200, 1600)
    # A page that failed to load has a colour or two; the graph has icons, text and edges.
    assert len({tuple(pixel) for pixel in pixels[::4, ::4].reshape(-1, pixels.shape[2]).tolist()}) > 50
