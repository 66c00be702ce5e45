"""One experiment, opened: the file, its graph, the SQL, the store. What the assets and the commands work on."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from miniplm_assets.experiment import Experiment, load_experiment
from miniplm_assets.lineage.fingerprints import Fingerprints
from miniplm_assets.lineage.folders import FolderFingerprints
from miniplm_assets.lineage.graph import Node, build_graph
from miniplm_assets.lineage.snapshot import Snapshot
from miniplm_assets.storage.sql_project import SqlProject, load_sql_project
from miniplm_assets.storage.store import Store

PROJECT = Path(__file__).parents[2]
# The environment: which experiment file, and a warehouse in place of the file's own.
EXPERIMENT_VARIABLE = "MINIPLM_EXPERIMENT"
WAREHOUSE_VARIABLE = "MINIPLM_WAREHOUSE"


@dataclass(frozen=True)
class Pipeline:
    """One experiment with everything that is needed to work on it."""

    DEMO: ClassVar[Path] = PROJECT / "experiments" / "demo.yaml"

    experiment: Experiment
    sql: SqlProject
    store: Store

    @classmethod
    def open(cls, experiment_file: Path, *, warehouse: str | None = None) -> "Pipeline":
        """Read an experiment file and the SQL; touch nothing else.

        Raises:
            ExperimentError: if the file is wrong.
            SqlError: if dbt_like_sql is wrong.
        """
        experiment = load_experiment(experiment_file, warehouse=warehouse)
        return cls(experiment, load_sql_project(PROJECT / "dbt_like_sql"), Store(Path(experiment.warehouse)))

    @cached_property
    def graph(self) -> dict[str, Node]:
        """Every node of the experiment by its key."""
        return build_graph(self.experiment, self.sql)

    def fingerprints(self, snapshot: Snapshot) -> Fingerprints:
        """Return the recipes of all results on one state of the corpus."""
        shards = {shard.name: shard.fingerprint for shard in snapshot.shards}
        return Fingerprints(self.graph, shards, FolderFingerprints(self.store))
