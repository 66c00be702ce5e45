"""The JSON schema of an experiment file: editors complete and check by it, and docs/configuration.md is made of it.

It says which keys there are, of which type and within which bounds. What hangs together across a file (a teacher that
is named and not there, two settings that exclude each other) `load_experiment` alone says.
"""

import json
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from miniplm_assets.experiment.schema import Experiment

# The one that the editors' YAML extensions read in full; nothing newer is used.
_DRAFT = "http://json-schema.org/draft-07/schema#"
# Editors read YAML 1.2, where 1_000 is a text; a file may part the digits of a number so.
PARTED_DIGITS = r"^[-+]?[0-9][0-9_]*$"


class _ForEditors(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - as pydantic calls it
        return False  # the key itself in capitals

    def int_schema(self, schema: Any) -> JsonSchemaValue:
        return {"anyOf": [super().int_schema(schema), {"type": "string", "pattern": PARTED_DIGITS}]}

    def dict_schema(self, schema: Any) -> JsonSchemaValue:
        named = super().dict_schema(schema)
        return named | ({"additionalProperties": False} if "patternProperties" in named else {})

    def tagged_union_schema(self, schema: Any) -> JsonSchemaValue:
        union = super().tagged_union_schema(schema)
        tag = union.pop("discriminator", {}).get("propertyName")  # a keyword of OpenAPI, not of JSON schema
        return union | ({"required": [tag]} if tag else {})


def experiment_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 7) of an experiment file."""
    schema = Experiment.model_json_schema(schema_generator=_ForEditors)
    for section in (schema, *schema["$defs"].values()):
        if "description" in section:
            section["description"] = " ".join(section["description"].split())
        for declared in section.get("properties", {}).values():
            # An editor writes defaults out: null, and of a section what is refused together too.
            if "$ref" in declared or declared.get("default", ...) is None:
                declared.pop("default", None)
    return {"$schema": _DRAFT, **schema, "patternProperties": {"^x-": {}}}


def schema_text() -> str:
    """Return it as the file `experiments/experiment.schema.json` holds it."""
    return json.dumps(experiment_schema(), indent=2, ensure_ascii=False) + "\n"
