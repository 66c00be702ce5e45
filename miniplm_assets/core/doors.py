"""The doors: where what somebody else wrote is handed to a library, and whatever comes back is put into words.

A library may raise anything over a damaged file, also what nobody has seen yet, so that no door lists what it catches.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from miniplm_assets.core.errors import MiniplmError

# The system's word on the name or the kind of what was asked for. Any other number speaks of a disk or a network,
# not of what the file holds.
OF_THE_INPUT: Final = frozenset(
    {
        errno.EACCES,
        errno.EINVAL,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EPERM,
    }
)
MAX_CAUSE_CHARACTERS: Final = 600


@contextmanager
def explained_as(kind: type[MiniplmError], what: str, remedy: str) -> Iterator[None]:
    """Turn whatever is raised over an input into one error of ours; ours, and those of a disk or a network, pass.

    Args:
        kind: of the error.
        what: which file, and what was done with it: "<file>: cannot be read as ...".
        remedy: what to do.

    Raises:
        MiniplmError: of that kind: what, the cause on one line, the remedy.
    """
    try:
        yield
    except MiniplmError:
        raise
    except BaseException as error:
        is_panic = type(error).__name__ == "PanicException"  # of Rust; a BaseException, and its class has no home
        if not (is_panic or isinstance(error, Exception)) or _is_of_a_device(error):
            raise
        raise kind(f"{what} ({cause_of(error)}); {remedy}") from error


def cause_of(error: BaseException) -> str:
    """Return an error on one line: its type, and what it says, shortened."""
    words = " ".join(str(error).split())
    if len(words) > MAX_CAUSE_CHARACTERS:
        words = words[: MAX_CAUSE_CHARACTERS - 1] + "…"
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _is_of_a_device(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno is not None and error.errno not in OF_THE_INPUT
