"""The component, in the example project, with `dg`, as somebody does who has just installed the package."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml

from miniplm_assets import MiniPLM
from miniplm_assets.core.errors import ExperimentError
from miniplm_assets.kinds.registry import PROJECT, open_pipeline
from miniplm_assets.lineage.plan import plan
from tests.corpora import tiny_experiment, write_experiment, write_shard
from tests.pages import value_of

pytestmark = pytest.mark.long
DEFS = Path("language_models") / "defs"


class Project:
    """A copy of the example in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "project"
        shutil.copytree(PROJECT / "examples" / "dg_project", self.root)
        (folder / "home").mkdir()
        (folder / "home" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        # Nothing else is known there: neither the clone, nor its experiment.
        self._environment = {
            "DAGSTER_HOME": str(folder / "home"),
            "HOME": str(folder),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}",
            **{name: value for name, value in os.environ.items() if name in ("PYTHONPATH", "OMP_NUM_THREADS")},
        }

    def dg(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(Path(sys.executable).parent / "dg"), *arguments],
            cwd=self.root,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def do(self, *arguments: str) -> str:
        done = self.dg(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("component"))


def test_dg_lists_checks_and_scaffolds_it(project: Project) -> None:
    assert "miniplm_assets.MiniPLM" in project.do("list", "components")
    project.do("scaffold", "defs", "miniplm_assets.MiniPLM", "another")
    project.do(
        *("scaffold", "defs", "miniplm_assets.MiniPLM", "fourth"),
        *("--experiment", "../keep_half/experiment.yaml", "--key-prefix", "lm/fourth"),
    )
    written = yaml.safe_load((project.root / DEFS / "fourth" / "defs.yaml").read_text())
    assert written == {
        "type": "miniplm_assets.MiniPLM",
        "attributes": {"experiment": "../keep_half/experiment.yaml", "key_prefix": "lm/fourth"},
    }
    assert not (project.root / DEFS / "fourth" / "experiment.yaml").exists()
    assert "validated successfully" in project.do("check", "yaml")
    listed = json.loads(project.do("list", "defs", "--json"))
    [of_it] = [one for one in listed["assets"] if one["asset_key"] == "another/half/refined_corpus"]
    assert of_it["group_name"] == "another_selection_half"
    assert {key.partition("/")[0] for key in of_it["dependency_keys"]} == {"another"}
    assert {"another_miniplm", "keep_half_miniplm", "keep_random_miniplm", "lm_fourth_miniplm"} <= {
        one["name"] for one in listed["jobs"]
    }
    assert {one["name"] for one in listed["sensors"]} >= {"another_corpus_changed", "lm_fourth_corpus_changed"}
    assert {one["name"] for one in listed["schedules"]} >= {"another_nightly", "lm_fourth_nightly"}


def test_one_experiment_computes_and_the_other_finds(project: Project) -> None:
    """What they have in common lies in one warehouse, though Dagster knows it by two keys."""
    project.do("launch", "--assets", '+key:"keep_half/bpe/sequences" or +key:"keep_random/bpe/sequences"')
    with dg.DagsterInstance.from_config(str(project.root.parent / "home")) as instance:

        def computed(*key: str) -> int:
            event = instance.get_latest_materialization_event(dg.AssetKey([*key]))
            assert event is not None and event.asset_materialization is not None, key
            number = value_of(event.asset_materialization, "num_results_computed")
            assert isinstance(number, int)
            return number

        for shared in (["documents"], ["bpe", "tokenizer"], ["bpe", "sequences"]):
            found, made = sorted([computed("keep_half", *shared), computed("keep_random", *shared)])
            assert found == 0 < made, shared
        assert instance.get_latest_materialization_event(dg.AssetKey(["documents"])) is None
    # Without Dagster the prefix means nothing: the file alone says what is stored.
    planned = {one.key: one for one in plan(open_pipeline(project.root / DEFS / "keep_half" / "experiment.yaml"))}
    assert planned["bpe/sequences"].is_complete and not planned["half/refined_corpus"].is_complete


def test_what_is_wrong_is_told_with_its_place(project: Project) -> None:
    folder = project.root / DEFS / "wrong"
    folder.mkdir()
    try:
        (folder / "defs.yaml").write_text(
            "type: miniplm_assets.MiniPLM\nattributes: {experiments: ../keep_half/experiment.yaml}\n"
        )
        refused = project.dg("check", "yaml", str(folder))
        assert refused.returncode == 1 and "'experiments' was unexpected" in refused.stdout + refused.stderr
        (folder / "defs.yaml").write_text(
            "type: miniplm_assets.MiniPLM\nattributes:\n  key_prefix: w\n  experiment: {warehouse: w, corpora: {}}\n"
        )
        refused = project.dg("check", "defs")
        told = " ".join((refused.stdout + refused.stderr).split())
        assert refused.returncode == 1 and "line 4: corpora: unknown key; did you mean 'corpus'?" in told
    finally:
        shutil.rmtree(folder)


def test_two_without_a_prefix_are_refused_by_dagster(tmp_path: Path) -> None:
    write_shard(tmp_path / "corpus" / "a.jsonl", ("textwrap",))
    content = tiny_experiment(tmp_path / "corpus", tmp_path / "warehouse")
    write_experiment(tmp_path / "e.yaml", content)
    context = dg.ComponentTree.for_test().load_context

    def of(**attributes: object) -> dg.Definitions:
        path = str(tmp_path / "e.yaml")
        return MiniPLM.from_attributes_dict(attributes={"experiment": path, **attributes}).build_defs(context)

    with pytest.raises(dg.DagsterInvalidDefinitionError, match="Duplicate asset key"):
        dg.Definitions.validate_loadable(dg.Definitions.merge(of(), of()))
    three = (of(key_prefix="a"), of(key_prefix="b", sets_executor=True), of())
    dg.Definitions.validate_loadable(dg.Definitions.merge(*three))
    own = dg.Definitions(executor=dg.multiprocess_executor)
    dg.Definitions.validate_loadable(dg.Definitions.merge(own, of(key_prefix="a")))
    with pytest.raises(dg.DagsterInvariantViolationError, match="executor"):
        dg.Definitions.merge(own, of(key_prefix="a", sets_executor=True))
    with pytest.raises(ExperimentError, match="letters, digits and underscores"):
        of(key_prefix="a b")
    with pytest.raises(ExperimentError, match=r"attributes\.experiment: .*nowhere\.yaml does not exist"):
        of(experiment="nowhere.yaml")


def test_a_defs_file_is_an_experiment_file_too(tmp_path: Path) -> None:
    defs = PROJECT / "examples" / "dg_project" / DEFS
    named, held = open_pipeline(defs / "keep_half" / "defs.yaml"), open_pipeline(defs / "keep_random" / "defs.yaml")
    assert list(named.graph) == list(open_pipeline(defs / "keep_half" / "experiment.yaml").graph)
    assert "chance/refined_corpus" in held.graph
    assert held.graph["documents"].settings == named.graph["documents"].settings
    itself = tmp_path / "defs.yaml"
    itself.write_text("type: miniplm_assets.MiniPLM\nattributes: {experiment: defs.yaml}\n")
    with pytest.raises(ExperimentError, match="line 1: type: unknown key"):
        open_pipeline(itself)
    assert held.store.root == named.store.root == PROJECT / "examples" / "dg_project" / "warehouse"


def test_the_scaffolded_experiment_is_that_of_the_example() -> None:
    example = PROJECT / "examples" / "dg_project" / DEFS / "keep_half" / "experiment.yaml"
    assert example.read_bytes() == (PROJECT / "miniplm_assets" / "scaffolded_experiment.yaml").read_bytes()
