"""Ids of rows, from bits that can be written down."""

import numpy as np
import pytest

from miniplm_assets.core import identity
from miniplm_assets.core.errors import CorpusError
from miniplm_assets.core.identity import row_ids


def test_an_id_is_nine_hexadecimal_digits_and_27_bits_of_the_place() -> None:
    ids = row_ids("123456789abcdef0", num_rows=3, shard="a")
    assert ids.tolist() == [0x123456789 * 2**27 + place for place in (0, 1, 2)]
    assert [f"{one:063b}" for one in ids] == [f"{0x123456789:036b}{place:027b}" for place in (0, 1, 2)]
    assert (ids.dtype, ids.shape) == (np.int64, (3,))
    assert row_ids("123456789abcdef0", num_rows=0, shard="a").shape == (0,)


def test_the_largest_id_is_not_negative() -> None:
    [first] = row_ids("f" * 32, num_rows=1, shard="a").tolist()
    assert first + 2**27 - 1 == 2**63 - 1  # of its last row


def test_more_rows_than_an_id_can_number_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert identity.MAX_ROWS_PER_SHARD == 134_217_728
    with pytest.raises(
        CorpusError,
        match=r"^shard web: 134,217,729 rows, but an id numbers at most 134,217,728 in one file. Split the file.$",
    ):
        row_ids("0" * 32, num_rows=134_217_729, shard="web")
    monkeypatch.setattr(identity, "MAX_ROWS_PER_SHARD", 3)  # the limit itself would be 1 GiB
    assert row_ids("0" * 32, num_rows=3, shard="web").tolist() == [0, 1, 2]
    with pytest.raises(CorpusError, match="shard web: 4 rows"):
        row_ids("0" * 32, num_rows=4, shard="web")
