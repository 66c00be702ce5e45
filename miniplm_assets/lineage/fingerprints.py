"""The fingerprint of every result of an experiment, on one state of its corpus.

Nothing has to run for it: a fingerprint follows from the graph and the content of the corpus files.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, Final

from miniplm_assets.core.errors import CorpusError, ModelError
from miniplm_assets.core.identity import SHARD_BITS
from miniplm_assets.core.recipe import Recipe
from miniplm_assets.lineage.graph import Graph
from miniplm_assets.lineage.kind import EVERY_SHARD, Node

RAW_CORPUS: Final = "raw_corpus"
# The role of the piece of the file before, where pieces read those before them: by that one, it rests on all of them.
PIECE_BEFORE: Final = "piece_before"


class Fingerprints:
    """Recipes of all results.

    Args:
        graph: the nodes by key.
        shards: the content fingerprint of each corpus file, by its name.
        folder_fingerprint: gives the content fingerprint of what is read of the local folder of a node.
    """

    def __init__(self, graph: Graph, shards: Mapping[str, str], folder_fingerprint: Callable[[Node[Any]], str]) -> None:
        self.graph = graph
        self.shards = dict(shards)
        self._folder_fingerprint = folder_fingerprint
        self._folders: dict[str, str] = {}
        self.recipe = cache(self._recipe)
        self.pieces = cache(self._pieces)

    def matching_shards(self, node: Node[Any]) -> list[str]:
        """Return the corpus files that a node reads.

        Raises:
            CorpusError: if its patterns match none.
        """
        if node.shards == EVERY_SHARD and self.shards:
            return list(self.shards)
        found = [shard for shard in self.shards if any(fnmatchcase(shard, pattern) for pattern in node.shards)]
        if not found:
            raise CorpusError(
                f"{node.key}: no corpus file matches shards: {', '.join(node.shards)}; "
                f"there are {', '.join(self.shards) or 'none'}"
            )
        return found

    @property
    def still_hold(self) -> bool:
        """Whether the local folders that they rest on have the content that they had."""
        try:
            # A copy: another thread may work out more meanwhile.
            known = list(self._folders.items())
            return all(self._folder_fingerprint(self.graph[key]) == content for key, content in known)
        except (ModelError, OSError):
            return False

    def stored(self, key: str) -> list[Recipe]:
        """Return the recipes of what is computed for an asset: of each of its pieces, or of the whole."""
        return list(self.pieces(key).values()) if self.graph[key].kind.pieces else [self.recipe(key)]

    def _recipe(self, key: str) -> Recipe:
        """Return the recipe of a whole asset. One in pieces holds nothing but theirs."""
        node = self.graph[key]
        if key == RAW_CORPUS:
            return self._listing(node, self.matching_shards(node))
        if node.kind.pieces is not None:
            return self._whole(node, list(self.pieces(key)))
        settings = node.settings.identity()
        if node.folder is not None:
            settings["content"] = self._folders[key] = self._folder_fingerprint(node)
        inputs = {role: self._input_fingerprint(node, self.graph[needed]) for role, needed in node.inputs.items()}
        return _recipe_of(node, settings=settings, inputs=inputs)

    def _input_fingerprint(self, node: Node[Any], needed: Node[Any]) -> str:
        if needed.kind.pieces == "shard" and node.shards != EVERY_SHARD:
            return self._whole(needed, self.matching_shards(node)).fingerprint
        return self.recipe(needed.key).fingerprint

    def _listing(self, node: Node[Any], shards: list[str]) -> Recipe:
        inputs = {shard: self.shards[shard] for shard in shards}
        return _recipe_of(node, settings=node.settings.identity(), inputs=inputs)

    def _whole(self, node: Node[Any], names: list[str]) -> Recipe:
        """Return the recipe of an asset over some of its pieces."""
        pieces = self.pieces(node.key)
        return _recipe_of(node, settings={}, inputs={name: pieces[name].fingerprint for name in names})

    def _pieces(self, key: str) -> dict[str, Recipe]:
        """Return the recipe of each piece of an asset: by the name of the corpus file, or by the seed.

        Raises:
            CorpusError: if the ids of two corpus files would meet.
        """
        node = self.graph[key]
        if node.kind.pieces == "seed":
            return {str(seed): self._seed(node, seed) for seed in node.seeds}
        if node.reads_earlier_pieces:
            in_order = self._each_on_the_one_before(node)
            recipes = {shard: in_order[shard] for shard in self.shards}
        else:
            recipes = self._each_alone(node, self.shards)
        by_prefix: dict[str, str] = {}
        for shard, recipe in recipes.items():
            other = by_prefix.setdefault(recipe.fingerprint[: SHARD_BITS // 4], shard)
            if other != shard:
                raise CorpusError(
                    f"{key}: shards {other} and {shard} would share ids; rename either file to give it others"
                )
        return recipes

    def _each_on_the_one_before(self, node: Node[Any]) -> dict[str, Recipe]:
        recipes: dict[str, Recipe] = {}
        before: dict[str, str] = {}
        for shard, alone in self._each_alone(node, sorted(self.shards)).items():
            recipes[shard] = replace(alone, inputs={**alone.inputs, **before})
            before = {PIECE_BEFORE: recipes[shard].fingerprint}
        return recipes

    def _each_alone(self, node: Node[Any], shards: Iterable[str]) -> dict[str, Recipe]:
        """Return the recipe of each corpus file; what is the same for all is worked out once."""
        settings = node.settings.identity()
        same: dict[str, str] = {}
        of_each: dict[str, dict[str, Recipe]] = {}
        for role, key in node.inputs.items():
            if self.graph[key].kind.pieces == "shard":
                of_each[role] = self.pieces(key)
            elif key != RAW_CORPUS:
                same[role] = self.recipe(key).fingerprint

        def inputs_of(shard: str) -> dict[str, str]:
            own = {role: pieces[shard].fingerprint for role, pieces in of_each.items()}
            return {role: own.get(role) or same.get(role) or self.shards[shard] for role in node.inputs}

        return {shard: _recipe_of(node, settings=settings, inputs=inputs_of(shard), shard=shard) for shard in shards}

    def _seed(self, node: Node[Any], seed: int) -> Recipe:
        def input_of(key: str) -> str:
            in_pieces = self.graph[key].kind.pieces == "seed"
            return (self.pieces(key)[str(seed)] if in_pieces else self.recipe(key)).fingerprint

        inputs = {role: input_of(key) for role, key in node.inputs.items()}
        return _recipe_of(node, settings={**node.settings.identity(), "seed": seed}, inputs=inputs)


def _recipe_of(
    node: Node[Any], *, settings: Mapping[str, Any], inputs: Mapping[str, str], shard: str | None = None
) -> Recipe:
    return Recipe(
        kind=node.kind.name,
        names=node.names,
        code_version=node.kind.code_version,
        settings=settings,
        inputs=inputs,
        shard=shard,
    )
