"""A line of progress that says how much of something is done, for whoever can draw it."""


class Progressed(str):
    """A line as any other, and how far it is.

    Attributes:
        done: of the steps, or parts, that the line speaks of.
        total: how many these are in all, at least one.
    """

    done: int
    total: int

    def __new__(cls, line: str, *, done: int, total: int) -> "Progressed":
        """Return a line with its numbers."""
        told = super().__new__(cls, line)
        told.done, told.total = done, total
        return told
