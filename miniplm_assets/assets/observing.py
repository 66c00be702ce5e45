"""How far a long step is, as observations of its asset: the UI shows them while it runs, under Events."""

import time
from collections.abc import Collection
from typing import Final

import dagster as dg

from miniplm_assets.assets.asset_page import piece_rows
from miniplm_assets.assets.pages import shown
from miniplm_assets.lineage.tally import Tally

# Each is an event of the run for ever: a step of an hour leaves at most sixty.
SECONDS_BETWEEN: Final = 60.0


class Observing:
    """Observes the asset of one step, and not more often than is read.

    Args:
        context: of the step.
    """

    def __init__(self, context: dg.AssetExecutionContext) -> None:
        self._context = context
        self._last = time.monotonic()
        self._seen: tuple[Tally, Collection[str]] | None = None

    def tell(self, line: str) -> None:
        """Show a line of progress, if nothing was shown for a while."""
        if not self._is_due():
            return
        self._last = time.monotonic()
        metadata = shown("progress", str(line))  # a line may be more than a text, which Dagster refuses
        if self._seen is not None:
            metadata |= shown("pieces", piece_rows(*self._seen, "piece"))
        self._context.log_event(dg.AssetObservation(asset_key=self._context.asset_key, metadata=metadata))

    def see(self, tally: Tally, pieces: Collection[str]) -> None:
        """Know how far the asset is, for when something is shown next: a table of all pieces is not made for each."""
        self._seen = tally, pieces
        if self._is_due() and len(tally.rows) < len(pieces):
            self.tell(f"{len(tally.rows):,} of {len(pieces):,} are there")

    def _is_due(self) -> bool:
        return time.monotonic() - self._last >= SECONDS_BETWEEN
