"""Every YAML of README and docs: its keys, types and values are those of the schema; a whole file is loaded.

Three dots stand for what the reader knows, so that of a part nothing is required, and nothing else is forgiven.
"""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from miniplm_assets.experiment import load_experiment
from miniplm_assets.experiment.json_schema import experiment_schema
from miniplm_assets.experiment.yaml_file import YamlFile
from tests.documented import Block, all_blocks

BLOCKS = [pytest.param(block, id=block.place) for block in all_blocks("yaml")]
# Files of others, by their first key.
OTHERS = {
    "load_from": "workspace.yaml of Dagster",
    "storage": "dagster.yaml; tests/test_postgres.py reads it",
    "task": "a task of lm-evaluation-harness; tests/test_tasks.py reads such",
    "type": "defs.yaml of a dg project",
}
WHOLE = {"warehouse", "corpus", "tokenizers"}


def relaxed(schema: Any) -> Any:
    """Return the schema of parts: nothing is required, and where one of several fits, more of them may."""
    if isinstance(schema, list):
        return [relaxed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        {"oneOf": "anyOf"}.get(key, key): relaxed(value)
        for key, value in schema.items()
        if key != "required" or not isinstance(value, list)
    }


SCHEMA = relaxed(copy.deepcopy(experiment_schema()))


def without_dots(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_dots(inner) for key, inner in value.items() if key != "..." and inner != "..."}
    return [without_dots(one) for one in value if one != "..."] if isinstance(value, list) else value


def has_dots(value: Any) -> bool:
    if isinstance(value, dict):
        return "..." in value or any(map(has_dots, value.values()))
    return any(map(has_dots, value)) if isinstance(value, list) else value == "..."


def content_of(block: Block, folder: Path) -> Any:
    """Read a block as an experiment file is read."""
    path = folder / "experiment.yaml"
    path.write_text(block.text, encoding="utf-8")
    return YamlFile(path).content


def schemas_for(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the schemas that a block may be of: the file, else sections that have its keys, else named things."""
    keys = {key for key in content if not key.startswith("x-")}
    if keys <= SCHEMA["properties"].keys():
        return [SCHEMA]
    sections = [one for one in SCHEMA["$defs"].values() if keys <= one.get("properties", {}).keys()]
    named = [one for one in SCHEMA["properties"].values() if "patternProperties" in one and one.get("default") == {}]
    return [{**one, "$defs": SCHEMA["$defs"]} for one in sections or named]


def problems(content: dict[str, Any]) -> list[str]:
    """Return what is wrong by the schema that fits best; nothing where one fits."""
    tried = [
        [
            f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
            for error in Draft7Validator(one).iter_errors(content)
        ]
        for one in schemas_for(content)
        if "model_type" not in str(one.get("description"))  # architectures take anything
    ]
    return min(tried, key=len)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_is_right_by_the_schema(block: Block, tmp_path: Path) -> None:
    content = content_of(block, tmp_path)
    if content is None:  # a comment
        assert block.text.startswith("#")
        return
    if next(iter(content)) in OTHERS:
        assert yaml.safe_load(block.text)
        return
    assert problems(without_dots(content)) == []
    if content.keys() >= WHOLE and not has_dots(content):
        load_experiment(tmp_path / "experiment.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "selections: {half: {keep_fractoin: 0.5}}",
        "objective: {type: vanila_kd}",
        "objective: {type: vanilla_kd, weigth: 0.5}",
        "scoring: {backend: vlm}",
        "half: {teacher: large, keep_fraction: 2}",
        "selectoins: {half: {keep_fraction: 0.5}}",
    ],
)
def test_a_wrong_one_is_told(text: str, tmp_path: Path) -> None:
    assert problems(without_dots(content_of(Block(tmp_path, 1, "yaml", text), tmp_path)))


def test_some_block_is_a_whole_file(tmp_path: Path) -> None:
    read = [content_of(block, tmp_path) for block in all_blocks("yaml")]
    assert any(content and content.keys() >= WHOLE and not has_dots(content) for content in read)
