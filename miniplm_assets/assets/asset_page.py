"""What the page of an asset shows of its result: what came out, what it is made of, and last the bookkeeping.

The kinds say what is theirs (`lineage.page`); `pages` knows how each entry looks. Here is the order, the same for all.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import dagster as dg

from miniplm_assets.assets.pages import MAX_SHOWN_CHARACTERS, behind_a_button, facts_shown, picture, shown
from miniplm_assets.core.facts import NO_FIGURES
from miniplm_assets.core.glossary import words_of
from miniplm_assets.lineage.facts_page import page_of_table
from miniplm_assets.lineage.page import Entry, Rows, amount, seconds_in_words
from miniplm_assets.lineage.piece_rows import PieceRow, row_of
from miniplm_assets.lineage.tally import Tally
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.store import Result

BOOKKEEPING: Final = "bookkeeping"
MEANINGS: Final = "what the words mean"
CHARACTERS_OF_A_RUN: Final = 8
# The UI shows a schema of fewer columns in place, wider than the page.
NUM_COLUMNS_BEHIND_A_BUTTON: Final = 5
# What a piece is called where a person reads of it.
PIECE_IN_WORDS: Final = {"shard": "corpus file", "seed": "seed"}
EXPLAINED: Final = {
    "fingerprint": "a hash of all that goes into the result: settings, inputs and code version; also its data version",
    "folder": "where the result lies, with its manifest.json; of one for each seed, that of the first",
    "facts": "what the result reports of itself, as programs read it; units are in the names; manifest.json has all",
    "num_results_computed": "in this run: corpus files or seeds, where the asset has a result for each, else one",
    "num_results_reused": "that were found stored",
    "seconds_saved": "what these took when they were made; tokens_saved: that went through a model for them",
}


def describe(work: Work[Any], result: Result) -> dict[str, Any]:
    """Return the metadata of a result, in the order in which they are read."""
    page_of = work.node.kind.page
    page = page_of_table(work, result) if page_of is None else page_of(work, result)
    made = made_in_words(work, result)
    return (
        _all_shown(page.outcome)
        | facts_shown(work.tally.notes)
        | _pictures(result)
        | shown("made", made)
        | _all_shown(page.made_of)
        | _pieces(work)
        | _columns(work, result)
        | _meanings([work.node.kind.description, *page.words(), made])
        | {BOOKKEEPING: behind_a_button(_bookkeeping(work, result))}
    )


def _all_shown(entries: Mapping[str, Entry]) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for name, entry in entries.items():
        metadata |= shown(name, entry)
    return metadata


def _meanings(words: Sequence[str]) -> dict[str, Any]:
    """Return what the words of a page mean, behind a button."""
    meanings = [[term, meaning] for term, meaning in words_of("\n".join(words)).items()]
    return shown(MEANINGS, Rows(("word", "meaning"), meanings, is_aside=True)) if meanings else {}


def _pictures(result: Result) -> dict[str, Any]:
    return {
        title: dg.MetadataValue.md(picture(title, "png", (result.folder / file.name).read_bytes()))
        for file in result.described("*.png")
        for title in [file.name.removesuffix(".png").replace("_", " ")]
    }


def _pieces(work: Work[Any]) -> dict[str, Any]:
    """Return a row for each corpus file or seed: what this run made, and what it found."""
    kind, tally = work.node.kind, work.tally
    if kind.pieces is None or not tally.rows:
        return {}
    return shown(f"{kind.pieces}s", piece_rows(tally, work.piece_recipes, kind.pieces))


def piece_rows(tally: Tally, pieces: Collection[str], unit: str) -> Rows:
    """Return a row for each piece, whatever state it is in.

    Args:
        tally: of the asset.
        pieces: the names of all.
        unit: "shard" or "seed".
    """
    rows: list[list[Any]] = []
    for piece in pieces:
        row = tally.rows.get(piece)
        if row is None:
            rows.append([piece, None, "to do", None, ""])
            continue
        state = "computed" if row.fingerprint in tally.computed else "stored"
        rows.append([piece, row.num_rows, state, round(row.seconds, 1), row.device])
    return Rows((unit, "rows", "state", "seconds", "device"), rows)


def made_in_words(work: Work[Any], result: Result) -> str:
    """Say what this run computed and what it found stored: from which run that is, and from when."""
    tally, unit = work.tally, PIECE_IN_WORDS.get(work.node.kind.pieces or "")
    results = list(tally.rows.values()) if unit else [row_of(result, work.node.kind)]
    found = [one for one in results if one.fingerprint not in tally.computed]
    num_computed = len(results) - len(found)
    words = []
    if num_computed:
        many = (
            f"{_count(num_computed, len(results), unit)} computed in this run, " if unit else "Computed in this run, "
        )
        words.append(f"{many}in {seconds_in_words(tally.seconds_computing)}.")
    elif found:
        words.append("Nothing was computed.")
    if found:
        saved = f"; that saved {seconds_in_words(tally.seconds_saved)}" if tally.seconds_saved else ""
        if tally.tokens_saved:
            saved += f" and {amount(tally.tokens_saved)} tokens through a model"
        many = f"{_count(len(found), len(results), unit)} found stored" if unit else "Found stored"
        words.append(f"{many}, as made {_when_and_by_whom(work, found)}{saved}.")
    return " ".join(words)


def _count(number: int, of: int, unit: str | None) -> str:
    if of == 1:
        return f"The {unit} was"
    units = f"{unit}s" if number != 1 else unit
    return f"All {of:,} {unit}s were" if number == of else f"{number:,} {units} {'was' if number == 1 else 'were'}"


def _when_and_by_whom(work: Work[Any], found: Sequence[PieceRow]) -> str:
    times = sorted(_minute(one.created_at) for one in found)
    when = f"on {times[0]} UTC" if times[0] == times[-1] else f"from {times[0]} to {times[-1]} UTC"
    runs = list(dict.fromkeys(run for one in found if (run := one.run)))
    links = ", ".join(f"[{run[:CHARACTERS_OF_A_RUN]}](/runs/{run})" for run in runs[:3])
    by = f" by **run** {links}" + (f" and {len(runs) - 3} more" if len(runs) > 3 else "") if runs else ""
    names = sorted({one.key for one in found} - {work.node.key})
    return f"{when}{by}" + (f" under the name of {', '.join(names)}" if names else "")


def _minute(created_at: str) -> str:
    return created_at[:16].replace("T", " ")


def _columns(work: Work[Any], result: Result) -> dict[str, Any]:
    """Return the columns of its table, under a name of ours: Dagster's own would stand above what came out."""
    kind = work.node.kind
    rows = work.tally.rows
    columns = result.facts["columns"] if rows else kind.table_of(result).columns
    num_rows = sum(row.num_rows for row in rows.values()) if rows else kind.table_of(result).num_rows
    more = {"dagster/row_count": num_rows} if num_rows else {}
    if len(columns) >= NUM_COLUMNS_BEHIND_A_BUTTON:
        schema = dg.TableSchema(
            [dg.TableColumn(name, type=type_, description=kind.columns.get(name)) for name, type_ in columns.items()]
        )
        return {"columns": schema, **more}
    told = [[name, type_, kind.columns.get(name)] for name, type_ in columns.items()]
    return (shown("columns", Rows(("column", "type", "meaning"), told, is_aside=True)) if told else {}) | more


def _bookkeeping(work: Work[Any], result: Result) -> dict[str, Any]:
    manifest, tally = result.manifest, work.tally
    facts = {name: value for name, value in manifest.facts.items() if name not in NO_FIGURES}
    if len(json.dumps(facts)) > MAX_SHOWN_CHARACTERS // 2:
        facts = {}
    by_seed = {seed: str(one.folder) for seed, one in tally.pieces.items()} if work.node.kind.pieces == "seed" else {}
    return {
        "fingerprint": manifest.fingerprint,
        "folder": next(iter(by_seed.values()), str(result.folder)),
        **({"folders": by_seed} if len(by_seed) > 1 else {}),
        "num_stored_bytes": sum(row.num_bytes for row in tally.rows.values()) or manifest.num_bytes,
        "num_results_computed": tally.num_computed,
        "num_results_reused": tally.num_reused,
        "seconds_computing": round(tally.seconds_computing, 2),
        "seconds_saved": round(tally.seconds_saved, 2),
        "tokens_saved": tally.tokens_saved,
        "created_at": manifest.created_at,
        "code_version": work.node.kind.code_version,
        "versions": manifest.versions,
        "facts": facts,
        "explained": EXPLAINED,
    }
