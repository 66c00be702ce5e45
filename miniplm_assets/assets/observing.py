"""How far a long step is, as observations of its asset: the UI shows them while it runs, under Events."""

import time
from collections.abc import Sequence
from typing import Any, Final

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
        self._pieces: dict[str, Any] = {}

    def tell(self, line: str) -> None:
        """Show a line of progress, if nothing was shown for a while."""
        now = time.monotonic()
        if now - self._last < SECONDS_BETWEEN:
            return
        self._last = now
        metadata = {
            **shown("progress", str(line)),
            **self._pieces,
        }  # a line may be more than a text, which Dagster refuses
        self._context.log_event(dg.AssetObservation(asset_key=self._context.asset_key, metadata=metadata))

    def see(self, tally: Tally, pieces: Sequence[str]) -> None:
        """Keep how far the asset is, for when something is shown next."""
        self._pieces = shown("pieces", piece_rows(tally, pieces, "piece"))
        if len(tally.pieces) < len(pieces):
            self.tell(f"{len(tally.pieces):,} of {len(pieces):,} are there")
