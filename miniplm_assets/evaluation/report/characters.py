"""What others wrote, made fit to be read: no character of it steers anything."""

import unicodedata
from typing import Final

# Others steer a terminal, or are what no HTML may hold (NUL, halves of characters).
KEPT_CONTROLS: Final = "\n\t"
# They turn the order of what follows, so that a text reads as what it is not.
TURNING: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def visible(text: str) -> str:
    """Return a text in which no character steers anything: those that would are shown by their number."""
    return "".join(_shown(character) if _steers(character) else character for character in text)


def _steers(character: str) -> bool:
    category = unicodedata.category(character)
    return (
        character in TURNING
        or category == "Cs"
        or (category == "Cc" and character not in KEPT_CONTROLS)
        or ord(character) & 0xFFFE == 0xFFFE  # no character of any text
    )


def _shown(character: str) -> str:
    return "" if character == "\r" else f"[U+{ord(character):04X}]"
