"""What a run would do, before anybody pays for it: what is stored, what is missing and why, and its cost.

Every fingerprint follows from the experiment file and the corpus, so nothing is run for it. A corpus on this
machine is taken as it is now, another one as it was seen last. Where it has never been seen, nothing of it can be
stored, and the size comes from the experiment file (`corpus.expected_tokens`) or stays unknown. A plan writes nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from miniplm_assets.core.errors import ExperimentError
from miniplm_assets.core.recipe import Recipe
from miniplm_assets.lineage.earlier import EarlierResults
from miniplm_assets.lineage.fingerprints import RAW_CORPUS, Fingerprints
from miniplm_assets.lineage.graph import Graph
from miniplm_assets.lineage.kind import EVERY_SHARD, Cost, Node
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.sizes import Sizes
from miniplm_assets.lineage.snapshot import Snapshot, current_snapshot
from miniplm_assets.lm.device_speed import ModelPass
from miniplm_assets.storage.manifest import Manifest
from miniplm_assets.storage.store import Store

# What one H100-class device sustains in bf16, about 40 % of its peak.
ACCELERATOR_FLOPS_PER_SECOND: Final = 4e14

# What is trained here before the corpus is scored.
LEARNING_SECTIONS: Final = ("tokenizer", "teacher", "reference")
# How many seconds tokens take to go through a model.
Speed: TypeAlias = Callable[[ModelPass], float]


@dataclass(frozen=True, kw_only=True)
class PlannedAsset:
    """What would happen to one asset.

    Attributes:
        key: the asset.
        num_stored: results that are there: files or seeds of an asset in pieces, else one.
        num_missing: results that would be computed; None where the corpus is unknown.
        reasons: why, against the nearest stored result, a line each; of `raw_corpus`, also what the plan rests on; and
            what a pre_filter or a proxy spares, and what the result will be able to tell.
        num_tokens: tokens that would go through a model; None where unknown or none do.
        flops: floating-point operations of that; None where unknown.
        seconds: estimate, from earlier results of the same shape, or else by the speed of a device.
        is_measured: whether the seconds come from earlier results.
        num_bytes: disk that it would take; None where unknown.
        problems: why it cannot be made, as far as its settings say.
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
    problems: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether there is nothing to do."""
        return self.num_missing == 0


def plan(pipeline: Pipeline, speed: Speed | None = None) -> list[PlannedAsset]:
    """Return what materialising the whole experiment would do, asset by asset; nothing is written.

    Args:
        pipeline: the experiment.
        speed: says how long a model takes, where no earlier result tells; without it nobody knows.

    Raises:
        ModelError: if a folder that the experiment names is not there, or not what its files say.
    """
    snapshot, why_not_now = current_snapshot(pipeline.graph[RAW_CORPUS], pipeline.store)
    planned = plan_on(pipeline.looked_at(), snapshot, speed)
    if why_not_now is None:
        return planned
    return [replace(one, reasons=(why_not_now, *one.reasons)) if one.key == RAW_CORPUS else one for one in planned]


def plan_on(pipeline: Pipeline, snapshot: Snapshot | None, speed: Speed | None = None) -> list[PlannedAsset]:
    """Return what materialising the whole experiment would do on one state of the corpus; None: it is unknown."""
    fingerprints = None if snapshot is None else pipeline.fingerprints(snapshot)
    planning = _Planning(
        fingerprints=fingerprints,
        sizes=Sizes(pipeline, snapshot, fingerprints),
        earlier=None if fingerprints is None else EarlierResults(pipeline, fingerprints),
        store=pipeline.store,
        speed=speed,
    )
    return [planning.planned(node) for node in pipeline.graph.values()]


def require_possible(planned: Iterable[PlannedAsset]) -> None:
    """Make sure, before anything is paid for, that what is missing can be made as far as its settings say.

    Raises:
        ExperimentError: with everything that cannot, asset by asset.
    """
    problems = [f"{one.key}: {problem}" for one in planned for problem in one.problems]
    if problems:
        raise ExperimentError("\n".join(["the experiment cannot be made as it stands:", *problems]))


def remade_by_a_new_file(graph: Graph) -> dict[str, list[str]]:
    """Return the models and tokenizers that a new corpus file makes other ones, each with what it then makes anew.

    They are trained here on every file, while what needs them is stored file by file.

    Returns:
        Keys of assets with a result for each corpus file, by the key of what they need.
    """
    remade: dict[str, list[str]] = {}
    for node in graph.values():
        learns_from_all = node.shards == EVERY_SHARD and any(
            graph[key].kind.pieces == "shard" for key in node.inputs.values()
        )
        if node.kind.section in LEARNING_SECTIONS and node.kind.pieces is None and learns_from_all:
            remade[node.key] = [key for key in _made_from(graph, node.key) if graph[key].kind.pieces == "shard"]
    return remade


def _made_from(graph: Graph, key: str) -> list[str]:
    """Return what is made from an asset, by way of others too; the graph has inputs before what needs them."""
    made = {key: None}
    for other in graph.values():
        if not made.keys().isdisjoint(other.inputs.values()):
            made[other.key] = None
    return list(made)[1:]


def missing_recipes(store: Store, fingerprints: Fingerprints, key: str) -> list[Recipe]:
    """Return the recipes of an asset that have no stored result: one a piece where it has pieces."""
    return [recipe for recipe in fingerprints.stored(key) if not store.holds(recipe)]


@dataclass(frozen=True, kw_only=True)
class _Planning:
    """What a plan rests on; without fingerprints, the corpus is unknown."""

    fingerprints: Fingerprints | None
    sizes: Sizes
    earlier: EarlierResults | None
    store: Store
    speed: Speed | None

    def planned(self, node: Node[Any]) -> PlannedAsset:
        """Return what would happen to one asset."""
        if self.fingerprints is None or self.earlier is None:
            cost = _cost(node, self.sizes, None)
            return self._described(node, cost, num_stored=0, num_missing=None)
        absent = missing_recipes(self.store, self.fingerprints, node.key)
        num_stored = len(self.fingerprints.stored(node.key)) - len(absent)
        if not absent:
            return PlannedAsset(key=node.key, num_stored=num_stored, num_missing=0)
        cost = _cost(node, self.sizes, self._missing_pieces(node, absent))
        return self._described(
            node,
            cost,
            num_stored=num_stored,
            num_missing=len(absent),
            reasons=tuple(reasons_of(absent, self.earlier.of(node.key))),
            measured=self.earlier.seconds(node, absent, cost),
        )

    def _missing_pieces(self, node: Node[Any], absent: list[Recipe]) -> list[str] | None:
        if node.kind.pieces is None or self.fingerprints is None:
            return None
        missing = {recipe.fingerprint for recipe in absent}
        pieces = self.fingerprints.pieces(node.key)
        return [piece for piece, recipe in pieces.items() if recipe.fingerprint in missing]

    def _described(
        self,
        node: Node[Any],
        cost: Cost,
        *,
        num_stored: int,
        num_missing: int | None,
        reasons: tuple[str, ...] = (),
        measured: float | None = None,
    ) -> PlannedAsset:
        seconds = measured
        if seconds is None and self.speed is not None and cost.passes:
            seconds = sum(map(self.speed, cost.passes))
        return PlannedAsset(
            key=node.key,
            num_stored=num_stored,
            num_missing=num_missing,
            reasons=(*reasons, *_spared(cost), *self._outlook(node)),
            num_tokens=cost.num_tokens,
            flops=cost.flops,
            seconds=seconds,
            is_measured=measured is not None,
            num_bytes=cost.num_bytes,
            problems=() if node.kind.problems is None else tuple(node.kind.problems(node, self.sizes)),
        )

    def _outlook(self, node: Node[Any]) -> Iterator[str]:
        return iter(()) if node.kind.outlook is None else node.kind.outlook(node, self.sizes)


def _spared(cost: Cost) -> Iterator[str]:
    """Say what a pre_filter or a proxy spares."""
    if cost.spared_flops and cost.flops is not None:
        whole = cost.flops + cost.spared_flops
        share = cost.spared_flops / whole
        yield f"its {cost.spared_by} spares {cost.spared_flops:.3g} of {whole:.3g} FLOPs ({share:.0%})"


def _cost(node: Node[Any], sizes: Sizes, pieces: list[str] | None) -> Cost:
    return Cost() if node.kind.cost is None else node.kind.cost(node, sizes, pieces)


def reasons_of(absent: list[Recipe], earlier: list[Manifest]) -> Iterator[str]:
    """Say what differs from the nearest stored result, by name and value.

    Args:
        absent: the recipes of what is not stored.
        earlier: everything that is stored of the same asset.
    """
    if not earlier:
        yield "never computed"
        return
    by_shard: dict[str | None, list[Manifest]] = {}
    for manifest in earlier:
        by_shard.setdefault(manifest.ingredients.get("shard"), []).append(manifest)
    told: dict[str, int] = {}
    for recipe in absent:
        same_shard = by_shard.get(recipe.shard)
        if same_shard is None:
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
