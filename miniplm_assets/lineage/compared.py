"""Two experiments side by side: settings that differ, results that both ask for, what the second costs after the first.

Results are the same where kind and fingerprint are: under whatever names. Where the corpus of one has not been seen,
no fingerprint is known, and assets are told apart by what defines them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

from miniplm_assets.core.errors import MissingResultError
from miniplm_assets.lineage.fingerprints import RAW_CORPUS, Fingerprints
from miniplm_assets.lineage.graph import definition_digests
from miniplm_assets.lineage.outcome import COMPARISON, outcome_of
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.plan import PlannedAsset, Speed, differences, plan_on
from miniplm_assets.lineage.snapshot import Snapshot, current_snapshot

# In place of a value that only the other experiment has.
NOTHING: Final = "-"
LOSS: Final = "validation_nll_nats_per_token"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A setting, or a section, in which two experiments differ: its place, and what stands there in each."""

    place: str
    first: Any
    second: Any


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Two experiments side by side.

    Attributes:
        settings: that differ, in the order of the file.
        shared: keys of the second whose results the first asks for too.
        changed: keys of both whose results differ, with the reasons, a line each.
        only_first: keys that the second has not, and nothing that is the same.
        only_second: likewise.
        is_by_fingerprint: whether the corpora were seen, so that results are compared; else definitions.
        same_warehouse: whether what is shared is found there by the other.
        cost: what the second takes where all of the first is stored, asset by asset.
        losses: held-out loss of each student in each experiment, the mean of its seeds; None where it is not stored.
    """

    settings: Sequence[Difference]
    shared: Sequence[str]
    changed: Mapping[str, Sequence[str]]
    only_first: Sequence[str]
    only_second: Sequence[str]
    is_by_fingerprint: bool
    same_warehouse: bool
    cost: Sequence[PlannedAsset]
    losses: Mapping[str, tuple[float | None, float | None]]

    @property
    def is_same(self) -> bool:
        """Whether neither a setting nor a result differs."""
        return not (self.settings or self.changed or self.only_first or self.only_second)


def compare(
    first: Pipeline,
    second: Pipeline,
    settings: tuple[Mapping[str, Any], Mapping[str, Any]],
    speed: Speed | None = None,
) -> Compared:
    """Return two experiments side by side; nothing is written.

    Args:
        first: that of which everything is taken to be stored.
        second: that which would be run after it.
        settings: of both files, with their defaults.
        speed: says how long a model takes; see `plan`.
    """
    first, second = first.looked_at(), second.looked_at()
    snapshots = [current_snapshot(one.graph[RAW_CORPUS], one.store)[0] for one in (first, second)]
    known = [
        None if snapshot is None else pipeline.fingerprints(snapshot)
        for pipeline, snapshot in zip((first, second), snapshots, strict=True)
    ]
    addresses = [_addresses(one, seen) for one, seen in zip((first, second), known, strict=True)]
    if None in known:
        addresses = [_addresses(one, None) for one in (first, second)]
    of_first, of_second = addresses
    stored = set(of_first.values())
    shared = [key for key, address in of_second.items() if address in stored]
    changed = {
        key: _reasons(known, key) for key, address in of_second.items() if address not in stored and key in of_first
    }
    gone = set(of_second.values())
    return Compared(
        settings=list(_differing(*settings)),
        shared=shared,
        changed=changed,
        only_first=[key for key, address in of_first.items() if key not in of_second and address not in gone],
        only_second=[key for key, address in of_second.items() if key not in of_first and address not in stored],
        is_by_fingerprint=None not in known,
        same_warehouse=first.store.root.resolve() == second.store.root.resolve(),
        cost=_cost_after(second, snapshots[1], shared, speed),
        losses=_losses(first, second),
    )


def _addresses(pipeline: Pipeline, known: Fingerprints | None) -> dict[str, tuple[str, str]]:
    """Return what tells the result of each asset from others: kind and fingerprint, or kind and definition."""
    if known is None:
        digests = definition_digests(pipeline.graph)
        return {key: (node.kind.name, digests[key]) for key, node in pipeline.graph.items()}
    return {key: (node.kind.name, known.recipe(key).fingerprint) for key, node in pipeline.graph.items()}


def _reasons(known: Sequence[Fingerprints | None], key: str) -> list[str]:
    """Say what differs between the results of an asset in both, where its fingerprints are known."""
    first, second = known
    if first is None or second is None:
        return []
    one, other = first.stored(key)[0], second.stored(key)[0]
    return list(differences(one.ingredients, other.ingredients))


def _differing(first: Mapping[str, Any], second: Mapping[str, Any], where: str = "") -> Iterator[Difference]:
    """Go through the settings that differ; a section that only one has is one difference."""
    for name in dict.fromkeys([*first, *second]):
        place = f"{where}.{name}" if where else name
        before, after = first.get(name), second.get(name)
        if before == after and (name in first) == (name in second):
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _differing(before, after, place)
        else:
            yield Difference(
                place=place, first=before if name in first else NOTHING, second=after if name in second else NOTHING
            )


def _cost_after(
    second: Pipeline, snapshot: Snapshot | None, shared: Sequence[str], speed: Speed | None
) -> list[PlannedAsset]:
    """Return what is to be done of an experiment but for what another one has made."""
    had = set(shared)
    return [one for one in plan_on(second, snapshot, speed) if not one.is_complete and one.key not in had]


def _losses(first: Pipeline, second: Pipeline) -> dict[str, tuple[float | None, float | None]]:
    before, after = _mean_losses(first), _mean_losses(second)
    return {name: (before.get(name), after.get(name)) for name in dict.fromkeys([*before, *after])}


def _mean_losses(pipeline: Pipeline) -> dict[str, float]:
    """Return the held-out loss of each student, the mean of its seeds; nothing where no comparison is stored."""
    if COMPARISON not in pipeline.graph:
        return {}
    try:
        rows = outcome_of(pipeline).students
    except MissingResultError:
        return {}
    losses: dict[str, list[float]] = {}
    for row in rows:
        if row.get(LOSS) is not None:
            losses.setdefault(row["student"], []).append(row[LOSS])
    return {name: fmean(of_seeds) for name, of_seeds in losses.items()}
