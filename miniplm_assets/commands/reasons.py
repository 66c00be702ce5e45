"""Why assets are made anew, each reason once: a change at the root has a reason at each asset that hangs on it."""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from miniplm_assets.core.words import cut, wrapped
from miniplm_assets.lineage.fingerprints import RAW_CORPUS

# What follows from another asset, and is no reason of its own.
FOLLOWS: Final = re.compile(r"input .+ (changed|is new|is gone)( \(\d+ results\))?")
# Of a reason, such as a whole section that is new: the rest is for a program.
MAX_CHARACTERS: Final = 160
INDENT: Final = "  "


def in_groups(reasons: Mapping[str, Sequence[str]], columns: int) -> str:
    """Return each reason once, with the assets that it holds for; then the assets that only follow from others.

    Args:
        reasons: of each asset, by its key.
        columns: of the terminal.
    """
    keys: dict[str, list[str]] = {}
    following = []
    for key, told in reasons.items():
        # The inputs of the listing are files.
        own = [reason for reason in told if key == RAW_CORPUS or not FOLLOWS.fullmatch(reason)]
        for reason in own:
            keys.setdefault(reason, []).append(key)
        if told and not own:
            following.append(key)
    parts = [_group(cut(reason, MAX_CHARACTERS), those, len(reasons), columns) for reason, those in keys.items()]
    if following:
        parts.append(_group("what they are made of is another", following, len(reasons), columns))
    return "\n".join(parts)


def _group(reason: str, keys: Sequence[str], num_all: int, columns: int) -> str:
    if len(keys) == 1:
        return wrapped(f"{keys[0]}: {reason}", columns, INDENT)
    if len(keys) == num_all:
        return wrapped(f"{reason}: all {num_all}", columns, INDENT)
    named = wrapped(", ".join(keys), columns, INDENT * 3)
    return f"{wrapped(f'{reason}: {len(keys)} assets', columns, INDENT)}\n{named}"
