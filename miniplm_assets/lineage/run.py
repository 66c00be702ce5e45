"""Who runs an asset, as the work on it sees them: Dagster, a test, a benchmark."""

import queue
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Protocol

from miniplm_assets.core.stop import Stop
from miniplm_assets.lineage.snapshot import Snapshot
from miniplm_assets.lineage.tally import Tally


class Run(Protocol):
    """Who runs an asset, and is told how it goes."""

    @property
    def run_id(self) -> str | None:
        """What the run is called where it was asked for; None where nobody keeps a record of it."""

    @property
    def errands(self) -> "queue.SimpleQueue[Callable[[], object]]":
        """What other threads leave for the run's own thread to do, such as a line of progress."""

    @property
    def stop(self) -> Stop:
        """Says whether the run has been told to stop."""

    def report(self, line: str) -> None:
        """Show a line of progress; from any thread.

        Raises:
            Stopped: in the run's own thread, if the run was told to stop and what is under way is not held.
        """

    def progressed(self, tally: Tally, pieces: Collection[str]) -> None:
        """Show how far an asset in pieces is; from the run's own thread.

        Args:
            tally: of the asset.
            pieces: the names of all, also of those that are still to be made.
        """

    def snapshot(self) -> Snapshot:
        """Return the state of the corpus that the run works on."""

    def asked_snapshot(self) -> Snapshot | None:
        """Return the state of the corpus that the run was asked to work on; None: it is to look by itself."""

    def maker_of(self, key: str) -> str | None:
        """Say which other run is making an asset on the same state of the corpus; None: nobody."""

    def pin(self, snapshot: Snapshot) -> None:
        """Let everything later in the run work on this state of the corpus."""

    def device(self) -> AbstractContextManager[None]:
        """Have the accelerators of this machine for a model alone; nothing where there are none."""

    def connect_ray(self) -> None:
        """Connect to the Ray cluster, or start Ray on this machine."""
