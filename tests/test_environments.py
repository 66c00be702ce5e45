"""Odd environments: of a container, a service, another user. What holds there, and what says what to set."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from miniplm_assets.core.errors import StoreError
from miniplm_assets.kinds.registry import PROJECT
from miniplm_assets.storage.files import runtime_folder
from tests.corpora import tiny_experiment, write_experiment, write_shard

MATERIALISE = (str(Path(sys.executable).with_name("dagster")), "asset", "materialize", "--select", "*")
MATERIALISE += ("-m", "miniplm_assets.definitions")
SHARDS = ("übersicht №1.jsonl", "日本語.jsonl")
# As a service or a container has it: no HOME, PATH, TERM or user; a locale that knows ASCII alone; a time zone that is
# none.
BARE = {"LC_ALL": "POSIX", "TZ": ":/bad"}
# Python as it is where a locale of one byte a character is installed.
NO_UTF8 = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
# Rights bind root too, once it has laid down what lets it pass them.
AS_MORTAL = (shutil.which("setpriv"), "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()


def python(command):
    return (sys.executable, "-m", "miniplm_assets", command)


def run(folder, command, *, before=(), **variables):
    """Run a command in a folder, with the standard input closed and a umask of 077; return status and what was said."""
    environment = {"PYTHONPATH": str(PROJECT), "MINIPLM_EXPERIMENT": str(folder / "experiment.yaml")}
    shell = shutil.which("sh")
    done = subprocess.run(
        [*before, shell, "-c", 'umask 077; exec "$@" <&-', shell, *command],
        cwd=folder,
        env={**environment, "DAGSTER_HOME": str(folder / "home"), **BARE, **variables},
        capture_output=True,
        timeout=600,
    )
    said = (done.stdout + done.stderr).decode()
    assert "Traceback" not in said, said
    return done.returncode, said


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An experiment over files whose names and texts are not ASCII, materialised where little is set."""
    folder = tmp_path_factory.mktemp("environments")
    for shard in SHARDS:
        path = write_shard(folder / "corpus" / shard, ("bisect",))
        path.write_text(path.read_text(encoding="utf-8").replace('"code"', '"код"'), encoding="utf-8")
    content = tiny_experiment(folder / "corpus", folder / "warehouse", evaluation={"excluded_domains": ["код"]})
    for part in ("teachers", "references", "selections", "students"):
        del content[part]
    write_experiment(folder / "experiment.yaml", content)
    (folder / "home").mkdir()
    (folder / "home" / "dagster.yaml").write_text(
        "python_logs: {python_log_level: INFO}\ntelemetry: {enabled: false}\n"
    )
    status, said = run(folder, MATERIALISE)
    assert status == 0, said
    return folder


@pytest.fixture
def forbidden(made, tmp_path):
    """A copy of the warehouse, as the environment names it; what a test takes the rights to, is given back."""
    warehouse = shutil.copytree(made / "warehouse", tmp_path / "warehouse")
    yield warehouse
    subprocess.run(["chmod", "-R", "u+rwX", str(warehouse)], check=True)


def test_what_is_made_where_little_is_set_is_right(made):
    status, said = run(made, python("verify"))
    assert (status, said.splitlines()[-1]) == (0, "all is well")
    assert {path.name for path in (made / "warehouse" / "raw_corpus").glob("*/*.parquet")}
    modes = {path.stat().st_mode & 0o077 for path in (made / "warehouse").rglob("*")}
    assert modes == {0}, "umask 077 is kept"


def test_a_terminal_without_utf8_shows_what_it_can(made):
    (made / "corpus" / "новый.jsonl").write_bytes((made / "corpus" / SHARDS[0]).read_bytes())
    try:
        status, said = run(made, python("plan"), LC_ALL="C.UTF-8", PYTHONIOENCODING="ascii")
    finally:
        (made / "corpus" / "новый.jsonl").unlink()
    assert status == 0
    assert "new file ?????.jsonl" in said


def test_where_python_takes_names_for_ascii_it_is_said_what_to_set(made):
    for command in (python("plan"), MATERIALISE):
        _, said = run(made, command, **NO_UTF8)
        told = " ".join(said.split())  # a plan breaks its lines
        assert ".jsonl: Python takes the names of files for ascii here, and this one is not; set PYTHONUTF8=1" in told


def test_an_experiment_file_that_is_not_there_is_a_sentence_and_no_trace(made):
    status, said = run(made, MATERIALISE, MINIPLM_EXPERIMENT=str(made / "no.yaml"))
    assert status == 1
    assert said.endswith(
        f"Error: experiment file {made}/no.yaml does not exist; set MINIPLM_EXPERIMENT to one that does, "
        "for example experiments/demo.yaml\n"
    )


def test_a_warehouse_is_restored_elsewhere_without_the_history_and_nothing_is_computed(made, tmp_path):
    page = (PROJECT / "docs" / "operating.md").read_text(encoding="utf-8")
    for command in re.findall(r"^    ((?:tar|mkdir) .*)$", page, re.MULTILINE):
        here = command.replace("/srv/miniplm/warehouse", str(made / "warehouse"))
        here = here.replace("/srv/restored", str(tmp_path / "restored")).replace("/backup", str(tmp_path))
        subprocess.run(here.split(), check=True)
    restored = tmp_path / "restored"
    assert not (restored / ".work").exists() and not (restored / "warehouse.duckdb").exists()
    (tmp_path / "home").mkdir()
    shutil.copy(made / "home" / "dagster.yaml", tmp_path / "home")
    elsewhere = {"MINIPLM_WAREHOUSE": str(restored), "DAGSTER_HOME": str(tmp_path / "home")}
    assert run(made, python("verify"), **elsewhere)[0] == 0
    status, said = run(made, MATERIALISE, **elsewhere)
    assert status == 0, said
    # The views of the catalog name files by their place.
    assert re.findall(r"(\S+): making ", said) == ["warehouse_catalog"]
    assert run(made, python("verify"), **elsewhere)[0] == 0
    assert (restored / "warehouse.duckdb").exists()


def test_a_checkout_that_cannot_be_written_is_enough_with_a_home_for_dagster_elsewhere(made, tmp_path):
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    shutil.copy(made / "experiment.yaml", checkout)
    checkout.chmod(0o500)
    status, said = run(checkout, MATERIALISE, before=AS_MORTAL, DAGSTER_HOME=str(made / "home"))
    assert status == 0, said
    assert ": making" not in said and "warehouse_catalog: stored as" in said
    assert [path.name for path in checkout.iterdir()] == ["experiment.yaml"]


def test_a_warehouse_that_cannot_be_written_can_be_looked_at(made, forbidden):
    subprocess.run(["chmod", "-R", "a-w", str(forbidden)], check=True)
    status, said = run(made, MATERIALISE, before=AS_MORTAL, MINIPLM_WAREHOUSE=str(forbidden))
    assert status == 1
    assert f"\n{forbidden} cannot be read or written by user {os.geteuid()} (Permission denied). Give this user" in said
    status, said = run(made, python("plan"), before=AS_MORTAL, MINIPLM_WAREHOUSE=str(forbidden))
    assert status == 0 and " assets are stored" in said


@pytest.mark.parametrize(("command", "expected"), [("plan", 2), ("verify", 1), ("outcome", 2)])
def test_a_warehouse_that_cannot_be_read_is_not_taken_for_an_empty_one(made, forbidden, command, expected):
    subprocess.run(["chmod", "-R", "a-r", str(forbidden)], check=True)
    status, said = run(made, python(command), before=AS_MORTAL, MINIPLM_WAREHOUSE=str(forbidden))
    assert status == expected
    assert f"{forbidden}/raw_corpus/" in said and f"cannot be read or written by user {os.geteuid()}" in said
    assert "not been materialised" not in said


def test_a_user_without_a_home_is_told_what_to_set(tmp_path, monkeypatch):
    for variable in ("HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54_321)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match="only user 54321 can write; set XDG_RUNTIME_DIR"):
        runtime_folder()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_the_units_of_the_page_are_right(tmp_path):
    page = (PROJECT / "docs" / "operating.md").read_text(encoding="utf-8")
    units = dict(re.findall(r"^`(miniplm-\w+\.service)`:\n\n```ini\n(.*?)```", page, re.MULTILINE | re.DOTALL))
    assert sorted(units) == ["miniplm-daemon.service", "miniplm-webserver.service"]
    for name, text in units.items():
        # Its commands have to be there; nobody says that a folder or user is missing.
        (tmp_path / name).write_text(text.replace("/srv/miniplm/.venv", sys.prefix), encoding="utf-8")
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in units)],
        capture_output=True,
        text=True,
    )
    about_ours = [line for line in checked.stderr.splitlines() if "miniplm" in line]
    assert (checked.returncode, about_ours) == (0, []), checked.stderr
