"""Dagster's history in a real PostgreSQL, set up as docs/instance.md says."""

import json
import re

import dagster as dg
import pytest
import yaml

from miniplm_assets.assets.gone_runs import note_process, report_gone_runs
from miniplm_assets.assets.run_tags import PROCESS_TAG
from miniplm_assets.kinds.registry import PROJECT
from tests.postgres_server import PROGRAMS, running_postgres

pytestmark = [
    pytest.mark.skipif(PROGRAMS is None, reason="PostgreSQL is not installed: apt-get install postgresql"),
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A DAGSTER_HOME whose settings are the project's own, with the storage of the documentation."""
    page = (PROJECT / "docs" / "instance.md").read_text(encoding="utf-8")
    [storage] = re.findall(r"```yaml\n(storage:\n.*?)```", page, re.DOTALL)
    home = tmp_path_factory.mktemp("home")
    with running_postgres() as port:
        settings = yaml.safe_load((PROJECT / "dagster.yaml").read_text()) | yaml.safe_load(storage)
        settings["storage"]["postgres"]["postgres_db"]["port"] = port
        (home / "dagster.yaml").write_text(yaml.safe_dump(settings))
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("POSTGRES_HOST", "127.0.0.1")
            environment.setenv("POSTGRES_PASSWORD", "none is asked for")
            yield home


@dg.asset
def number() -> dg.MaterializeResult:
    """A number."""
    return dg.MaterializeResult(metadata={"value": 7})


def test_what_ran_is_remembered_by_the_next_process(home):
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert "PostgresRunStorage" in type(instance.run_storage).__name__
        run_id = dg.materialize([number], instance=instance, tags={"miniplm/state": "one"}).run_id
    with dg.DagsterInstance.from_config(str(home)) as instance:
        [run] = instance.get_runs(dg.RunsFilter(tags={"miniplm/state": "one"}))
        assert (run.run_id, run.status) == (run_id, dg.DagsterRunStatus.SUCCESS)
        materialisation = instance.get_latest_materialization_event(dg.AssetKey("number")).asset_materialization
        assert materialisation.metadata["value"].value == 7
        assert [path.name for path in home.iterdir() if path.name in ("history", "schedules")] == []


def test_a_run_whose_process_is_gone_is_told_there_too(home):
    with dg.DagsterInstance.from_config(str(home)) as instance:
        job = dg.Definitions([number]).resolve_implicit_global_asset_job_def()
        run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
        note_process(instance, run.run_id)
        report_gone_runs(instance)
        assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.STARTED
        noted = json.loads(instance.get_run_by_id(run.run_id).tags[PROCESS_TAG])
        instance.add_run_tags(run.run_id, {PROCESS_TAG: json.dumps(noted | {"began": "another boot 7"})})
        report_gone_runs(instance)
        assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE
