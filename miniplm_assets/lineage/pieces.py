"""An asset in pieces: what is said of all of them together."""

from collections.abc import Mapping, Sequence
from typing import Any

from miniplm_assets.core.errors import CorpusError
from miniplm_assets.storage.store import Result


def raise_all(faults: Sequence[CorpusError]) -> None:
    """Raise what is wrong with each file, if something is wrong with any.

    Raises:
        CorpusError: that of the one file, or one that says all of them.
    """
    if len(faults) == 1:
        raise faults[0]
    if faults:
        sentences = ["\n".join([str(error), *getattr(error, "__notes__", ())]) for error in faults]
        raise CorpusError("\n".join([f"{len(faults)} corpus files cannot be used:", *sentences])) from faults[0]


def over_seeds(pieces: Mapping[str, Result]) -> dict[str, Any]:
    """Return the facts that all seeds share, and one row for each seed with the numbers and words that differ."""
    first, *others = (result.facts for result in pieces.values())
    shared = {name: value for name, value in first.items() if all(facts.get(name) == value for facts in others)}
    if not others:
        return shared
    rows = [
        {"seed": seed}
        | {
            name: value
            for name, value in result.facts.items()
            if name not in shared and not isinstance(value, dict | list)
        }
        for seed, result in pieces.items()
    ]
    return shared | {"by_seed": rows}
