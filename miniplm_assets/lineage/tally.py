"""What one run took for an asset, and how far it is."""

from dataclasses import dataclass, field
from typing import Any

from miniplm_assets.core.facts import model_tokens
from miniplm_assets.lineage.piece_rows import PieceRow
from miniplm_assets.storage.manifest import CheckOutcome
from miniplm_assets.storage.store import Result


@dataclass
class Tally:
    """What one run took for an asset.

    Attributes:
        num_computed: results made in this run: files or seeds for an asset in pieces, else one.
        num_reused: results found in the store.
        seconds_computing: in this run.
        seconds_saved: what the re-used results took when they were made.
        tokens_saved: tokens that went through a model for them.
        checks: outcomes of the checks that this run alone can make: by limits that no result depends on, or
            of what lies beside the corpus.
        notes: what the page of the asset shows of this run alone.
        pieces: the result of each piece that was made or read by now.
        rows: what is known of each piece that is there by now.
        computed: fingerprints of what was made in this run.
    """

    num_computed: int = 0
    num_reused: int = 0
    seconds_computing: float = 0.0
    seconds_saved: float = 0.0
    tokens_saved: int = 0
    checks: list[CheckOutcome] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    pieces: dict[str, Result] = field(default_factory=dict)
    rows: dict[str, PieceRow] = field(default_factory=dict)
    computed: set[str] = field(default_factory=set)

    def count(self, result: Result, *, is_computed: bool) -> None:
        """Count a result."""
        if is_computed:
            self.num_computed += 1
            self.computed.add(result.manifest.fingerprint)
            self.seconds_computing += result.manifest.seconds
        else:
            self._count_reused(result.manifest.seconds, model_tokens(result.facts))

    def find_all(self, rows: dict[str, PieceRow]) -> None:
        """Count all pieces as found stored, none of them read."""
        self.rows = rows
        for row in rows.values():
            self._count_reused(row.seconds, row.model_tokens)

    def _count_reused(self, seconds: float, num_tokens: int) -> None:
        self.num_reused += 1
        self.seconds_saved += seconds
        self.tokens_saved += num_tokens
