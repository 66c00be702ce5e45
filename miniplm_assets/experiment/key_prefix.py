"""What the keys that Dagster shows begin with: it changes no result, and so it is in no experiment file."""

import re
from typing import Final

from miniplm_assets.core.errors import ExperimentError

# As every other part of a key.
_PART: Final = re.compile(r"[A-Za-z0-9_]{1,100}")


def parse_key_prefix(text: str) -> tuple[str, ...]:
    """Return the parts of a prefix, such as ``paper`` or ``lm/paper``; none of an empty one.

    Raises:
        ExperimentError: if a part holds what a key may not.
    """
    parts = tuple(text.split("/")) if text else ()
    wrong = next((part for part in parts if not _PART.fullmatch(part)), None)
    if wrong is not None:
        raise ExperimentError(
            f"the key prefix {text!r} has the part {wrong!r}; expected letters, digits and underscores, parts parted "
            "by /, such as paper or lm/paper"
        )
    return parts
