"""Adding up what the shards of a result report."""

from collections.abc import Iterable, Mapping
from typing import Any


def sum_facts(facts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sums of the numbers in facts of the same shape, at every depth.

    Booleans, texts and lists cannot be added and are left out.
    """
    total: dict[str, Any] = {}
    for shard in facts:
        for name, value in shard.items():
            if isinstance(value, Mapping):
                total[name] = sum_facts([total.get(name, {}), value])
            elif isinstance(value, int | float) and not isinstance(value, bool):
                total[name] = total.get(name, 0) + value
    return total
