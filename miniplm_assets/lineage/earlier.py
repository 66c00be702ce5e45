"""How long an asset would take, by what earlier results of the same shape took: its own, and those of others.

The scores of a pilot tell how long all scores take, one student how long its pair. Another architecture tells nothing.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

from miniplm_assets.core.facts import PIECES, model_tokens
from miniplm_assets.core.recipe import Recipe, canonical_json
from miniplm_assets.lineage.fingerprints import Fingerprints
from miniplm_assets.lineage.kind import Cost, Node
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.storage.manifest import Manifest

# The inputs that are a model which is run, not trained.
MODEL_ROLES: Final = ("model", "student_checkpoint")


class EarlierResults:
    """What the results of a warehouse took.

    Args:
        pipeline: the experiment.
        fingerprints: of its results on the present state of the corpus.
    """

    def __init__(self, pipeline: Pipeline, fingerprints: Fingerprints) -> None:
        self._pipeline = pipeline
        self._fingerprints = fingerprints
        self.of = cache(self._of)
        self._model = cache(self._find_model)

    def _of(self, key: str) -> list[Manifest]:
        """Return the manifests of everything that is stored of an asset."""
        # One that cannot be read tells no time; whoever needs it says what is wrong.
        return [result.manifest for result in self._pipeline.store.results(key, on_problem=lambda _problem: None)]

    def seconds(self, node: Node[Any], missing: list[Recipe], cost: Cost) -> float | None:
        """Return how long some results would take; None where nothing like them is stored.

        Args:
            node: the asset.
            missing: the recipes of what would be computed.
            cost: of that.
        """
        if cost.num_tokens is None:  # no model: one result is taken to be like the other
            timed = [manifest for manifest in self.of(node.key) if not _only_lists(manifest)]
            return len(missing) * sum(one.seconds for one in timed) / len(timed) if timed else None
        alike = list(self._alike(node, missing[0].ingredients, cost))
        tokens = sum(model_tokens(manifest.facts) for manifest in alike)
        return cost.num_tokens * sum(manifest.seconds for manifest in alike) / tokens if tokens else None

    def _alike(self, node: Node[Any], ingredients: Mapping[str, Any], cost: Cost) -> Iterator[Manifest]:
        """Go through all results for which a model of the same shape was run, or trained."""
        wanted = self._shape(node, ingredients)
        for other in self._pipeline.graph.values():
            if other.kind.cost is None or _is_run(other) != _is_run(node):
                continue
            for manifest in self.of(other.key):
                is_timed = not _only_lists(manifest) and model_tokens(manifest.facts)
                if is_timed and self._shape(other, manifest.ingredients) == wanted:
                    # A tokenizer of another size, which training alone tells, is another model too.
                    stated = [one.num_parameters for one in cost.passes[:1]]
                    if manifest.facts.get("num_parameters") in (None, *stated) or not stated:
                        yield manifest

    def _shape(self, node: Node[Any], ingredients: Mapping[str, Any]) -> str | None:
        """Return what decides how long a token takes: the model, what is done with it, and in which dtype."""
        settings = ingredients["settings"]
        role = next((role for role in MODEL_ROLES if role in node.inputs), None)
        if role is None:
            return canonical_json([settings.get("architecture"), settings.get("training", {}).get("dtype")])
        model = self._model(node.inputs[role], ingredients["inputs"].get(role))
        how = settings.get("scoring") or settings.get("decoding", {})
        # To write a token takes another time than to read one.
        shape = [model, how.get("backend"), how.get("dtype"), settings.get("prompt_tokens")]
        return None if model is None else canonical_json(shape)

    def _find_model(self, key: str, fingerprint: str) -> Any:
        """Return what tells one model from another: its architecture, or where it is from; None where nobody knows."""
        recipes = {recipe.fingerprint: recipe.ingredients for recipe in self._fingerprints.stored(key)}
        ingredients = recipes.get(fingerprint)
        if ingredients is None:
            found = self._pipeline.store.lookup(key, self._pipeline.graph[key].kind.name, fingerprint)
            if found is None:
                return None
            ingredients = found.manifest.ingredients
        return ingredients["settings"].get("architecture", ingredients["settings"])


def _is_run(node: Node[Any]) -> bool:
    return any(role in node.inputs for role in MODEL_ROLES)


def _only_lists(manifest: Manifest) -> bool:
    """Whether a result only lists what others hold."""
    return PIECES in manifest.facts
