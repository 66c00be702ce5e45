"""How a picture is begun, how its lines are named, and how it is written: as a PNG, or as an SVG for a page."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Format = Literal["png", "svg"]
DOTS_PER_INCH: Final = 100
# An SVG is shown as wide as its page is, and read on a phone too.
WIDTH_INCHES: Final[dict[Format, float]] = {"png": 9.0, "svg": 5.6}
# Of a picture: what lines, and the edges of letters, need.
NUM_COLOURS: Final = 64
# Of a name, in the size of labels: a third of the width.
MAX_NAME_CHARACTERS: Final = 40


def new_figure(height: float, picture: Format = "png") -> "tuple[Figure, Axes]":
    """Return an empty picture of a height in inches, and its axes."""
    # Without pyplot: no window system, no state that two threads would share.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES[picture], height), dpi=DOTS_PER_INCH, layout="constrained")
    axes: Any = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    return figure, axes


def height_inches(num_lines: int, picture: Format, *, least: float) -> float:
    """Return the height of a picture of lines, with room for their names."""
    if picture == "svg":
        return 3.8 + 0.19 * num_lines
    return max(least, 0.6 + 0.19 * num_lines)


def name_beside(axes: "Axes", lines: "Sequence[Line2D]", names: Sequence[str], picture: Format = "png") -> None:
    """Name lines where they cover nothing: to the right of a wide picture, below a narrow one."""
    if picture == "png":
        axes.legend(lines, names, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=9)
    else:
        axes.figure.legend(lines, names, frameon=False, loc="outside lower left", fontsize=9)


def written(figure: "Figure", picture: Format = "png") -> bytes:
    """Return a picture as a file: the same bytes each time, and text as it is, never as markup."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # else a name with two dollars is taken for a formula
    return _svg(figure) if picture == "svg" else _png(figure)


def _svg(figure: "Figure") -> bytes:
    """Return a picture without its title, which the page around it says."""
    from matplotlib import rc_context

    for axes in figure.axes:
        axes.set_title("", loc="left")
    drawn = io.BytesIO()
    # Text stays text, to be read out and searched; the salt makes the same names of parts each time.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "miniplm"}):
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    return drawn.getvalue()


def _png(figure: "Figure") -> bytes:
    from PIL import Image

    drawn, stored = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    # Dagster keeps each picture three times for each run: with a palette it has a third of the bytes.
    with Image.open(drawn) as picture:
        picture.convert("RGB").quantize(NUM_COLOURS, dither=Image.Dither.NONE).save(stored, "PNG", optimize=True)
    return stored.getvalue()


def shortened(name: str) -> str:
    """Return a name as a picture has room for it: on one line, without the middle where it is long."""
    visible = "".join(character if character.isprintable() else " " for character in name)
    line = " ".join(visible.split()) or repr(name)  # of white space alone, or of nothing
    if len(line) <= MAX_NAME_CHARACTERS:
        return line
    end = (MAX_NAME_CHARACTERS - 1) // 2
    return f"{line[: MAX_NAME_CHARACTERS - 1 - end]}…{line[-end:]}"
