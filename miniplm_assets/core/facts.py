"""What results report of themselves: added up over shards, and read for the work that they stand for."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

# What a whole lists of its pieces, and a step says of its table, is shown in another place than its figures.
PIECES: Final = "pieces"
COLUMNS: Final = "columns"
SEEN_IN_FILES: Final = "seen_in_files"
NO_FIGURES: Final = frozenset({PIECES, COLUMNS, SEEN_IN_FILES})


def sum_facts(facts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sums of the numbers in facts of the same shape, at every depth.

    Booleans, texts and lists cannot be added and are left out.
    """
    total: dict[str, Any] = {}
    for shard in facts:
        _add(total, shard)
    return total


def _add(total: dict[str, Any], shard: Mapping[str, Any]) -> None:
    for name, value in shard.items():
        if isinstance(value, Mapping):
            _add(total.setdefault(name, {}), value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            total[name] = total.get(name, 0) + value


def counts_in_words(counts: Mapping[str, int]) -> str:
    """Return counts as messages show them, in their order: ``empty 2, too_long 1``."""
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def model_tokens(facts: Mapping[str, Any]) -> int:
    """Return the tokens that went through a model for a result: trained on, generated behind their prompts, or scored.

    Of scores, in all splits; 0 of what no model made.
    """
    if "num_read_tokens" in facts:  # in other tokens than are counted
        return int(facts["num_read_tokens"])
    if "by_split_and_domain" in facts:
        by_split = facts["by_split_and_domain"].values()
        return sum(int(sums["num_scored_tokens"]) for domains in by_split for sums in domains.values())
    if "training_flops" in facts or "num_generated_tokens" in facts:
        return int(facts["num_tokens"])
    return int(facts.get("num_scored_tokens", 0))
