"""What a run would do, before anybody pays for it: what is stored, what is missing and why, and its cost.

Every fingerprint follows from the experiment file and the corpus, so nothing is run for it. A corpus on this
machine is taken as it is now, another one as it was seen last. Where it has never been seen, nothing of it can be
stored, and the size comes from the experiment file (`corpus.expected_tokens`) or stays unknown.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from miniplm_assets.core.errors import ExperimentError
from miniplm_assets.core.facts import model_tokens
from miniplm_assets.core.recipe import Recipe
from miniplm_assets.lineage.fingerprints import RAW_CORPUS, Fingerprints
from miniplm_assets.lineage.kind import Cost, Node
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.sizes import Sizes
from miniplm_assets.lineage.snapshot import Snapshot, current_snapshot
from miniplm_assets.storage.manifest import Manifest
from miniplm_assets.storage.store import Store

# What one H100-class device sustains in bf16, about 40 % of its peak; the base of GPU-hours where nothing was measured.
ASSUMED_FLOPS_PER_SECOND = 4e14


@dataclass(frozen=True, kw_only=True)
class PlannedAsset:
    """What would happen to one asset.

    Attributes:
        key: the asset.
        num_stored: results that are there: files or seeds of an asset in pieces, else one.
        num_missing: results that would be computed; None where the corpus is unknown.
        reasons: why, against the nearest stored result, a line each; of `raw_corpus`, also what the plan rests on.
        num_tokens: tokens that would go through a model; None where unknown or none do.
        flops: floating-point operations of that; None where unknown.
        seconds: estimate, from earlier results of the same asset or from `ASSUMED_FLOPS_PER_SECOND`.
        is_measured: whether the seconds come from earlier results.
        num_bytes: disk that it would take; None where unknown.
    """

    key: str
    num_stored: int
    num_missing: int | None
    reasons: tuple[str, ...] = ()
    num_tokens: int | None = None
    flops: int | None = None
    seconds: float | None = None
    is_measured: bool = False
    num_bytes: int | None = None

    @property
    def is_complete(self) -> bool:
        """Whether there is nothing to do."""
        return self.num_missing == 0


def plan(pipeline: Pipeline, report: Callable[[str], None] = print) -> list[PlannedAsset]:
    """Return what materialising the whole experiment would do, asset by asset.

    Args:
        pipeline: the experiment.
        report: takes a line of progress.

    Raises:
        ModelError: if a folder that the experiment names is not there.
    """
    snapshot, why_not_now = current_snapshot(pipeline.graph[RAW_CORPUS], pipeline.store, report)
    planned = plan_on(pipeline, snapshot)
    if why_not_now is None:
        return planned
    return [replace(one, reasons=(why_not_now, *one.reasons)) if one.key == RAW_CORPUS else one for one in planned]


def plan_on(pipeline: Pipeline, snapshot: Snapshot | None) -> list[PlannedAsset]:
    """Return what materialising the whole experiment would do on one state of the corpus; None: it is unknown."""
    fingerprints = None if snapshot is None else pipeline.fingerprints(snapshot)
    sizes = Sizes(pipeline, fingerprints)
    return [_planned(pipeline, fingerprints, sizes, node) for node in pipeline.graph.values()]


def require_possible(pipeline: Pipeline, planned: Iterable[PlannedAsset]) -> None:
    """Make sure, before anything is paid for, that what is missing can be made as far as its settings say.

    Raises:
        ExperimentError: with everything that cannot, asset by asset.
    """
    sizes = Sizes(pipeline, None)
    nodes = (pipeline.graph[one.key] for one in planned if not one.is_complete)
    problems = [
        f"{node.key}: {problem}"
        for node in nodes
        if node.kind.problems is not None
        for problem in node.kind.problems(node, sizes)
    ]
    if problems:
        raise ExperimentError("\n".join(["the experiment cannot be made as it stands:", *problems]))


def missing_recipes(store: Store, fingerprints: Fingerprints, key: str) -> list[Recipe]:
    """Return the recipes of an asset that have no stored result: one a piece where it has pieces."""
    return [recipe for recipe in fingerprints.stored(key) if store.find(recipe) is None]


def _planned(pipeline: Pipeline, fingerprints: Fingerprints | None, sizes: Sizes, node: Node[Any]) -> PlannedAsset:
    earlier: list[Manifest] = []
    missing, num_stored = None, 0
    reasons: tuple[str, ...] = ()
    if fingerprints is not None:
        absent = missing_recipes(pipeline.store, fingerprints, node.key)
        missing = len(absent)
        num_stored = len(fingerprints.stored(node.key)) - missing
        if not absent:
            return PlannedAsset(key=node.key, num_stored=num_stored, num_missing=0)
        earlier = [result.manifest for result in pipeline.store.results(node.key)]
        reasons = tuple(_reasons(absent, earlier))
    share = 1.0 if missing is None else missing / (missing + num_stored)
    cost = Cost() if node.kind.cost is None else node.kind.cost(node, sizes, share)
    measured = _measured_seconds(earlier, cost.num_tokens, missing)
    assumed = cost.flops / ASSUMED_FLOPS_PER_SECOND if cost.flops is not None else None
    return PlannedAsset(
        key=node.key,
        num_stored=num_stored,
        num_missing=missing,
        reasons=reasons,
        num_tokens=cost.num_tokens,
        flops=cost.flops,
        seconds=measured if measured is not None else assumed,
        is_measured=measured is not None,
        num_bytes=cost.num_bytes,
    )


def _reasons(absent: list[Recipe], earlier: list[Manifest]) -> Iterator[str]:
    """Say what differs from the nearest stored result, by name and value."""
    if not earlier:
        yield "never computed"
        return
    told: dict[str, int] = {}
    for recipe in absent:
        same_shard = [manifest for manifest in earlier if manifest.ingredients.get("shard") == recipe.shard]
        if not same_shard:
            told[f"new file {recipe.shard}"] = 1
            continue
        nearest = min((list(differences(manifest.ingredients, recipe.ingredients)) for manifest in same_shard), key=len)
        for difference in nearest:
            told[difference] = told.get(difference, 0) + 1
    for difference, num_results in told.items():
        yield difference if num_results == 1 else f"{difference} ({num_results} results)"


def differences(old: Mapping[str, Any], new: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """Yield what differs between the ingredients of two results, a line each."""
    for name in dict.fromkeys([*old, *new]):
        place = f"{where}.{name}" if where else name
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from differences(before, after, place)
        elif where.startswith("inputs"):
            role = place.removeprefix("inputs.")
            yield f"input {role} changed" if before and after else f"input {role} is {'new' if after else 'gone'}"
        else:
            # A setting at its default is not among the ingredients.
            was, now = (repr(one[name]) if name in one else "default" for one in (old, new))
            yield f"{place}: {was} -> {now}"


def _measured_seconds(earlier: list[Manifest], num_tokens: int | None, num_missing: int | None) -> float | None:
    """Scale what earlier results of the asset took: by tokens where a model runs, else by their number."""
    timed = [manifest for manifest in earlier if "pieces" not in manifest.facts]  # those only list what others hold
    if not timed or num_missing is None:
        return None
    seconds = sum(manifest.seconds for manifest in timed)
    tokens = sum(model_tokens(manifest.facts) for manifest in timed)
    if num_tokens is not None and tokens:
        return num_tokens * seconds / tokens
    return num_missing * seconds / len(timed)
