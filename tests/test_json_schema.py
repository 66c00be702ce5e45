"""The JSON schema of experiment files: what editors complete by is what is read, and the file of it is up to date."""

import subprocess
import sys
from typing import Any

import pytest
from jsonschema import Draft7Validator

from miniplm_assets.cli import main
from miniplm_assets.experiment.json_schema import experiment_schema, schema_text
from miniplm_assets.experiment.yaml_file import YamlFile
from miniplm_assets.kinds.registry import PROJECT
from tests.test_experiment import changed, minimal
from tests.test_identity import VARIANTS, content_of

FILE = PROJECT / "experiments" / "experiment.schema.json"
EXPERIMENTS = sorted((PROJECT / "experiments").glob("*.yaml"))


@pytest.fixture(scope="module")
def validator() -> Draft7Validator:
    Draft7Validator.check_schema(experiment_schema())
    return Draft7Validator(experiment_schema())


def wrong(validator: Draft7Validator, content: Any) -> list[str]:
    return [".".join(map(str, error.absolute_path)) for error in validator.iter_errors(content)]


def test_the_file_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == schema_text()
    assert FILE.read_text(encoding="utf-8") == schema_text(), (
        f"write it anew: python -m miniplm_assets schema > experiments/{FILE.name}"
    )


def test_every_experiment_names_the_schema_and_is_right_by_it() -> None:
    for path in EXPERIMENTS:
        first = path.read_text(encoding="utf-8").splitlines()[0]
        assert first == f"# yaml-language-server: $schema={FILE.name}", path
    # As anybody calls it, with a YAML parser of its own.
    command = [sys.executable, "-m", "check_jsonschema", "--schemafile", str(FILE), *map(str, EXPERIMENTS)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_read_is_right_by_the_schema(validator: Draft7Validator, variant: str) -> None:
    assert wrong(validator, content_of(variant)) == []


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        ("studens", {}, ""),
        ("selections.half.keep_fractoin", 0.5, "selections.half"),
        ("selections.half.keep_fraction", 1.2, "selections.half.keep_fraction"),
        ("selections.half.rank_by", "loss", "selections.half.rank_by"),
        ("selections.no/name", {"keep_fraction": 0.5}, "selections"),
        ("students.plain.training.token_budget", "many", "students.plain.training.token_budget"),
        ("students.plain.objective", {"weight": 0.5}, "students.plain.objective"),
        ("students.plain.objective", {"type": "vanila_kd", "teacher": "large"}, "students.plain.objective"),
        ("teachers.large.model", {"source": "hub", "id": "a/b", "revision": "main"}, "teachers.large.model"),
        ("corpus.source", {"type": "jsonl"}, "corpus.source"),
        ("corpus", None, ""),
    ],
)
def test_what_is_wrong_is_told_at_its_place(validator: Draft7Validator, path: str, value: object, where: str) -> None:
    assert set(wrong(validator, changed(path, value))) == {where}


def test_anchors_have_a_place_and_digits_may_be_parted(validator: Draft7Validator) -> None:
    assert wrong(validator, {**minimal(), "x-learnt-from": ["a.jsonl"]}) == []
    # 100_000, as an editor reads it.
    assert wrong(validator, changed("students.plain.training.token_budget", "100_000")) == []


def test_numbers_are_read_as_the_schema_takes_them(tmp_path: Any, validator: Draft7Validator) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text("seed: 100_000\nautomation: {keep_runs: 1_0}\n", encoding="utf-8")
    content = minimal() | YamlFile(path).content
    assert content["seed"] == 100_000 and content["automation"] == {"keep_runs": 10}
    assert wrong(validator, content) == []


def test_every_setting_says_what_it_is() -> None:
    schema = experiment_schema()
    silent = [
        f"{section['title']}.{name}"
        for section in (schema, *schema["$defs"].values())
        for name, declared in section.get("properties", {}).items()
        if "description" not in declared and "const" not in declared and "$ref" not in declared
    ]
    assert not silent, "give it a description: Field(..., description=...)"
