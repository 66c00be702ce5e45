"""What a run carries with it in Dagster, and who reads that.

Dagster gives a run's tags to the run that tries it again: what is true of one run alone names it.
"""

from collections.abc import Mapping
from typing import Final

# The state of the corpus that all assets of a run work on, whatever happens to its files meanwhile: a fingerprint.
SNAPSHOT_TAG: Final = "miniplm/raw_corpus"
# When that was seen, where the run was asked for it, and does not look by itself.
SEEN_TAG: Final = "miniplm/seen_ns"
# Digest of all results that the sensor asked for; see `automation.corpus_watch.Wanted`.
STATE_TAG: Final = "miniplm/state"
# Why a run was put down though nobody cancelled it: the sensor asks for it again.
PUT_DOWN_TAG: Final = "miniplm/put_down"
# Which process executes the run, on which machine; see `gone_runs`.
PROCESS_TAG: Final = "miniplm/process"
# The run whose failure somebody was told of.
TOLD_TAG: Final = "miniplm/told"
# Of the operation behind an asset, not of a run: what defined it where the run was asked for.
DEFINITION_TAG: Final = "miniplm/definition"


def put_down(run_id: str, why: str) -> dict[str, str]:
    """Return the tag of a run that was put down though nobody cancelled it."""
    return {PUT_DOWN_TAG: f"run {run_id}: {why}"}


def is_put_down(run_id: str, tags: Mapping[str, str]) -> bool:
    """Whether a run was put down though nobody cancelled it; not the one before it, which it tries again."""
    return tags.get(PUT_DOWN_TAG, "").startswith(f"run {run_id}: ")
