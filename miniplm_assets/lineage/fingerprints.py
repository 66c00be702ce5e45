"""The fingerprint of every result of an experiment, on one state of its corpus.

Nothing has to run for it: a fingerprint follows from the graph and the content of the corpus files.
"""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from miniplm_assets.core.errors import CorpusError
from miniplm_assets.core.identity import SHARD_BITS
from miniplm_assets.core.recipe import Recipe
from miniplm_assets.lineage.graph import EVERY_SHARD, RAW_CORPUS, Node


class Fingerprints:
    """Recipes of all results.

    Args:
        graph: the nodes by key.
        shards: the content fingerprint of each corpus file, by its name.
        folder_fingerprint: gives the content fingerprint of what a step reads of a local folder.
    """

    def __init__(
        self, graph: Mapping[str, Node], shards: Mapping[str, str], folder_fingerprint: Callable[[str, Path], str]
    ) -> None:
        self.graph = graph
        self.shards = dict(shards)
        self._folder_fingerprint = folder_fingerprint
        self.recipe = cache(self._recipe)
        self.shard_recipes = cache(self._shard_recipes)

    def matching_shards(self, node: Node) -> list[str]:
        """Return the corpus files that a node reads.

        Raises:
            CorpusError: if its patterns match none.
        """
        found = [shard for shard in self.shards if any(fnmatchcase(shard, pattern) for pattern in node.shards)]
        if not found:
            raise CorpusError(
                f"{node.key}: no corpus file matches shards: {', '.join(node.shards)}; "
                f"there are {', '.join(self.shards) or 'none'}"
            )
        return found

    def _recipe(self, key: str) -> Recipe:
        node = self.graph[key]
        if node.is_by_shard:
            return self._whole(node, self.matching_shards(node))
        settings = dict(node.settings)
        if node.folder is not None:
            settings["content"] = self._folder_fingerprint(node.step, node.folder)
        inputs = {role: self._input_fingerprint(node, self.graph[needed]) for role, needed in node.inputs.items()}
        return Recipe(key=key, code_version=node.code_version, settings=settings, inputs=inputs)

    def _input_fingerprint(self, node: Node, needed: Node) -> str:
        if needed.is_by_shard and node.shards != EVERY_SHARD:
            return self._whole(needed, self.matching_shards(node)).fingerprint
        return self.recipe(needed.key).fingerprint

    def _whole(self, node: Node, shards: list[str]) -> Recipe:
        """Return the recipe of a by-shard asset over some of the corpus files: it holds nothing but theirs."""
        if node.key == RAW_CORPUS:
            return Recipe(
                key=node.key,
                code_version=node.code_version,
                settings=dict(node.settings),
                inputs={shard: self.shards[shard] for shard in shards},
            )
        recipes = self.shard_recipes(node.key)
        return Recipe(
            key=node.key,
            code_version=node.code_version,
            inputs={shard: recipes[shard].fingerprint for shard in shards},
        )

    def _shard_recipes(self, key: str) -> dict[str, Recipe]:
        """Return the recipe of each corpus file's own result.

        Raises:
            CorpusError: if the ids of two shards would meet.
        """
        node = self.graph[key]
        recipes = {shard: self._shard_recipe(node, shard) for shard in self.shards}
        by_prefix: dict[str, str] = {}
        for shard, recipe in recipes.items():
            other = by_prefix.setdefault(recipe.fingerprint[: SHARD_BITS // 4], shard)
            if other != shard:
                raise CorpusError(
                    f"{key}: shards {other} and {shard} would share ids; rename either file to give it others"
                )
        return recipes

    def _shard_recipe(self, node: Node, shard: str) -> Recipe:
        inputs = {}
        for role, key in node.inputs.items():
            needed = self.graph[key]
            if key == RAW_CORPUS:
                inputs[role] = self.shards[shard]
            elif needed.is_by_shard:
                inputs[role] = self.shard_recipes(key)[shard].fingerprint
            else:
                inputs[role] = self.recipe(key).fingerprint
        return Recipe(
            key=node.key, code_version=node.code_version, settings=dict(node.settings), inputs=inputs, shard=shard
        )
