"""What is stored for the latest state of the corpus, for who shows it elsewhere: to a command, and to an asset."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Protocol

from miniplm_assets.lineage.fingerprints import Fingerprints
from miniplm_assets.lineage.kind import Node
from miniplm_assets.lineage.pipeline import Pipeline
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.store import Result


class Shelf(Protocol):
    """Where stored results are taken from, by the keys of their assets."""

    def fingerprint(self, key: str) -> str:
        """Return the fingerprint of a whole asset."""

    def result(self, key: str) -> Result:
        """Return the stored result of a whole asset.

        Raises:
            MissingResultError: if it has not been materialised; the message says what to run.
        """

    def of_seed(self, key: str, seed: int) -> Result:
        """Return the stored result of one seed of an asset.

        Raises:
            MissingResultError: if it has not been materialised; the message says what to run.
        """

    def of_stored_seeds(self, key: str) -> dict[int, Result]:
        """Return the results of those seeds of an asset that are stored."""


class StateResults:
    """All results of an experiment on one state of the corpus, whether they are stored or not.

    Args:
        pipeline: the experiment.
        fingerprints: on that state.
    """

    def __init__(self, pipeline: Pipeline, fingerprints: Fingerprints) -> None:
        self._store = pipeline.store
        self._fingerprints = fingerprints

    def fingerprint(self, key: str) -> str:  # noqa: D102 - as Shelf says
        return self._fingerprints.recipe(key).fingerprint

    def result(self, key: str) -> Result:  # noqa: D102
        return self._store.require(self._fingerprints.recipe(key))

    def of_seed(self, key: str, seed: int) -> Result:  # noqa: D102
        return self._store.require(self._fingerprints.pieces(key)[str(seed)])

    def of_stored_seeds(self, key: str) -> dict[int, Result]:  # noqa: D102
        found = {int(seed): self._store.find(recipe) for seed, recipe in self._fingerprints.pieces(key).items()}
        return {seed: result for seed, result in found.items() if result is not None}


class InputResults:
    """The inputs of an asset in a run, of which the key is the role; and the fingerprints of what is behind them.

    Args:
        work: the asset.
    """

    def __init__(self, work: Work[Any]) -> None:
        self._work = work

    def fingerprint(self, key: str) -> str:  # noqa: D102 - as Shelf says
        return self._work.fingerprints.recipe(key).fingerprint

    def result(self, key: str) -> Result:  # noqa: D102
        return self._work.input(key)

    def of_seed(self, key: str, seed: int) -> Result:  # noqa: D102
        return self.of_stored_seeds(key)[seed]

    def of_stored_seeds(self, key: str) -> dict[int, Result]:  # noqa: D102
        return {int(seed): result for seed, result in self._work.input_pieces(key).items()}


def behind(graph: Mapping[str, Node[Any]], key: str) -> list[Node[Any]]:
    """Return all assets that went into an asset, inputs before what needs them; it is none of them."""
    found: dict[str, Node[Any]] = {}

    def visit(one: str) -> None:
        for needed in graph[one].inputs.values():
            if needed not in found:
                visit(needed)
                found[needed] = graph[needed]

    visit(key)
    return list(found.values())


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
