"""How far a long step is, as observations of its asset: the UI shows them while it runs, under Events."""

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Final

import dagster as dg

from miniplm_assets.assets.asset_page import CHARACTERS_OF_A_RUN, piece_rows
from miniplm_assets.assets.pages import shown
from miniplm_assets.core.progressed import Progressed
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
        self._has_told = False

    @contextmanager
    def until_made(self) -> Iterator[None]:
        """Say of a step that ends before its asset is made that it did: the page shows what was told last."""
        try:
            yield
        except BaseException:
            if self._has_told:
                run = self._context.run.run_id[:CHARACTERS_OF_A_RUN]
                self._show(f"ended before it was complete; what was finished is kept. Run {run} says why.")
            raise

    def tell(self, line: str) -> None:
        """Show a line of progress, if nothing was shown for a while."""
        if not self._is_due():
            return
        self._last = time.monotonic()
        self._has_told = True
        self._show(f"{100 * line.done // line.total} %: {line}" if isinstance(line, Progressed) else line)

    def _show(self, line: str) -> None:
        metadata = shown("progress", line)
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
