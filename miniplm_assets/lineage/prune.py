"""What the warehouse holds that no experiment asks for any more."""

from collections.abc import Sequence
from pathlib import Path

from miniplm_assets.experiment import DemoSource
from miniplm_assets.lineage.graph import RAW_CORPUS
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.snapshot import demo_recipe, latest_snapshot
from miniplm_assets.storage.store import Result, Store


def unreferenced_results(store: Store, pipelines: Sequence[Pipeline]) -> list[Result]:
    """Return the stored results that none of the experiments refers to, on the latest state of its corpus.

    Raises:
        MissingResultError: if the corpus of one has never been looked at, so that its results are unknown.
    """
    wanted = {address for pipeline in pipelines for address in _referenced(pipeline)}
    return [result for result in store.results() if (result.manifest.key, result.manifest.fingerprint) not in wanted]


def leftovers(store: Store) -> list[Path]:
    """Return the work folders of results that were begun and never finished."""
    return sorted(path for path in store.root.glob("**/.work-*") if path.is_dir())


def _referenced(pipeline: Pipeline) -> set[tuple[str, str]]:
    fingerprints = pipeline.fingerprints(latest_snapshot(pipeline.graph[RAW_CORPUS], pipeline.store))
    recipes = [fingerprints.recipe(key) for key in pipeline.graph]
    for key, node in pipeline.graph.items():
        if node.is_stored_by_shard:
            recipes.extend(fingerprints.shard_recipes(key).values())
    source = pipeline.experiment.corpus.source
    if isinstance(source, DemoSource):
        recipes.append(demo_recipe(source))
    return {(recipe.key, recipe.fingerprint) for recipe in recipes}
