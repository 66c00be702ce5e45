"""What is a document and what is not. Rejected rows are kept apart, with the reason; nothing vanishes."""

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple

Reason = Literal[
    "not_json", "not_an_object", "no_text", "text_not_a_string", "not_utf8", "empty", "too_long"
]  # fmt: skip

# Enough to recognise a row in an editor, little enough to print a hundred of them.
EXCERPT_CHARACTERS: Final = 120
UNKNOWN_DOMAIN: Final = "unknown"


class Document(NamedTuple):
    """One accepted row: its line (1-based) in the shard, its domain, its text and the UTF-8 size of it.

    A tuple, for each row of a corpus becomes one: a frozen dataclass takes four times as long to make.
    """

    line: int
    domain: str
    text: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """One row that is not a document, or one too many.

    Attributes:
        file: relative to the source.
        line: from 1.
        reason: a `Reason`; or of a document that is dropped, exact_duplicate, near_duplicate,
            contaminated, or language_ and the code of its own.
        excerpt: its first characters.
        twin_id: the document that stays in the place of a duplicate.
        similarity: of that one and a duplicate, in (0, 1].
    """

    file: str
    line: int
    reason: str
    excerpt: str
    twin_id: int | None = None
    similarity: float | None = None


def check_text(text: object, *, max_document_bytes: int) -> tuple[Reason | None, int]:
    """Return why a value is not the text of a document, or None; and its size in UTF-8 bytes (0 if rejected)."""
    if text is None:
        return "no_text", 0
    if not isinstance(text, str):
        return "text_not_a_string", 0
    try:
        num_bytes = len(text.encode())
    except UnicodeEncodeError:  # a lone surrogate: JSON can spell it, UTF-8 cannot
        return "not_utf8", 0
    if num_bytes > max_document_bytes:
        return "too_long", 0
    if not text or text.isspace():
        return "empty", 0
    return None, num_bytes


def domain_of(value: object) -> str:
    """Return the domain that a field's value names."""
    if value is None or value == "":
        return UNKNOWN_DOMAIN
    return _storable_domain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def excerpt_of(value: object) -> str:
    """Return the first characters of a row, whatever it is made of."""
    if isinstance(value, bytes | bytearray | memoryview):
        # A character has at most 4 bytes.
        return bytes(value[: 4 * EXCERPT_CHARACTERS]).decode(errors="backslashreplace")[:EXCERPT_CHARACTERS].rstrip()
    return storable(str(value)[:EXCERPT_CHARACTERS])


@lru_cache(maxsize=1_024)  # rows of a file are of few domains
def _storable_domain(name: str) -> str:
    return storable(name)


def storable(text: str) -> str:
    """Return the text with lone surrogates spelled out, so that UTF-8 can hold it."""
    return text.encode(errors="backslashreplace").decode()


def value_at(row: dict[str, Any], path: str) -> Any:
    """Return the value of a field, or None where it is missing: of the key ``meta.name`` itself, else nested."""
    if path in row:
        return row[path]
    value: Any = row
    for key in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value
