"""Markdown of cards: tables, and texts that stay texts whatever stands in them."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

# Of a table of domains, of which a corpus may have any number: as many as a reader of a card looks at.
MAX_SHOWN_DOMAINS: Final = 50
_SPECIAL: Final = re.compile(r"([\\`*_{}\[\]<>|#~&])")


def plain(text: object) -> str:
    """Return a text on one line that Markdown shows as it is."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table; what stands in its cells is Markdown, numbers and None are put into words."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool() | str():
            return str(value)
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.4g}" if abs(value) < 1e-3 or abs(value) >= 1e4 else f"{value:.4f}"
        case _:
            return plain(value)
