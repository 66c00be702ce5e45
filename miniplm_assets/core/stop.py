"""A request to stop: a flag that is looked at wherever work can be put down.

An exception alone would not do: Python drops one that is raised inside a destructor or a weak reference's callback,
and a run that was told to stop would go on.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class Stopped(BaseException):
    """The work was put down, since somebody asked for it; no Exception, so that nothing takes it for a failure."""


class Stop:
    """Whether somebody has asked a run to stop.

    Attributes:
        is_asked: whether somebody has.
        is_held: whether what is under way looks by itself, and must not be broken off in its middle.
    """

    def __init__(self) -> None:
        self.is_asked = False
        self.is_held = False

    def ask(self) -> None:
        """Ask; in the thread that does the work, as a handler of signals is.

        Raises:
            Stopped: at once, unless the work is held.
            KeyboardInterrupt: at once, if somebody has asked before.
        """
        if self.is_asked:
            raise KeyboardInterrupt
        self.is_asked = True
        if not self.is_held:
            raise Stopped

    def look(self) -> None:
        """Go on, unless somebody has asked.

        Raises:
            Stopped: if somebody has.
        """
        if self.is_asked:
            raise Stopped

    @contextmanager
    def held(self) -> Iterator[None]:
        """Do what must not be broken off in its middle, and what looks by itself where it can be put down."""
        was_held, self.is_held = self.is_held, True
        try:
            yield
        finally:
            self.is_held = was_held
