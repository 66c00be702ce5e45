"""The doors: every error over an input is one of ours, with file, cause and remedy; what is not its fault passes."""

import errno

import pytest

from miniplm_assets.core.doors import MAX_CAUSE_CHARACTERS, explained_as
from miniplm_assets.core.errors import CorpusError, ModelError


class PanicException(BaseException):
    """As Rust's bindings raise it."""


def through_the_door(error: BaseException) -> None:
    with explained_as(ModelError, "a.json: cannot be read", "fetch it again"):
        raise error


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (KeyError("x"), "KeyError: 'x'"),
        (RecursionError("too\n  deep"), "RecursionError: too deep"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "UnicodeDecodeError: 'utf-8' codec"),
        (NotImplementedError(), "NotImplementedError"),
        (PanicException("at line 3"), "PanicException: at line 3"),
        (OSError("no file named model.safetensors"), "OSError: no file named model.safetensors"),
        (FileNotFoundError(errno.ENOENT, "No such file", "b"), "FileNotFoundError: "),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "b"), "IsADirectoryError: "),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_a_library_raises_names_file_cause_and_remedy(error: BaseException, cause: str) -> None:
    with pytest.raises(ModelError) as found:
        through_the_door(error)
    assert str(found.value).startswith(f"a.json: cannot be read ({cause}")
    assert str(found.value).endswith("); fetch it again")
    assert found.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        CorpusError("ours"),
        OSError(errno.ENOSPC, "No space left on device"),
        ConnectionResetError(errno.ECONNRESET, "peer"),
        KeyboardInterrupt(),
        SystemExit(3),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_no_fault_of_the_input_passes_as_it_is(error: BaseException) -> None:
    with pytest.raises(type(error)) as found:
        through_the_door(error)
    assert found.value is error


def test_a_cause_of_pages_is_shortened() -> None:
    with pytest.raises(ModelError) as found:
        through_the_door(ValueError("x" * 1_000_000))
    assert len(str(found.value)) < MAX_CAUSE_CHARACTERS + 100
