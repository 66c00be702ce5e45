"""Drawings of what leads to what: the assets of an experiment, and the columns of a table. Drawn by hand, as SVG."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from miniplm_assets.evaluation.report.characters import visible

# Of boxes, from top to bottom; what stands in one row is told apart by its name.
ROWS: Final[tuple[tuple[str, ...], ...]] = (
    ("corpus", "text"),
    ("tokenizer", "tasks"),
    ("teacher", "reference"),
    ("selection", "generation"),
    ("student",),
    ("reports",),
)
LINE, GAP, PADDING = 15, 14, 8
BOX_WIDTH, ROW_GAP = 198, 34
CHARACTERS_OF_A_BOX = 26
# As wide as a page; more of them begin another line.
BOXES_BESIDE = 5
COLUMN_WIDTH, COLUMN_GAP = 262, 150
CHARACTERS_OF_A_COLUMN = 36
# Of a drawing that stands by itself.
PLAIN_FONT: Final = "font:12px sans-serif"
PLAIN_LOOKS: Final = (
    "text{fill:#888}.head{font-weight:bold;fill:#47a}.arrow{fill:none;stroke:#aaa}.box{fill:none;stroke:#888}"
)


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One asset of the graph.

    Attributes:
        key: of the asset.
        kind: its name.
        section: what its box is named after.
        box: the box that it is drawn in.
        needs: the keys of what it is made from.
    """

    key: str
    kind: str
    section: str
    box: str
    needs: Sequence[str]


def asset_graph(assets: Sequence[Asset], *, name: str, title: str) -> Markup:
    """Draw the boxes of an experiment, what is in each, and which leads to which.

    An arrow that a path of others stands for is left out.

    Args:
        assets: all of them.
        name: unique in the page.
        title: what it shows.
    """
    boxes: dict[str, list[Asset]] = {}
    for asset in assets:
        boxes.setdefault(asset.box, []).append(asset)
    places = _places(boxes)
    arrows = _arrows(assets)
    width = max(x for x, _, _ in places.values()) + BOX_WIDTH + GAP + PADDING
    height = max(y + box_height for _, y, box_height in places.values()) + PADDING
    drawn = [_arrow(places[start], places[end]) for start, end in arrows]
    drawn += [_box(box, members, places[box]) for box, members in boxes.items()]
    about = "; ".join(f"{start} leads to {end}" for start, end in arrows)
    return _svg(width, height, drawn, name=name, title=title, about=about)


def _places(boxes: Mapping[str, Sequence[Asset]]) -> dict[str, tuple[int, int, int]]:
    """Return x, y and height of each box."""
    places: dict[str, tuple[int, int, int]] = {}
    y = PADDING
    for sections in ROWS:
        here = [box for section in sections for box, members in boxes.items() if members[0].section == section]
        for line in range(0, len(here), BOXES_BESIDE):
            beside = here[line : line + BOXES_BESIDE]
            heights = [LINE * (1 + len({one.kind for one in boxes[box]})) + 2 * PADDING for box in beside]
            for place, (box, height) in enumerate(zip(beside, heights, strict=True)):
                places[box] = PADDING + place * (BOX_WIDTH + GAP), y, height
            y += max(heights) + GAP
        y += ROW_GAP - GAP if here else 0
    return places


def _arrows(assets: Sequence[Asset]) -> list[tuple[str, str]]:
    """Return which box leads to which: each of those that lead down, unless a path of others does, and all others."""
    box_of = {asset.key: asset.box for asset in assets}
    row_of = {asset.box: next(row for row, those in enumerate(ROWS) if asset.section in those) for asset in assets}
    pairs = {(box_of[needed], asset.box) for asset in assets for needed in asset.needs if needed in box_of}
    down: dict[str, set[str]] = {box: set() for box in row_of}
    for start, end in pairs:
        if row_of[start] < row_of[end]:
            down[start].add(end)
    implied = {
        (start, end) for start in down for other in down[start] for end in _reached(down, other) if end in down[start]
    }
    return sorted((start, end) for start, end in pairs - implied if start != end)


def _reached(after: Mapping[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = set(after[start])
    while waiting:
        found |= waiting
        waiting = {box for one in waiting for box in after[one]} - found
    return found


def _box(box: str, members: Sequence[Asset], place: tuple[int, int, int]) -> Markup:
    x, y, height = place
    lines = [Markup('<text class="head" x="{}" y="{}">{}</text>').format(x + 8, y + 17, _cut(box, CHARACTERS_OF_A_BOX))]
    for line, kind in enumerate(dict.fromkeys(one.kind for one in members), start=1):
        text = _cut(kind, CHARACTERS_OF_A_BOX)
        lines.append(Markup('<text x="{}" y="{}">{}</text>').format(x + 8, y + 17 + LINE * line, text))
    frame = Markup('<rect class="box {}" x="{}" y="{}" width="{}" height="{}" rx="6"/>')
    return frame.format(members[0].section, x, y, BOX_WIDTH, height) + Markup("").join(lines)


def _arrow(start: tuple[int, int, int], end: tuple[int, int, int]) -> Markup:
    from_x, from_y = start[0] + BOX_WIDTH // 2, start[1] + start[2]
    to_x, to_y = end[0] + BOX_WIDTH // 2, end[1]
    if to_y <= from_y:  # back up, or within a row: around the right side
        from_x, to_x = start[0] + BOX_WIDTH, end[0] + BOX_WIDTH
        from_y, to_y = start[1] + start[2] // 2, end[1] + end[2] // 2
        bend = max(from_x, to_x) + GAP
        return _path(f"M{from_x},{from_y} C{bend},{from_y} {bend},{to_y} {to_x},{to_y}")
    middle = to_y - ROW_GAP
    return _path(f"M{from_x},{from_y} C{from_x},{from_y + ROW_GAP} {to_x},{middle} {to_x},{to_y}")


def column_lineage(table: str, sources: Mapping[str, Sequence[tuple[str, str]]], *, name: str, title: str) -> Markup:
    """Draw which columns of the inputs each column of a table is computed from.

    Args:
        table: its name.
        sources: (input, its column) pairs, by column of the table.
        name: unique in the page.
        title: what it shows.
    """
    inputs: dict[str, list[str]] = {}
    for pairs in sources.values():
        for role, column in pairs:
            if column not in inputs.setdefault(role, []):
                inputs[role].append(column)
    left = list(_lines_of(inputs))
    right = list(_lines_of({table: list(sources)}))
    place_of = {(role, column): place for place, (role, column) in enumerate(left) if column is not None}
    to_x = PADDING + COLUMN_WIDTH + COLUMN_GAP
    drawn = []
    for place, (_, target) in enumerate(right):
        for pair in sources.get(target or "", ()):
            from_x, from_y, to_y = PADDING + COLUMN_WIDTH, _height(place_of[pair]), _height(place)
            middle = (from_x + to_x) // 2
            drawn.append(_path(f"M{from_x},{from_y - 4} C{middle},{from_y - 4} {middle},{to_y - 4} {to_x},{to_y - 4}"))
    drawn += [_column_text(PADDING, place, line) for place, line in enumerate(left)]
    drawn += [_column_text(to_x + 6, place, line) for place, line in enumerate(right)]
    about = "; ".join(
        f"{column} from {', '.join(f'{role}.{source}' for role, source in pairs) or 'no column'}"
        for column, pairs in sources.items()
    )
    height = _height(max(len(left), len(right)) - 1) + PADDING
    return _svg(to_x + COLUMN_WIDTH, height, drawn, name=name, title=title, about=about)


def _lines_of(tables: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str | None]]:
    for table, columns in tables.items():
        yield table, None
        for column in columns:
            yield table, column


def _height(place: int) -> int:
    return PADDING + 12 + place * (LINE + 3)


def _column_text(x: int, place: int, line: tuple[str, str | None]) -> Markup:
    table, column = line
    text = _cut(table if column is None else column, CHARACTERS_OF_A_COLUMN)
    name, indent = ("head", 0) if column is None else ("column", 12)
    return Markup('<text class="{}" x="{}" y="{}">{}</text>').format(name, x + indent, _height(place), text)


def _path(path: str) -> Markup:
    return Markup('<path class="arrow" d="{}"/>').format(path)


def _svg(width: int, height: int, drawn: Sequence[Markup], *, name: str, title: str, about: str) -> Markup:
    head = Markup(
        '<svg class="drawing" viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" '
        'aria-labelledby="{n}-title {n}-about"><title id="{n}-title">{t}</title><desc id="{n}-about">{a}</desc>'
    )
    opened = head.format(w=width, h=height, n=name, t=visible(title), a=visible(about))
    return opened + Markup("").join(drawn) + Markup("</svg>")


def as_document(drawing: Markup) -> str:
    """Return a drawing as a document of its own, for where no page gives it its looks; grey is read on any ground."""
    return (
        str(drawing)
        .replace("<svg ", f"<svg xmlns='http://www.w3.org/2000/svg' style='{PLAIN_FONT}' ", 1)
        .replace("<title", f"<style>{PLAIN_LOOKS}</style><title", 1)
    )


def _cut(text: str, most: int) -> str:
    shown = visible(text)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"
