"""What tests read off the page of an asset."""

import json
from typing import Any

BOOKKEEPING = "bookkeeping"


def value_of(materialisation: Any, name: str) -> Any:
    """Return an entry of a page, one of its bookkeeping, or a fact of the result, by its name."""
    if name in materialisation.metadata:
        return materialisation.metadata[name].value
    kept = materialisation.metadata[BOOKKEEPING].value
    return kept[name] if name in kept else kept["facts"][name]


def with_bookkeeping(entries: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of a page, as the web server gives them, with what its bookkeeping holds."""
    kept = json.loads(entries[BOOKKEEPING])
    return kept["facts"] | kept | entries
