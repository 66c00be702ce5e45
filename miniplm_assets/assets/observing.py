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

    def see(self, tally: Tally, pieces: Sequence[str]) -> None:
        """Show how far the asset is, if nothing was shown of that for a while, and there is more to come."""
        now = time.monotonic()
        if now - self._last < SECONDS_BETWEEN or len(tally.pieces) >= len(pieces):
            return
        self._last = now
        metadata: dict[str, Any] = {"progress": f"{len(tally.pieces):,} of {len(pieces):,} are there"}
        metadata |= shown("pieces", piece_rows(tally, pieces, "piece"))
        self._context.log_event(dg.AssetObservation(asset_key=self._context.asset_key, metadata=metadata))
