"""A minute of damaged inputs through the doors; `python -m tests.fuzz DOOR` goes on for as long as one likes."""

from pathlib import Path

import pytest

from miniplm_assets.core.errors import CorpusError
from tests.fuzz import Door, doors, fuzz

pytestmark = pytest.mark.long

SECONDS = 8


@pytest.mark.parametrize("name", sorted(doors()))
def test_damaged_inputs_end_in_our_own_errors(name: str) -> None:
    assert fuzz(doors()[name](), seconds=SECONDS) > 0


@pytest.mark.parametrize("error", [KeyError("raw"), CorpusError("")])
def test_the_harness_notices_what_is_no_error_of_ours(error: Exception) -> None:
    def enter(folder: Path) -> None:
        if b"!" in (folder / "a").read_bytes():
            raise error

    with pytest.raises((KeyError, AssertionError)):
        fuzz(Door("a", [b"text!"], enter), seconds=SECONDS)
