"""How the lines of students are drawn: the same student looks the same in every picture of an experiment."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

BLUE, ORANGE, GREEN, PURPLE, SKY, RED = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
GREY, PALE, INK = "#8A8A8A", "#B8B8B8", "#222222"
COLOURS: Final = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED, INK)
DASHES: Final = ("-", "--", ":", "-.")
MARKERS: Final = "osD^vP"


@dataclass(frozen=True)
class LineStyle:
    """The line of a student.

    Attributes:
        colour: of it and of what belongs to it.
        dashes: as the plotting library writes them.
        marker: of its points, where there are few lines.
    """

    colour: str
    dashes: str
    marker: str


def line_styles(names: Iterable[str]) -> dict[str, LineStyle]:
    """Return a style for each student of an experiment, by its name.

    By the alphabet, so that the order of the experiment file, which no result depends on, does not matter; where the
    colours are used up, dashed.

    Args:
        names: of all students of the experiment.
    """
    return {
        name: LineStyle(
            COLOURS[place % len(COLOURS)], DASHES[place // len(COLOURS) % len(DASHES)], MARKERS[place % len(MARKERS)]
        )
        for place, name in enumerate(sorted(set(names)))
    }
