"""Writes the reference of the experiment file: python -m docs.write_configuration > docs/configuration.md.

Keys, types, bounds, defaults and descriptions are read off the JSON schema. What is made anew where a setting changes
is read off the graph: for each row of the table in tests/test_identity.py, which names another value for every
setting, the graph is built with both values, and the first assets that differ are looked up. Settings that this table
knows to change no result cost nothing.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from docs.configuration_words import BESIDE, INTRODUCTION, STAGE_OF_KIND, STAGE_OF_SECTION, STAGES, UNITS
from miniplm_assets.experiment import Experiment
from miniplm_assets.experiment.json_schema import PARTED_DIGITS, experiment_schema
from miniplm_assets.lineage.graph import Graph, build_graph
from miniplm_assets.lineage.kind import Kind, Node
from tests.test_identity import KINDS, ROWS, SQL, content_of, declared_at, set_at


@dataclass
class Section:
    """A section of the schema, and everywhere that it stands.

    Attributes:
        definition: of the JSON schema.
        paths: of keys; NAME stands for any name.
    """

    definition: dict[str, Any]
    paths: list[str] = field(default_factory=list)

    @property
    def heading(self) -> str:
        """What it is called: the first place, and the type that it is one of."""
        tags = [one["const"] for name, one in self.definition["properties"].items() if "const" in one]
        return (self.paths[0] or "The file itself") + "".join(f": {tag}" for tag in tags)


def sections(schema: dict[str, Any]) -> dict[str, Section]:
    """Return the sections by the title of their class, each where it is named first."""
    found: dict[str, Section] = {}

    def visit(definition: dict[str, Any], path: str) -> None:
        section = found.setdefault(definition["title"], Section(definition))
        section.paths.append(path)
        for name, declared in definition["properties"].items():
            for inner, places in _inner(declared, schema):
                visit(inner, f"{path}.{name}{places}".removeprefix("."))

    visit(schema, "")
    return found


def _inner(
    declared: Mapping[str, Any], schema: dict[str, Any], places: str = ""
) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the sections that a key may hold, and where below it."""
    if "$ref" in declared:
        definition = schema["$defs"][declared["$ref"].rpartition("/")[2]]
        if "properties" in definition:
            yield definition, places
    for one in (*declared.get("anyOf", ()), *declared.get("oneOf", ())):
        yield from _inner(one, schema, places)
    for one in declared.get("patternProperties", {}).values():
        yield from _inner(one, schema, f"{places}.NAME")


@cache
def costs() -> dict[tuple[str, str], list[str]]:
    """Return the stages that are made anew first, by the class of a section and the name of a setting."""
    found: dict[tuple[str, str], set[str]] = {}
    before: dict[str, Graph] = {}
    for row in ROWS:
        content = content_of(row.variant)
        declared = [(path, declared_at(content, path)) for path in row.paths.split()]
        stages: set[str] = set()
        if row.kinds:
            if row.variant not in before:
                before[row.variant] = build_graph(KINDS, Experiment.model_validate(content), SQL)
            for path, _ in declared:
                set_at(content, path, row.other)
            after = build_graph(KINDS, Experiment.model_validate(content), SQL)
            stages = {_stage(node.kind) for node in _first_changes(before[row.variant], after)}
        for path, place in declared:
            named = (place[0].__name__, place[1]) if place else ("Experiment", path.partition(".")[0])
            found.setdefault(named, set()).update(stages)
    return {named: _told(stages) for named, stages in found.items()}


def _first_changes(before: Graph, after: Graph) -> list[Node[Any]]:
    """Return the nodes that another setting makes another, and none before which there is one."""

    def reads(graph: Graph, key: str) -> object:
        node = graph.get(key)
        return node and (node.settings.identity(), dict(node.inputs), node.shards, node.seeds, node.files)

    changed = {key for key in after if reads(before, key) != reads(after, key)}
    below: set[str] = set()
    for key, node in after.items():
        if (changed | below).intersection(node.inputs.values()):
            below.add(key)
    return [after[key] for key in changed - below]


def _stage(kind: Kind[Any]) -> str:
    return STAGE_OF_KIND.get(kind.name) or STAGE_OF_SECTION[kind.section]


def _told(stages: set[str]) -> list[str]:
    kept = [stage for stage in STAGES if stage in stages and stage not in BESIDE]
    return kept or [next((stage for stage in STAGES if stage in stages), "nothing")]


def page() -> Iterator[str]:
    """Yield the lines of the page."""
    schema, cost = experiment_schema(), costs()
    yield INTRODUCTION
    used = {stage for stages in cost.values() for stage in stages}
    yield from (f"| {stage} | {what} |" for stage, what in STAGES.items() if stage in used)
    found = sections(schema)
    for title, section in found.items():
        yield from ("", f"## {section.heading}", "")
        yield section.definition["description"].replace("<name>", "NAME")
        if len(section.paths) > 1:
            yield f"The same at {', '.join(f'`{path}`' for path in section.paths[1:])}."
        yield from ("", "| key | type | default | what it is | made anew |", "|---|---|---|---|---|")
        required = section.definition.get("required", ())
        for name, declared in section.definition["properties"].items():
            inner = [found[one["title"]] for one, _ in _inner(declared, schema)]
            default = "required" if name in required else _default(declared, inner)
            told = declared.get("description", "")
            if inner:
                told = f"{told}: " if told else ""
                told += ", ".join(f"[{one.heading}](#{_anchor(one.heading)})" for one in inner)
            # Another type is another section: what that costs stands where it is named.
            stages = "" if "const" in declared else _stages(cost, title, name, is_section=bool(inner))
            yield f"| `{name}` | {_type(title, name, declared, inner)} | {default} | {_cell(told)} | {stages} |"


def _stages(cost: Mapping[tuple[str, str], list[str]], title: str, name: str, *, is_section: bool) -> str:
    if (title, name) == ("Experiment", "warehouse"):
        return "all, in the other"  # no fingerprint says so: nothing is looked for outside of it
    known = cost.get((title, name))
    if known is None and title == "Generation":  # what it has of the class that it adds to
        known = cost.get(("Decoding", name))
    if known is None and not is_section:
        raise LookupError(f"{title}.{name}: has no row in tests/test_identity.py")
    return ", ".join(known or ())


def _default(declared: Mapping[str, Any], inner: list[Section]) -> str:
    default = declared.get("default")
    if default is None:
        return "as there" if "$ref" in declared and inner else "-"
    if default in ([], {}):
        return "none"
    return f"`{default:_}`" if type(default) is int else f"`{json.dumps(default)}`"


def _type(title: str, name: str, declared: Mapping[str, Any], inner: list[Section]) -> str:
    if "patternProperties" in declared:
        return "section by name" if inner else "by name"
    if inner:
        return "section"
    kind = _plain(declared)
    if "number" in kind or "integer" in kind:
        unit = UNITS.get(f"{title}.{name}", UNITS.get(name))
        if unit is None:
            raise LookupError(f"{title}.{name}: give it a unit, or none, in docs/configuration_words.py")
        kind += f"; {unit}" if unit else ""
    return _cell(kind)


def _plain(declared: Mapping[str, Any]) -> str:
    """Say a type in words: of several, those that say more than "left out" and "with its digits parted"."""
    if "anyOf" in declared:
        told = [one for one in declared["anyOf"] if one.get("type") != "null" and one.get("pattern") != PARTED_DIGITS]
        return " or ".join(map(_plain, told))
    if "const" in declared:
        return f"`{declared['const']}`"
    if "enum" in declared:
        return ", ".join(f"`{one}`" for one in declared["enum"])
    if declared.get("additionalProperties"):
        return f"by name: {_plain(declared['additionalProperties'])}"
    if declared.get("type") == "array":
        return f"list of: {_plain(declared['items'])}"
    if declared.get("type") == "string" and "40" in declared.get("pattern", ""):
        return "text: 40 hexadecimal digits"
    word = {"string": "text", "boolean": "true or false", "object": "section"}.get(declared["type"], declared["type"])
    bounds = (
        (">=", None if "exclusiveMinimum" in declared else declared.get("minimum")),
        (">", declared.get("exclusiveMinimum")),
        ("<=", declared.get("maximum")),
        ("<", declared.get("exclusiveMaximum")),
    )
    told = [f"{sign} {bound:g}" for sign, bound in bounds if bound is not None and bound < 2**63]
    return f"{word} {', '.join(told)}".strip()


def _anchor(heading: str) -> str:
    """Return what code hosts and site generators make of a heading: its letters, digits, `_` and `-`."""
    kept = "".join(one for one in heading.lower() if one.isalnum() or one in "_- ")
    return kept.replace(" ", "-")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    print("\n".join(page()))
