"""The files of docs/deploy: right by their schemas and linters, of one mind, and their services run as processes."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from miniplm_assets.kinds.registry import PROJECT
from tests.corpora import MODULES, tiny_experiment, write_experiment, write_shard
from tests.dagster_server import running_dagster
from tests.ports import free_port
from tests.postgres_server import PROGRAMS, running_postgres

DEPLOY = PROJECT / "docs" / "deploy"
SERVICES = ("webserver", "daemon", "code")


def compose():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))


def manifests():
    found = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")))
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


def pods():
    """The specification of each pod by its name."""
    return {
        name.removeprefix("miniplm-"): one["spec"]["template"]
        for (kind, name), one in manifests().items()
        if kind in ("Deployment", "StatefulSet")
    }


def tool(*words):
    program = Path(sys.executable).with_name(words[0])
    return subprocess.run([str(program), *words[1:]], capture_output=True, text=True, cwd=DEPLOY)


@pytest.mark.parametrize(
    ("words", "name", "fault"),
    [
        (("hadolint",), "Dockerfile", ("USER 10001", "USER root")),
        (("kubernetes-validate", "--strict"), "kubernetes.yaml", ("replicas: 1", "replicsa: 1")),
        (
            ("check-jsonschema", "--builtin-schema", "vendor.compose-spec"),
            "compose.yaml",
            ("restart: unless", "retsart: unless"),
        ),
    ],
)
def test_a_file_is_right_by_its_linter(words, name, fault, tmp_path):
    checked = tool(*words, name)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    text = (DEPLOY / name).read_text(encoding="utf-8")
    assert fault[0] in text
    (tmp_path / name).write_text(text.replace(*fault))
    assert tool(*words, str(tmp_path / name)).returncode != 0


def test_the_history_of_the_image_is_that_of_the_project_in_postgresql():
    page = (PROJECT / "docs" / "instance.md").read_text(encoding="utf-8")
    [storage] = re.findall(r"```yaml\n(storage:\n.*?)```", page, re.DOTALL)
    project = yaml.safe_load((PROJECT / "dagster.yaml").read_text(encoding="utf-8"))
    assert yaml.safe_load((DEPLOY / "dagster.yaml").read_text(encoding="utf-8")) == project | yaml.safe_load(storage)


def test_kubernetes_runs_the_commands_of_compose():
    services, found = compose()["services"], pods()
    assert found.keys() == {"postgres", *SERVICES}
    for name in SERVICES:
        [container] = found[name]["spec"]["containers"]
        assert container["command"] == services[name]["command"]
    [migrate] = [one for one in found["code"]["spec"]["initContainers"] if one["name"] == "migrate"]
    assert migrate["command"] == services["migrate"]["command"]
    assert found["postgres"]["spec"]["containers"][0]["image"] == services["postgres"]["image"]
    told = manifests()["ConfigMap", "miniplm"]["data"].keys() | {"POSTGRES_PASSWORD"}
    assert told == services["code"]["environment"].keys()


def test_what_is_named_is_there():
    every = manifests()
    for (kind, name), one in every.items():
        if kind == "Service":
            assert one["spec"]["selector"] == pods()[name.removeprefix("miniplm-")]["metadata"]["labels"]
    assert ("Service", every["ConfigMap", "miniplm"]["data"]["CODE_HOST"]) in every
    assert ("Service", every["ConfigMap", "miniplm"]["data"]["POSTGRES_HOST"]) in every
    copied = [
        word
        for line in (DEPLOY / "Dockerfile").read_text(encoding="utf-8").splitlines()
        if line.startswith("COPY")
        for word in shlex.split(line)[2:-1]
    ]
    assert "hashes.txt" in copied and [word for word in copied if not (PROJECT / word).exists()] == []
    # What the image's settings ask the environment for, the services are given.
    asked = {"POSTGRES_HOST", "POSTGRES_PASSWORD", "CODE_HOST"}
    for name in ("dagster.yaml", "workspace.yaml"):
        assert set(re.findall(r"env: (\w+)", (DEPLOY / name).read_text(encoding="utf-8"))) <= asked
    for name in SERVICES:
        assert asked <= compose()["services"][name]["environment"].keys()


@pytest.mark.long
@pytest.mark.skipif(PROGRAMS is None, reason="PostgreSQL is not installed: apt-get install postgresql")
def test_its_services_run_and_what_one_code_location_began_the_next_finishes(tmp_path, monkeypatch):
    """Each service is a process, by the command of compose.yaml; on this machine, with other ports."""
    write_shard(tmp_path / "corpus" / "a.jsonl", MODULES)
    content = tiny_experiment(tmp_path / "corpus", tmp_path / "warehouse", students={})
    experiment_file = write_experiment(tmp_path / "experiment.yaml", content)
    with running_postgres() as postgres_port:
        code_port = str(free_port())
        home = tmp_path / "home"
        home.mkdir()
        settings = yaml.safe_load((DEPLOY / "dagster.yaml").read_text(encoding="utf-8"))
        settings["storage"]["postgres"]["postgres_db"]["port"] = postgres_port
        (home / "dagster.yaml").write_text(yaml.safe_dump(settings))
        workspace = (DEPLOY / "workspace.yaml").read_text(encoding="utf-8")
        (home / "workspace.yaml").write_text(workspace.replace("4000", code_port))
        for name, value in (("POSTGRES_HOST", "127.0.0.1"), ("POSTGRES_PASSWORD", "-"), ("CODE_HOST", "127.0.0.1")):
            monkeypatch.setenv(name, value)
        here = {
            "0.0.0.0": "127.0.0.1",
            "3000": "PORT",
            "4000": code_port,
            "/srv/dagster/workspace.yaml": str(home / "workspace.yaml"),
        }
        programs = Path(sys.executable).parent

        def as_process(name):
            program, *words = compose()["services"][name]["command"]
            return [str(programs / program), *(here.get(word, word) for word in words)]

        with running_dagster(experiment_file, home, *map(as_process, SERVICES)) as server:
            first = server.launch()
            server.wait_until(lambda: server.materialisations("bpe/sequences") != [], seconds=180)
            assert server.status(first) == "STARTED"
            server.restarts[SERVICES.index("code")](with_children=True)  # with the run, as a container ends
            server.wait_until(lambda: _loads(server), seconds=180)
            second = server.launch()
            server.wait_for_success(second, seconds=400)
            assert server.status(first) == "FAILURE"
            [newest, *_] = [one for one in server.materialisations("bpe/sequences") if one["run_id"] == second]
            assert newest["num_results_computed"] == 0
            assert [one for one in server.materialisations("half/refined_corpus") if one["run_id"] == second]


def _loads(server):
    try:
        server.launch("raw_corpus")
    except AssertionError:  # the code location is not there yet
        return False
    return True
