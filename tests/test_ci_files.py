"""The files of docs/ci that users copy: right by their schemas, and their own commands run, job after job."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml

from miniplm_assets.kinds.registry import PROJECT, open_pipeline
from miniplm_assets.lineage.outcome import outcome
from tests.corpora import tiny_experiment, write_experiment, write_shard
from tests.pages import value_of

pytestmark = pytest.mark.long

FILES = {"vendor.github-workflows": "github-actions.yml", "vendor.gitlab-ci": "gitlab-ci.yml"}
# What a clone has that the commands read.
CLONED = ("Makefile", "constraints.txt", "dagster.yaml", "dbt_like_sql", "docs/ci", "hashes.txt", "miniplm_assets")
CLONED += ("pyproject.toml",)


def content(name):
    return yaml.safe_load((PROJECT / "docs" / "ci" / name).read_text(encoding="utf-8"))


def job(name):
    """Return the commands of a file in their order, and the environment that it gives them."""
    if name == "gitlab-ci.yml":
        materialise = content(name)["materialise"]
        return materialise["script"], materialise["variables"]
    materialise = content(name)["jobs"]["materialise"]
    runs = [step["run"] for step in materialise["steps"] if "run" in step]
    return [line for run in runs for line in run.splitlines()], materialise["env"]


def lint(schema, path):
    transform = ("--data-transform", "gitlab-ci") if schema == "vendor.gitlab-ci" else ()
    return subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *transform, str(path)],
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(("schema", "name"), FILES.items())
def test_a_file_is_right_by_its_schema(schema, name, tmp_path):
    path = PROJECT / "docs" / "ci" / name
    checked = lint(schema, path)
    assert checked.returncode == 0, checked.stdout
    broken = tmp_path / name
    broken.write_text(path.read_text(encoding="utf-8").replace("materialise:\n", "materialise:\n    tiemout: 1\n", 1))
    assert lint(schema, broken).returncode == 1, "the schema refuses what is no key"


def test_both_files_run_the_same_commands_on_the_warehouse_that_they_cache():
    (github, its_environment), (gitlab, other_environment) = job("github-actions.yml"), job("gitlab-ci.yml")
    assert [line for line in github if "GITHUB_STEP_SUMMARY" not in line] == gitlab
    warehouse = its_environment["MINIPLM_WAREHOUSE"]
    assert warehouse == other_environment["MINIPLM_WAREHOUSE"]
    steps = content("github-actions.yml")["jobs"]["materialise"]["steps"]
    restore, save = (step["with"] for step in steps if step.get("uses", "").startswith("actions/cache/"))
    assert restore["path"] == save["path"] == warehouse
    assert restore["key"] == save["key"] and restore["key"].startswith(restore["restore-keys"])
    assert f"{warehouse}/" in content("gitlab-ci.yml")["materialise"]["cache"][1]["paths"]
    for environment in (its_environment, other_environment):
        assert (PROJECT / environment["MINIPLM_EXPERIMENT"]).is_file()


def test_the_environment_is_made_of_the_pins():
    install = job("gitlab-ci.yml")[0][0]
    dry = [*install.split(), "--dry-run", "--always-make", "VENV=.venv"]
    says = subprocess.run(dry, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    assert "--require-hashes --no-deps --requirement hashes.txt" in says
    assert "--constraint constraints.txt" in says


class Runner:
    """A machine of CI: a fresh clone for each job, and of the jobs before nothing but the warehouse."""

    def __init__(self, folder):
        self.clone, self.cache = folder / "clone", folder / "cache"
        self.commands, variables = job("github-actions.yml")
        self.environment = os.environ | {
            **variables,
            "MINIPLM_EXPERIMENT": "experiment.yaml",
            "DAGSTER_HOME": str(self.clone),
            "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
            "PYTHONPATH": str(self.clone),  # the environment has another clone installed
        }

    def begin(self, **changes):
        """Lay a clone, with a corpus and an experiment in it, and the warehouse of the job before."""
        shutil.rmtree(self.clone, ignore_errors=True)
        for name in CLONED:
            source, target = PROJECT / name, self.clone / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        (self.clone / ".venv").symlink_to(sys.prefix)
        write_shard(self.clone / "corpus" / "a.jsonl", ("bisect", "heapq"))
        experiment = tiny_experiment(Path("corpus"), Path("never-written"), **changes)
        write_experiment(self.clone / "experiment.yaml", experiment)
        if self.cache.exists():
            shutil.copytree(self.cache, self.clone / self.environment["MINIPLM_WAREHOUSE"])

    def run(self, words):
        """Run the one command that has these words in it, as a step of the job."""
        (command,) = (line for line in self.commands if words in line)
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", command],  # as GitHub calls it
            cwd=self.clone,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )

    def end(self):
        """Keep the warehouse for the next job."""
        shutil.rmtree(self.cache, ignore_errors=True)
        shutil.copytree(self.clone / self.environment["MINIPLM_WAREHOUSE"], self.cache)

    def num_computed(self):
        """Return how many results the last run computed, by asset."""
        with dg.DagsterInstance.from_config(str(self.clone)) as instance:
            (last,) = instance.get_runs()
            records = instance.get_records_for_run(last.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
        found = [record.event_log_entry.asset_materialization for record in records.records]
        return {one.asset_key.to_user_string(): value_of(one, "num_results_computed") for one in found}


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    return Runner(tmp_path_factory.mktemp("ci"))


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_job_computes_everything_and_the_next_one_nothing(runner, monkeypatch):
    for is_first in (True, False):
        runner.begin()
        monkeypatch.chdir(runner.clone)  # the paths in dagster.yaml are relative
        for command in runner.commands[1:]:
            done = runner.run(command)
            assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        computed = runner.num_computed()
        pipeline = open_pipeline(runner.clone / "experiment.yaml", warehouse="warehouse")
        assert computed.keys() == pipeline.graph.keys()
        assert all(computed.values()) if is_first else not any(computed.values()), computed
        told = (runner.clone / "outcome.txt").read_text(encoding="utf-8")
        assert told.startswith(f"{outcome(pipeline, columns=80)}\n") and told in (
            Path(runner.environment["GITHUB_STEP_SUMMARY"]).read_text()
        )
        assert [*runner.clone.glob("warehouse/comparison/*/*.png")], "the plots that are uploaded"
        assert not (runner.clone / "never-written").exists()
        runner.end()


def test_a_check_that_only_warns_fails_the_job_by_its_last_command(runner):
    runner.begin()
    (runner.clone / "corpus" / "b.csv").write_text("{}\n")
    assert runner.run("asset materialize").returncode == 0
    failed = runner.run("failed_checks.py")
    assert failed.returncode == 1
    assert re.search(r"^WARNING raw_corpus, nothing_is_left_out: .*b\.csv", failed.stdout)
    assert failed.stdout.count("\n") == 1, failed.stdout


def test_a_check_that_blocks_fails_the_run_itself(runner):
    runner.begin(evaluation={"excluded_domains": ["nosie"]})
    done = runner.run("asset materialize")
    assert done.returncode == 1
    failed = runner.run("failed_checks.py")
    assert failed.returncode == 1
    assert re.search(r"^FAILED documents, excluded_domains_are_found: .*nosie", failed.stdout)


def test_a_step_that_fails_fails_the_run(runner, monkeypatch):
    runner.begin()
    shutil.rmtree(runner.clone / "corpus")
    done = runner.run("asset materialize")
    assert done.returncode == 1 and "corpus.source.path" in done.stderr
    # Before there is a run, nothing is said to have passed.
    (runner.clone / "home").mkdir()
    shutil.copy(runner.clone / "dagster.yaml", runner.clone / "home")
    monkeypatch.setitem(runner.environment, "DAGSTER_HOME", str(runner.clone / "home"))
    shutil.rmtree(
        runner.clone / ".dagster", ignore_errors=True
    )  # where it would be for a relative path in dagster.yaml
    assert runner.run("failed_checks.py").returncode == 2
