"""From a page, as the kinds say it, to the metadata that Dagster's UI shows: order and looks, for all kinds alike.

What that UI does, read off version 1.13: entries stand in the order in which they are given, under "Description" and
"Columns" where there is a `dagster/column_schema`; Markdown and JSON of 1,000 characters or more wait behind a button;
a table of texts never does; one word that cannot be broken, such as a path, makes the column of values as wide as
itself, and cuts off every sentence above and below it.
"""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import dagster as dg

from miniplm_assets.evaluation.small_chart import Points, small_chart
from miniplm_assets.lineage.facts_page import entry_of
from miniplm_assets.lineage.page import Cell, Drawing, Entry, Lines, Rows, Words, amount

# Markdown and JSON of so many characters are shown behind a button.
BEHIND_A_BUTTON: Final = 1_000
# A longer word makes the page wider than a screen of 1280 pixels.
MAX_WORD_CHARACTERS: Final = 32
# As measured: what is left of 1280 pixels for a table, and what a character takes.
PIXELS_OF_A_TABLE: Final = 370
PIXELS_OF_A_CELL: Final = 8.4
PIXELS_OF_A_HEAD: Final = 6.2
PIXELS_BETWEEN: Final = 16
# As many rows as are read at once; all are behind a button.
MAX_ROWS_IN_PLACE: Final = 12
# As much as a page shows well; every event of a run carries it. The manifest has all, whatever the corpus has of
# files and domains.
MAX_SHOWN_ROWS: Final = 200
MAX_SHOWN_CHARACTERS: Final = 50_000
MAX_CELL_CHARACTERS: Final = 500
# What Markdown takes for more than itself; an underscore inside a word it does not.
MARKUP: Final = re.compile(r"[\\`*\[\]<>|~$]|(?<![A-Za-z0-9\u200b])_|_(?![A-Za-z0-9\u200b])")
# Of a cell: five of them are beside one another. A break is made only where there is no room.
MAX_CELL_WORD_CHARACTERS: Final = 12
CELL_WORD: Final = re.compile(rf"[^\s\u200b]{{{MAX_CELL_WORD_CHARACTERS + 1},}}")
LONG_WORD: Final = re.compile(rf"[^\s\u200b]{{{MAX_WORD_CHARACTERS + 1},}}")
# What Markdown makes a link of, in a text that nobody here wrote.
LINK: Final = re.compile(r"://|www\.|@")
ZERO_WIDTH_SPACE: Final = "\u200b"
SENTENCE_END: Final = re.compile(r"(?<=[.!?]) (?=[A-Z])")


def shown(name: str, entry: Entry) -> dict[str, Any]:
    """Return an entry as metadata: one, or two where what is in place is not all of it."""
    match entry:
        case Rows():
            return _rows(name, entry)
        case Lines():
            return _lines(name, entry)
        case Drawing():
            pictures = [picture(about, "svg+xml", svg.encode()) for about, svg in entry.svgs.items()]
            return {name: dg.MetadataValue.md("\n\n".join(pictures))}
        case Words():
            return _words(name, entry.text)
        case str():
            return _words(name, entry) if "\n" in entry or "**" in entry else {name: breakable(entry)}
        case _:
            return {name: entry}


def facts_shown(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts as metadata, each as a page shows it, or else as it is."""
    metadata: dict[str, Any] = {}
    for name, value in facts.items():
        entry = entry_of(value)
        metadata |= {name: json_entry(value)} if entry is None else shown(name, entry)
    return metadata


def behind_a_button(value: Any) -> dg.MetadataValue[Any]:
    """Return what nobody reads first: its words may be as long as they are, since it is never in the page."""
    text = json.dumps(value)
    if len(text) > MAX_SHOWN_CHARACTERS:
        return dg.MetadataValue.text(f"{len(value):,} entries, too long to be shown: see manifest.json in the folder")
    if len(text) >= BEHIND_A_BUTTON:
        return dg.MetadataValue.json(value)
    return markdown_behind_a_button(f"```json\n{json.dumps(value, indent=2)}\n```")


def markdown_behind_a_button(text: str) -> dg.MetadataValue[Any]:
    """Return Markdown that is never in the page itself."""
    cut = text[:MAX_SHOWN_CHARACTERS]
    return dg.MetadataValue.md(cut + "\n" * max(0, BEHIND_A_BUTTON - len(cut)))


def json_entry(value: Any) -> dg.MetadataValue[Any]:
    """Return a value in place, where it is short and no word of it too long for a page."""
    text = json.dumps(value, indent=2)
    has_long_words = LONG_WORD.search(text) is not None
    return behind_a_button(value) if has_long_words or len(text) >= BEHIND_A_BUTTON else dg.MetadataValue.json(value)


def breakable(text: str) -> str:
    """Return a text of which every word may be broken where a screen ends."""
    return LONG_WORD.sub(lambda found: _pieces_of_word(found.group(), MAX_WORD_CHARACTERS), text)


def _pieces_of_word(word: str, num_characters: int) -> str:
    """Return a word that may be broken: where its parts end, and wherever it is longer than that all the same."""
    return re.sub(
        rf"[^/_.-]{{{num_characters}}}(?=.)|[/_.-]+(?=.)", lambda found: found.group() + ZERO_WIDTH_SPACE, word
    )


def picture(about: str, form: str, content: bytes) -> str:
    """Return a picture as Markdown that holds it."""
    return f"![{about}](data:image/{form};base64,{base64.b64encode(content).decode()})"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table in Markdown, its numbers to the right."""
    are_numbers = [all(_is_number(row[place]) for row in rows) for place in range(len(columns))]
    lines = ["| " + " | ".join(map(_escaped, columns)) + " |"]
    lines.append("|" + "|".join(" ---: " if is_number else " --- " for is_number in are_numbers) + "|")
    lines += ["| " + " | ".join(_escaped(cell_text(value)) for value in row) + " |" for row in rows[:MAX_SHOWN_ROWS]]
    if len(rows) > MAX_SHOWN_ROWS:
        lines += ["", f"{len(rows) - MAX_SHOWN_ROWS:,} more rows are in manifest.json in the folder."]
    return "\n".join(lines)


def cell_text(value: Any) -> str:
    """Return the text of a cell, in which every word may be broken."""
    if value is None:
        return ""
    if isinstance(value, int | float):
        return amount(value)
    text = " ".join(str(value).split())
    shown_text = text if len(text) <= MAX_CELL_CHARACTERS else f"{text[:MAX_CELL_CHARACTERS]} …"
    return CELL_WORD.sub(lambda found: _pieces_of_word(found.group(), MAX_CELL_WORD_CHARACTERS), shown_text)


def _escaped(text: str) -> str:
    return MARKUP.sub(r"\\\g<0>", text)


def _is_number(value: Any) -> bool:
    is_written = isinstance(value, str) and re.fullmatch(r"[-+]?[\d,.]+ ?%?|", value) is not None
    return value is None or is_written or (isinstance(value, int | float) and not isinstance(value, bool))


def _rows(name: str, table: Rows) -> dict[str, Any]:
    if not table.rows:
        return {name: "no rows"}
    whole = markdown_table(table.columns, table.rows)
    if table.is_aside:
        return {name: markdown_behind_a_button(whole)}
    num_columns = _num_columns_that_fit(table)
    if num_columns < len(table.columns):
        fits = Rows(table.columns[:num_columns], [row[:num_columns] for row in table.rows])
        return {name: next(iter(_rows(name, fits).values())), f"{name}: all columns": markdown_behind_a_button(whole)}
    if len(whole) < BEHIND_A_BUTTON and not LINK.search(whole):
        return {name: dg.MetadataValue.md(whole)}
    in_place = _table(table.columns, table.rows[:MAX_ROWS_IN_PLACE])
    if len(table.rows) <= MAX_ROWS_IN_PLACE:
        return {name: in_place}
    first = f"{name}: first {MAX_ROWS_IN_PLACE} of {len(table.rows):,}"
    return {first: in_place, name: markdown_behind_a_button(whole)}


def _num_columns_that_fit(table: Rows) -> int:
    """Return how many columns are beside one another at 1280 pixels, each as wide as its longest word; at least one."""
    width = 0.0
    for place, column in enumerate(table.columns):
        cells = [_longest_word(cell_text(row[place])) for row in table.rows[:MAX_SHOWN_ROWS]]
        width += max(PIXELS_OF_A_HEAD * _longest_word(column), PIXELS_OF_A_CELL * max(cells)) + PIXELS_BETWEEN
        if width > PIXELS_OF_A_TABLE:
            return max(1, place)
    return len(table.columns)


def _longest_word(text: str) -> int:
    return max(map(len, re.split(rf"[\s{ZERO_WIDTH_SPACE}]", text)))


def _table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> dg.MetadataValue[Any]:
    records = [dg.TableRecord(dict(zip(columns, map(cell_text, row), strict=True))) for row in rows]
    schema = dg.TableSchema(columns=[dg.TableColumn(column, "string") for column in columns])
    return dg.MetadataValue.table(records=records, schema=schema)


def _lines(name: str, chart: Lines) -> dict[str, Any]:
    """Return a chart with as many points as the page shows in place."""
    lines: Mapping[str, Points] = {line: points for line, points in chart.lines.items() if points}
    if not lines:
        return {}
    for num_points in range(24, 3, -2):
        svg = quote(small_chart(lines, x=chart.x, num_points=num_points, colours=chart.colours), safe=" =:/',;-+.")
        shown_in_place = f"![{name}](<data:image/svg+xml,{svg}>)"
        if len(shown_in_place) < BEHIND_A_BUTTON:
            return {name: dg.MetadataValue.md(shown_in_place)}
    return {name: dg.MetadataValue.md(shown_in_place)}


def _words(name: str, text: str) -> dict[str, Any]:
    """Return a text; of one that would wait behind a button, also how its paragraphs begin, in place."""
    whole = breakable(text)
    beginning = "" if len(whole) < BEHIND_A_BUTTON else _beginnings(whole)
    if not beginning:
        return {name: dg.MetadataValue.md(whole)}
    return {name: dg.MetadataValue.md(beginning), f"{name}: in full": markdown_behind_a_button(whole)}


def _beginnings(text: str) -> str:
    """Return the first sentence of as many paragraphs as stand in place."""
    beginning = ""
    for paragraph in text.split("\n\n"):
        first, *more = SENTENCE_END.split(paragraph, maxsplit=1)
        longer = f"{beginning}{first}{' …' if more else ''}\n\n"
        if len(longer) >= BEHIND_A_BUTTON:
            break
        beginning = longer
    return beginning.strip()
