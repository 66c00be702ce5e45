"""A line chart of a few hundred characters, as SVG: the Dagster UI shows Markdown in place only where it is short."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Final

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 360, 170
# Of the plot: what is left of it is for the largest and the least value, right of it for the names of the lines.
LEFT, RIGHT, TOP, BOTTOM = 42, 272, 8, 136
COLOURS: Final = ("#47a", "#c67", "#283", "#a37", "#c80", "#777")
# Grey is read on white and on black.
TEXT_COLOUR: Final = "#888"
LINE_HEIGHT: Final = 13
CHARACTERS_OF_A_NAME: Final = 13


def small_chart(
    lines: Mapping[str, Points], *, x: str, num_points: int, colours: Mapping[str, str] | None = None
) -> str:
    """Draw lines over one another, the least and the largest values beside the axes.

    Args:
        lines: (x, y) points by name, x ascending; at least one line with a point; more than there are colours are
            left out.
        x: what stands under the axis: quantity and unit.
        num_points: of each line that are drawn; the first and the last always are.
        colours: of some lines, by name.

    Returns:
        An SVG document.
    """
    shown = {name: _thinned(points, num_points) for name, points in list(lines.items())[: len(COLOURS)] if points}
    xs = [point[0] for points in shown.values() for point in points]
    ys = [point[1] for points in shown.values() for point in points]
    to_x = _scale(min(xs), max(xs), LEFT, RIGHT)
    to_y = _scale(min(ys), max(ys), BOTTOM - 6, TOP + 6)
    drawn, heights = [], []
    for own, (name, points) in zip(COLOURS, shown.items(), strict=False):
        colour = (colours or {}).get(name, own)
        drawn.append(f"<path d='{_path([(to_x(x_), to_y(y)) for x_, y in points])}' stroke='{colour}'/>")
        heights.append((to_y(points[-1][1]), colour, name))
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{HEIGHT}' font-family='sans-serif' "
        f"font-size='11' fill='none'><path d='M{LEFT} {TOP}V{BOTTOM}H{RIGHT}' stroke='{TEXT_COLOUR}'/>"
        + "".join(drawn)
        + f"<g fill='{TEXT_COLOUR}'>"
        + _text(2, TOP + 8, _number(max(ys)))
        + _text(2, BOTTOM, _number(min(ys)))
        + _text(LEFT, BOTTOM + 16, _number(min(xs)))
        + _text(RIGHT - 30, BOTTOM + 16, _number(max(xs)))
        + _text(LEFT + 70, BOTTOM + 30, x)
        + "</g>"
        + "".join(_names(heights) if len(shown) > 1 else ())
        + "</svg>"
    )


def _path(places: Sequence[tuple[int, int]]) -> str:
    """Return a path by its steps, which are shorter to write than its places."""
    (x, y), *_ = places
    steps = [f"{there[0] - here[0]},{there[1] - here[1]}" for here, there in pairwise(places)]
    return f"M{x},{y}l{' '.join(steps)}" if steps else f"M{x},{y}h1"


def _names(heights: Sequence[tuple[int, str, str]]) -> list[str]:
    """Name each line where it ends, moved down where two would meet."""
    named, free = [], 0
    for height, colour, name in sorted(heights):
        free = max(height + 4, free)
        named.append(f"<text x='{RIGHT + 5}' y='{free}' fill='{colour}'>{escape(_cut(name))}</text>")
        free += LINE_HEIGHT
    return named


def _cut(name: str) -> str:
    return name if len(name) <= CHARACTERS_OF_A_NAME else f"{name[: CHARACTERS_OF_A_NAME - 1]}…"


def _thinned(points: Points, num: int) -> Points:
    if len(points) <= num:
        return points
    step = (len(points) - 1) / (num - 1)
    return [points[round(place * step)] for place in range(num)]


def _scale(least: float, most: float, start: int, end: int) -> Callable[[float], int]:
    span = (most - least) or 1.0
    return lambda value: round(start + (value - least) / span * (end - start))


def _text(x: int, y: int, text: str) -> str:
    return f"<text x='{x}' y='{y}'>{escape(text)}</text>"


def _number(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.3g}{unit}"
    return f"{value:.3g}"
