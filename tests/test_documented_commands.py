"""Every command of README and docs: its words are taken by the program that it names, and what can be run is run.

Those of this project run on a tiny experiment, in the order of the pages. Of others the arguments are parsed by the
real parser. What cannot be tried here stands in `ELSEWHERE`, with the reason; a program that stands nowhere fails.
"""

import argparse
import ast
import importlib
import importlib.util
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import dagster as dg
import duckdb
import pytest

from miniplm_assets.assets.build import build_assets
from miniplm_assets.cli import main
from miniplm_assets.kinds.registry import EXPERIMENT_VARIABLE, PROJECT, WAREHOUSE_VARIABLE, all_kinds, open_pipeline
from miniplm_assets.storage.sql_project import load_sql_project
from tests.corpora import MODULES, tiny_experiment, write_experiment, write_shard
from tests.documented import PAGES, all_blocks, blocks, commands, commands_in_prose

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning"),
]

ELSEWHERE = {
    "cd": "of the shell",
    "docker": "tests/test_deploy.py reads its files, and runs their commands",
    "dot": "Graphviz, which draws",
    "duckdb": "its own terminal; what is typed there is run below",
    "export": "of the shell",
    "git": "needs the repository's address",
    "grep": "of the system",
    "journalctl": "needs systemd",
    "mkdir": "of the system",
    "systemctl": "needs systemd, and root",
    "tar": "of the system; tests/test_catalog.py moves a warehouse",
    "tensorboard": "is not installed with this project; tests/test_curves.py reads what it shows",
}
# Commands of this project whose words are parsed alone.
PARSED_ALONE = {
    "forget": "sets aside what the other commands read",
    "--push": "sends to the hub; tests/test_push.py does, to a stand-in",
    "--open": "opens a browser",
}
# Where a page leaves a word to the reader.
FILLED_IN = {
    "...": "",
    "SELECTION": "half",
    "KEY": "half/refined_corpus",
    "FOLDER": "folder",
    "experiments/demo.yaml": "experiment.yaml",
    "FILE": "a.jsonl",
    "N": "3",
    "student/<name>": "student/miniplm",
    "<name>": "miniplm",
}
CLICK = {
    "dg": "dagster_dg_cli.cli:cli",
    "dagster": "dagster._cli:cli",
    "dagster-daemon": "dagster._daemon.cli:cli",
    "dagster-webserver": "dagster_webserver.cli:dagster_webserver",
}


def simple_commands(line: str) -> Iterator[list[str]]:
    """Yield the words of each command of a line, without the variables that are set for it."""
    told = re.split(r"\s{3,}(?=\w+[ ,:])", line.strip())[0]  # what it does stands behind some blanks, or a #
    words: list[str] = []
    for word in [*shlex.split(told, comments=True), "&&"]:
        if word not in ("&&", "|", ";", ">"):
            words.append(word)
            continue
        while words and re.match(r"\w+=", words[0]):
            words.pop(0)
        if words:
            words[0] = words[0].rpartition("/")[2] if ".venv/bin/" in words[0] else words[0]
            yield words
        words = []
        if word == ">":
            return


ALL = [(place, words) for place, line in commands() for words in simple_commands(line)]
# Those within a sentence are parsed alone: it says of them what it leaves to the reader.
IN_PROSE = [(place, words[3:]) for place, line in commands_in_prose() for words in simple_commands(line)]
OURS = [(place, words[3:]) for place, words in ALL if words[:3] == ["python", "-m", "miniplm_assets"]]
OTHERS = [(place, words) for place, words in ALL if words[:3] != ["python", "-m", "miniplm_assets"]]


def named(cases: list[tuple[str, list[str]]]) -> list[Any]:
    return [pytest.param(words, id=f"{place} {' '.join(words)[:60]}") for place, words in cases]


class ParsedError(Exception):
    """The words were taken; nothing has been done."""


@pytest.fixture
def only_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every parser of argparse end with `ParsedError` where it takes what it is given."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: Any, *arguments: Any, **keywords: Any) -> None:
        parse(self, *arguments, **keywords)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)


def click_takes(command: click.Command, arguments: list[str]) -> None:
    """Make sure that a command of click takes these words; nothing is run."""
    context = command.make_context(command.name, list(arguments))
    if isinstance(command, click.Group):
        _, inner, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert inner is not None
        click_takes(inner, rest)


def python_takes(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make sure that a script or a module is there, and takes these words."""
    is_module = arguments[0] == "-m"
    name, given = (arguments[1], arguments[2:]) if is_module else (arguments[0], arguments[1:])
    if name == "pytest":
        assert all((PROJECT / word).exists() for word in given)
        return
    path = PROJECT / (f"{name.replace('.', '/')}.py" if is_module else name)
    source = path.read_text(encoding="utf-8")
    if "argparse" not in source:  # its words are places, and names
        assert not any(word.startswith("-") for word in given), name
        if name == "tests.fuzz":
            assert given[0] in importlib.import_module(name).doors()
        return
    monkeypatch.setattr(sys, "argv", [name, *given])
    monkeypatch.setattr(sys, "path", [str(path.parent), *sys.path])
    with pytest.raises(ParsedError):
        runpy.run_path(str(path), run_name="__main__")


def make_takes(arguments: list[str]) -> None:
    """Make sure that make knows the target; it says what it would do."""
    dry = ["make", "--dry-run", *arguments]
    said = subprocess.run(dry, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr


def pip_finds(arguments: list[str]) -> None:
    """Make sure that what pip is to install is there: the files, and the extras."""
    extras = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for word in arguments:
        if found := re.search(r"\[(.*)\]$", word):
            assert set(found[1].split(",")) <= extras.keys(), word
        if word.endswith(".txt"):
            assert (PROJECT / word).is_file(), word


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of click, about itself
@pytest.mark.parametrize("words", named(OTHERS))
def test_a_command_of_others_takes_its_words(
    words: list[str], only_parse: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, *arguments = words
    if words[:3] == ["dg", "scaffold", "defs"]:
        return  # what follows is a component of the project that it stands in, which dg looks for
    if program in CLICK:
        module, _, name = CLICK[program].partition(":")
        click_takes(getattr(importlib.import_module(module), name), arguments)
    elif program == "python":
        python_takes(arguments, monkeypatch)
    elif program == "make":
        make_takes(arguments)
    elif program == "pip":
        pip_finds(arguments)
    elif program == "cp":
        assert (PROJECT / arguments[0]).is_file()
    else:
        assert program in ELSEWHERE, "try it here, or give the reason why it cannot be tried"


def filled_in(words: list[str]) -> list[str]:
    """Return the words as somebody would type them, with those that may be left out."""
    typed = [word.removeprefix("[").removesuffix("]") for word in words]
    return [filled for word in typed if (filled := FILLED_IN.get(word, word))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny experiment by every name that the pages give one, materialised."""
    folder = tmp_path_factory.mktemp("documented")
    write_shard(folder / "corpus" / "a.jsonl", MODULES[:6])
    experiment = write_experiment(folder / "experiment.yaml", tiny_experiment(folder / "corpus", folder / "warehouse"))
    for other in ("my.yaml", "one.yaml", "another.yaml"):
        shutil.copy(experiment, folder / other)
    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize(build_assets(open_pipeline(experiment)), instance=instance)
    return folder


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    monkeypatch.setenv(EXPERIMENT_VARIABLE, "experiment.yaml")
    monkeypatch.delenv(WAREHOUSE_VARIABLE, raising=False)
    for target in ("my-student", "my-corpus", "folder"):
        shutil.rmtree(folder / target, ignore_errors=True)
    return folder


@pytest.mark.parametrize("words", named([one for one in OURS if not PARSED_ALONE.keys() & filled_in(one[1])]))
def test_a_command_of_this_project_runs(words: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(filled_in(words)) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("words", named([*(one for one in OURS if PARSED_ALONE.keys() & filled_in(one[1])), *IN_PROSE]))
def test_a_command_of_this_project_takes_its_words(words: list[str], only_parse: None) -> None:
    if len(words) == 1:  # named, not quoted
        with pytest.raises(SystemExit, match="0"):
            main([*words, "--help"])
        return
    with pytest.raises(ParsedError):
        main(filled_in(words))


def test_every_command_has_been_found() -> None:
    """Where the pages are read wrongly, all of the above pass."""
    subcommands = {words[0] for _, words in OURS}
    assert {"plan", "verify", "report", "prune", "export", "what-if"} <= subcommands
    programs = {words[0] for _, words in OTHERS}
    assert {"dg", "dagster", "dagster-daemon", "dagster-webserver", "make", "pip", "python"} <= programs
    num_lines = sum(text.count("python -m miniplm_assets ") for text in map(Path.read_text, PAGES))
    assert len(OURS) >= num_lines / 3, "the others stand in the text"


def test_a_selection_of_assets_is_one_of_kinds_that_there_are() -> None:
    kinds = {kind.name for kind in all_kinds(load_sql_project(PROJECT / "dbt_like_sql"))}
    selections = [words[words.index("--assets") + 1] for _, words in OTHERS if "--assets" in words]
    assert len(selections) >= 3
    for selection in selections:
        assert dg.AssetSelection.from_string(selection)
        keys = re.findall(r'key:"([^"]+)"', selection)
        named = [key.rpartition("/")[2] for key in keys] + re.findall(r'tag:"?kind"?=(\w+)', selection)
        assert named or selection == "*", selection
        assert set(named) - {"*"} <= kinds, selection


@pytest.mark.parametrize("block", [pytest.param(block, id=block.place) for block in all_blocks("sql")])
def test_sql_finds_rows(block: Any, here: Path) -> None:
    with duckdb.connect(str(here / "warehouse" / "warehouse.duckdb"), read_only=True) as connection:
        for statement in duckdb.extract_statements(block.text):
            assert connection.execute(statement).fetchall(), statement.query


# What each language of a block is tried by; what has none shows what is printed, or where something lies.
TRIED_BY = {
    "bash": "above",
    "folders": "below",
    "ini": "above",
    "none": "nothing",
    "python": "tests/test_pipeline.py in CONTRIBUTING.md; elsewhere below",
    "shell": "above",
    "sql": "above",
    "text": "nothing",
    "yaml": "tests/test_documented_yaml.py",
}


def test_a_block_is_of_a_language_that_is_tried() -> None:
    for page in PAGES:
        for block in blocks(page):
            assert block.language in TRIED_BY, block.place


def test_python_imports_what_is_there() -> None:
    for block in all_blocks("python"):
        if block.page.name == "CONTRIBUTING.md":
            continue
        for node in ast.walk(ast.parse(block.text)):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [str(node.module)]
                if names[0].startswith("miniplm_assets"):
                    module = importlib.import_module(names[0])
                    assert all(hasattr(module, one.name) for one in node.names), block.place
            for name in names:
                assert importlib.util.find_spec(name), f"{block.place}: {name}"


def test_the_folders_that_a_page_names_are_there() -> None:
    (block,) = (block for block in all_blocks("folders") if block.page.name == "README.md")
    for line in block.text.splitlines():
        assert (PROJECT / line.split()[0]).is_dir(), line


def test_nothing_is_set_that_nobody_reads() -> None:
    """A variable of this project that a page sets is one that the code knows, or that an experiment names."""
    known = {EXPERIMENT_VARIABLE, WAREHOUSE_VARIABLE}
    for page in PAGES:
        named = {word for block in blocks(page) if block.language == "yaml" for word in re.findall(r"\w+", block.text)}
        found = set(re.findall(r"\bMINIPLM_\w+(?==)", page.read_text(encoding="utf-8")))
        assert found <= known | named, f"{page.name}: {found - known}"


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    site = (PROJECT / "docs" / "mkdocs.yml").read_text(encoding="utf-8")
    missing = [page.name for page in PAGES if not re.search(rf": {page.relative_to(PROJECT)}$", site, re.MULTILINE)]
    assert not missing, "name them in the nav of docs/mkdocs.yml"


def test_links_lead_somewhere() -> None:
    """Relative ones, from where the page lies, as a code host follows them."""
    for page in PAGES:
        text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            path, _, anchor = target.partition("#")
            if "://" in target or target.startswith("mailto:"):
                continue
            place = Path(os.path.normpath(page.parent / path)) if path else page
            assert place.exists(), f"{page.name}: {target}"
            if anchor and place.suffix == ".md":
                headings = re.findall(r"^#+ (.*)$", place.read_text(encoding="utf-8"), flags=re.MULTILINE)
                assert anchor in {slug(heading) for heading in headings}, f"{page.name}: {target}"


def slug(heading: str) -> str:
    kept = "".join(one for one in heading.lower() if one.isalnum() or one in "_- ")
    return kept.strip().replace(" ", "-")
