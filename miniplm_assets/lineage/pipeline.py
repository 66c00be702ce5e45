"""One experiment, opened: its graph and the store. What the assets and the commands work on."""

from dataclasses import dataclass, field, replace
from typing import Literal

from miniplm_assets.experiment.automation import Automation
from miniplm_assets.lineage.fingerprints import RAW_CORPUS, Fingerprints
from miniplm_assets.lineage.folders import FolderFingerprints
from miniplm_assets.lineage.graph import Graph
from miniplm_assets.lineage.snapshot import Snapshot, latest_snapshot
from miniplm_assets.storage.store import Store


@dataclass(frozen=True)
class Pipeline:
    """The nodes of one experiment by key, and the warehouse that holds their results.

    Attributes:
        graph: the nodes by key.
        store: the warehouse.
        automation: when what runs by itself looks, and asks for a run.
        takes_notes: whether the store keeps by what local folders were known, so that they are not read again.
        key_prefix: what the keys that Dagster shows begin with, so that several experiments stand side by side in one
            instance; no key of the store has it, so that they share results.
        models_at_once: how many models are trained or run side by side; see `Experiment`.
    """

    graph: Graph
    store: Store
    automation: Automation = field(default_factory=Automation)
    takes_notes: bool = True
    key_prefix: tuple[str, ...] = ()
    models_at_once: int | Literal["auto"] = "auto"
    _worked_out: dict[str, Fingerprints] = field(init=False, repr=False, compare=False, default_factory=dict)

    def looked_at(self) -> "Pipeline":
        """Return the same for somebody who only looks: nothing is written."""
        return replace(self, takes_notes=False)

    def fingerprints(self, snapshot: Snapshot | None) -> Fingerprints:
        """Return the recipes of all results on one state of the corpus; without one, of those that need none."""
        state = "" if snapshot is None else snapshot.recipe.fingerprint
        known = self._worked_out.get(state)
        # For each asset of a run the same: of 100,000 corpus files they take seconds to work out.
        if known is not None and known.still_hold:
            return known
        seen = () if snapshot is None else snapshot.shards
        found = Fingerprints(
            self.graph,
            {shard.name: shard.fingerprint for shard in seen},
            FolderFingerprints(self.store, takes_notes=self.takes_notes),
        )
        for other in self._worked_out.keys() - {"", state}:  # a process that lives for weeks sees many states
            self._worked_out.pop(other, None)
        self._worked_out[state] = found
        return found

    def latest_fingerprints(self) -> Fingerprints:
        """Return the recipes of all results on the state of the corpus that was seen last.

        Raises:
            MissingResultError: if nobody has looked at it yet.
        """
        return self.fingerprints(latest_snapshot(self.graph[RAW_CORPUS], self.store))
