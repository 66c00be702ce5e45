"""What is known of each piece of an asset without its manifest: a row for each, kept beside the results.

Of 100,000 corpus files the manifests take a minute to read, in every run that finds them stored. What a page says of
them is noted once, for the pieces of one whole result; a note that is lost or damaged is made anew by who reads them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from miniplm_assets.core.facts import model_tokens
from miniplm_assets.core.recipe import Recipe
from miniplm_assets.lineage.kind import Kind
from miniplm_assets.storage.files import read_note, write_note
from miniplm_assets.storage.store import Result, Store

_NOTE: Final = ".pieces.json"


@dataclass(frozen=True, kw_only=True)
class PieceRow:
    """What a page says of one piece, or of a result that has none.

    Attributes:
        key: the asset that it was made as.
        fingerprint: of the result.
        num_rows: of its table.
        num_bytes: of all its files.
        seconds: that making it took.
        created_at: when, in UTC.
        run: that made it; empty where nobody wrote it down.
        device: that it was made on; likewise.
        model_tokens: that went through a model for it.
    """

    key: str
    fingerprint: str
    num_rows: int
    num_bytes: int
    seconds: float
    created_at: str
    run: str = ""
    device: str = ""
    model_tokens: int = 0


def row_of(result: Result, kind: Kind[Any]) -> PieceRow:
    """Return the row of a stored result."""
    manifest = result.manifest
    return PieceRow(
        key=manifest.key,
        fingerprint=manifest.fingerprint,
        num_rows=kind.table_of(result).num_rows,
        num_bytes=manifest.num_bytes,
        seconds=manifest.seconds,
        created_at=manifest.created_at,
        run=manifest.made_by.get("run", ""),
        device=str(manifest.made_by.get("device") or result.facts.get("device") or ""),
        model_tokens=model_tokens(result.facts),
    )


def noted_rows(store: Store, whole: Recipe, pieces: Mapping[str, Recipe]) -> dict[str, PieceRow] | None:
    """Return the row of each piece of a whole result; None where they are not noted."""
    noted = read_note(_note(store, whole))
    if noted is None or noted["whole"] != whole.fingerprint:
        return None
    try:
        rows = {piece: PieceRow(**row) for piece, row in noted["rows"].items()}
    except TypeError:  # another release's
        return None
    is_of_these = rows.keys() == pieces.keys() and all(
        row.fingerprint == pieces[piece].fingerprint for piece, row in rows.items()
    )
    return rows if is_of_these else None


def note_rows(store: Store, whole: Recipe, rows: Mapping[str, PieceRow]) -> None:
    """Note the row of each piece of a whole result, in the place of what was noted of the asset before."""
    content = {"whole": whole.fingerprint, "rows": {piece: asdict(row) for piece, row in rows.items()}}
    write_note(_note(store, whole), content)


def _note(store: Store, whole: Recipe) -> Path:
    return store.root / whole.key / _NOTE
