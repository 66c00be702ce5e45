"""What is stored for the latest state of the corpus, and what each result comes from, for who shows it elsewhere."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from miniplm_assets.lineage.kind import Node
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.publishing.provenance import Ancestor, Provenance, PublishedFile
from miniplm_assets.storage.store import Result


class Origins:
    """The stored results of an experiment.

    Args:
        pipeline: the experiment.

    Raises:
        MissingResultError: if nobody has looked at the corpus yet.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.graph = pipeline.graph
        self._store = pipeline.store
        self._fingerprints = pipeline.latest_fingerprints()

    def result(self, key: str) -> Result:
        """Return the stored result of a whole asset.

        Raises:
            MissingResultError: if it has not been materialised; the message says what to run.
        """
        return self._store.require(self._fingerprints.recipe(key))

    def of_seed(self, key: str, seed: int) -> Result:
        """Return the stored result of one seed of an asset.

        Raises:
            MissingResultError: if it has not been materialised; the message says what to run.
        """
        return self._store.require(self._fingerprints.pieces(key)[str(seed)])

    def stored_seeds(self, key: str) -> dict[int, Result]:
        """Return the results of those seeds of an asset that are stored."""
        found = {int(seed): self._store.find(recipe) for seed, recipe in self._fingerprints.pieces(key).items()}
        return {seed: result for seed, result in found.items() if result is not None}

    def behind(self, key: str) -> list[Node[Any]]:
        """Return all assets that went into an asset, in the order of the graph: inputs first; it is none of them."""
        needed: set[str] = set()
        waiting = set(self.graph[key].inputs.values())
        while waiting:
            needed |= waiting
            waiting = {before for one in waiting for before in self.graph[one].inputs.values()} - needed
        return [node for one, node in self.graph.items() if one in needed]

    def provenance(self, key: str, result: Result, names: Mapping[str, str]) -> Provenance:
        """Return where a result comes from.

        Args:
            key: of the asset.
            result: of it, or of one of its seeds.
            names: of those of its files that are published, by their names as they are stored.
        """
        manifest = result.manifest
        return Provenance(
            key=key,
            fingerprint=manifest.fingerprint,
            created_at=manifest.created_at,
            versions=manifest.versions,
            files=tuple(
                PublishedFile(
                    name=names[file.name],
                    stored_as=file.name,
                    num_bytes=file.num_bytes,
                    sha256=file.sha256,
                    num_rows=file.num_rows,
                )
                for file in manifest.files
                if file.name in names
            ),
            ancestors=tuple(self._ancestor(node) for node in [*self.behind(key), self.graph[key]]),
        )

    def _ancestor(self, node: Node[Any]) -> Ancestor:
        return Ancestor(
            key=node.key,
            fingerprint=self._fingerprints.recipe(node.key).fingerprint,
            code_version=node.kind.code_version,
            settings=without_local_places(node.settings.identity()),
            inputs=node.inputs,
        )


def without_local_places(value: Any) -> Any:
    """Return a JSON value in which each absolute path is its last part: the rest is nobody else's business."""
    match value:
        case str() if value.startswith("/"):
            return PurePosixPath(value).name
        case dict():
            return {name: without_local_places(inner) for name, inner in value.items()}
        case list():
            return [without_local_places(inner) for inner in value]
        case _:
            return value
