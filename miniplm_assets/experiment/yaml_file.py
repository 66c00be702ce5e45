"""Reading a YAML file as what JSON has: bounded, with the line of every key, and with numbers as YAML 1.2 writes them.

PyYAML follows YAML 1.1, where ``1e-6`` is a text, ``010`` is 8, ``1:30`` is 90, ``no`` is false, and of two equal keys
the last one counts in silence.
"""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from miniplm_assets.core.errors import ExperimentError

# Far beyond any experiment, and little enough for every later step.
_MAX_BYTES: Final = 1 << 20
_MAX_DEPTH: Final = 50
_MAX_VALUES: Final = 100_000
_MAX_INTEGER: Final = 2**63 - 1
_MERGE: Final = "tag:yaml.org,2002:merge"
_CORE: Final = {f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "str", "int", "float", "bool", "null")}


class YamlFile:
    """A YAML file.

    Attributes:
        path: where it is.
        content: of mappings, lists, texts, finite numbers, booleans and None.
    """

    def __init__(self, path: Path) -> None:
        """Read it.

        Raises:
            ExperimentError: if it cannot be read, is not UTF-8, not YAML, too large, nested too deeply, names a key
                twice, or holds what JSON has not.
        """
        self.path = path
        text = _text_of(path)
        try:
            self._require_shallow(text)
            self._root = yaml.compose(text, Loader=_Loader)
            self.content: Any = None if self._root is None else self._checked_content(self._root)
        except yaml.YAMLError as error:
            raise ExperimentError(f"{path}: not valid YAML: {error}") from None

    def line_of(self, keys: Sequence[object]) -> int | None:
        """Return the line, from 1, of the deepest of these keys that the file has; those that it has not are skipped.

        A key in the middle may be one that the file does not spell out, such as the type of a source.
        """
        node, line = self._root, None
        for key in keys:
            found = next((pair for pair in _pairs(node) if pair[0].value == str(key)), None)
            if found is not None:
                line, node = found[0].start_mark.line + 1, found[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
                node = node.value[key]
                line = node.start_mark.line + 1
        return line

    def _fail(self, mark: Any, problem: str) -> ExperimentError:
        return ExperimentError(f"{self.path}: line {mark.line + 1}: {problem}")

    def _require_shallow(self, text: str) -> None:
        """Make sure, before anything goes down by recursion, that it is not deep."""
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:
                raise self._fail(event.start_mark, f"nested more than {_MAX_DEPTH} deep; no experiment is")

    def _checked_content(self, root: yaml.Node) -> Any:
        if self._num_values(root, {}) > _MAX_VALUES:
            raise ExperimentError(
                f"{self.path}: its anchors and aliases stand for more than {_MAX_VALUES:,} values; no experiment has "
                "so many"
            )
        loader = _Loader("")
        content = loader.construct_document(root)
        loader.dispose()
        return content

    def _num_values(self, node: yaml.Node, known: dict[int, int | None]) -> int:
        """Count the values below a node, as often as aliases repeat them; check each once."""
        if id(node) in known:
            number = known[id(node)]
            if number is None:
                raise self._fail(node.start_mark, "an alias stands within what it stands for, which never ends")
            return number
        known[id(node)] = None
        if node.tag not in _CORE:
            raise self._fail(node.start_mark, f"{node.tag} is not allowed here; texts, numbers, lists and mappings are")
        number = 1
        if isinstance(node, yaml.MappingNode):
            self._require_different(node)
            number += sum(self._num_values(value, known) for _, value in node.value)
        elif isinstance(node, yaml.SequenceNode):
            number += sum(self._num_values(value, known) for value in node.value)
        elif isinstance(node, yaml.ScalarNode):
            self._require_number(node)
        known[id(node)] = number
        return number

    def _require_different(self, node: yaml.MappingNode) -> None:
        seen: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            if key.tag == _MERGE:
                continue
            if not isinstance(key, yaml.ScalarNode):
                raise self._fail(key.start_mark, "a key must be a text")
            if key.value in seen:
                raise self._fail(
                    key.start_mark,
                    f"'{key.value}' stands here a second time; the first is in line "
                    f"{seen[key.value].start_mark.line + 1}. Give each its own name, or put them together",
                )
            seen[key.value] = key

    def _require_number(self, node: yaml.ScalarNode) -> None:
        kind = node.tag.rpartition(":")[2]
        if kind == "float" and not math.isfinite(_float(node.value)):
            raise self._fail(node.start_mark, f"{node.value} is no finite number")
        if kind == "int" and (len(node.value) > 80 or abs(_integer(node.value)) > _MAX_INTEGER):
            raise self._fail(node.start_mark, f"{node.value[:40]} is more than {_MAX_INTEGER}")


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise ExperimentError(
            f"experiment file {path} does not exist; set MINIPLM_EXPERIMENT to one that does, "
            "for example experiments/demo.yaml"
        ) from None
    except (OSError, ValueError) as error:  # a path with a NUL byte is a ValueError
        raise ExperimentError(f"experiment file {str(path)!r} cannot be read: {error}") from None
    if len(content) > _MAX_BYTES:
        raise ExperimentError(f"{path}: larger than {_MAX_BYTES:,} bytes; no experiment is")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ExperimentError(f"{path}: written in UTF-16; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ExperimentError(
            f"{path}: line {line}: not UTF-8 (byte 0x{content[error.start]:02x}); save the file as UTF-8"
        ) from None


def _pairs(node: Any) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """Yield the keys and values of a mapping, its own before those that it merges in."""
    if not isinstance(node, yaml.MappingNode):
        return
    yield from (pair for pair in node.value if pair[0].tag != _MERGE)
    for key, merged in node.value:
        if key.tag == _MERGE:
            for one in merged.value if isinstance(merged, yaml.SequenceNode) else [merged]:
                yield from _pairs(one)


def _integer(text: str) -> int:
    digits = text.replace("_", "").lower()
    sign = -1 if digits.startswith("-") else 1
    digits = digits.lstrip("+-")
    base = {"0x": 16, "0o": 8}.get(digits[:2], 10)
    return sign * int(digits[2:] if base != 10 else digits, base)


def _float(text: str) -> float:
    return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))


class _Loader(yaml.SafeLoader):
    """PyYAML's loader, with the scalars of YAML 1.2's core schema; digits may be parted by underscores."""

    yaml_implicit_resolvers: dict[str, Any] = {}


for _kind, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9][0-9_]*|0o[0-7_]+|0x[0-9a-fA-F_]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9][0-9_]*|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(rf"^(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: _integer(node.value))
_Loader.add_constructor("tag:yaml.org,2002:float", lambda _, node: _float(node.value))
