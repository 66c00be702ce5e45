"""Where a text stands on the line of shares: pinned rows, a second implementation, shares, and what a change moves.

Where a pinned row changes, documents move between the splits of every corpus: a reference would then be asked for what
it was trained on. No code version makes up for that; the old rows have to come back.
"""

import hashlib
import math

import pytest

from miniplm_assets.core.splits import CANDIDATE, HELD_APART, REFERENCE, SPLITS, TEACHER, VALIDATION, split_of

PERCENT = {VALIDATION: 10, REFERENCE: 25, TEACHER: 15}
SHARES = {split: percent / 100 for split, percent in PERCENT.items()}
LARGE_SEED = 2**63 - 25
# text, then its split under seed 0, 1, 42 and LARGE_SEED
PINNED = [
    ("", "reference", "reference", "teacher", "candidate"),
    ("a", "reference", "reference", "candidate", "validation"),
    ("A", "teacher", "candidate", "teacher", "candidate"),
    (" a", "teacher", "validation", "teacher", "candidate"),
    ("The teacher reads the river.", "candidate", "candidate", "reference", "candidate"),
    ("na\u00efve", "reference", "validation", "candidate", "candidate"),
    ("蒸馏语言模型", "candidate", "candidate", "reference", "candidate"),
    ("数据", "candidate", "validation", "candidate", "candidate"),
    ("🙂", "validation", "reference", "reference", "reference"),
    ("👩🏽‍🔬 measures", "reference", "candidate", "candidate", "candidate"),
    ("line one\nline two\n", "candidate", "candidate", "reference", "candidate"),
    ("x" * 100_000, "reference", "candidate", "reference", "teacher"),
]
NUM_TEXTS = 10_000


def place_of(text: str, seed: int) -> int:
    """64 bits of BLAKE2b under the seed as its key, the first byte the lowest."""
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8, key=seed.to_bytes(8, "little")).hexdigest()
    return sum(int(digest[2 * byte : 2 * byte + 2], 16) << 8 * byte for byte in range(8))


def split_in_integers(text: str, seed: int) -> str:
    """The same line of shares in whole per cent, without a float."""
    place = place_of(text, seed)
    if 100 * place < 10 * 2**64:
        return "validation"
    if 100 * place < (10 + 25) * 2**64:
        return "reference"
    return "teacher" if 100 * place < (10 + 25 + 15) * 2**64 else "candidate"


def splits_of_many(seed: int, **percent: int) -> list[str]:
    shares = {split: value / 100 for split, value in {**PERCENT, **percent}.items()}
    return [split_of(f"document {number}", shares=shares, seed=seed) for number in range(NUM_TEXTS)]


def within_four_standard_deviations(count: int, share: float) -> bool:
    return abs(count - NUM_TEXTS * share) <= 4 * math.sqrt(NUM_TEXTS * share * (1 - share))


def test_the_hash_is_blake2b_of_64_bits() -> None:
    # RFC 7693, appendix A: BLAKE2b-512("abc") begins so; the key and the length below are its parameters.
    assert hashlib.blake2b(b"abc").hexdigest().startswith("ba80a53f981c4d0d6a2797b69f12f6e9")
    assert place_of("The teacher reads the river.", 42) == 0x2FFDBD38ACF05966


@pytest.mark.parametrize("row", PINNED, ids=lambda row: f"{len(row[0])}-characters")
def test_the_pinned_rows(row: tuple[str, ...]) -> None:
    text, *splits = row
    assert [split_of(text, shares=SHARES, seed=seed) for seed in (0, 1, 42, LARGE_SEED)] == splits
    assert [split_in_integers(text, seed) for seed in (0, 1, 42, LARGE_SEED)] == splits


def test_the_pinned_rows_hold_every_split() -> None:
    assert {split for _, *splits in PINNED for split in splits} == set(SPLITS) == {CANDIDATE, *PERCENT}


@pytest.mark.parametrize("seed", [0, 7, LARGE_SEED, 2**64 - 1])
def test_a_second_implementation_agrees(seed: int) -> None:
    assert splits_of_many(seed) == [split_in_integers(f"document {number}", seed) for number in range(NUM_TEXTS)]


@pytest.mark.parametrize("seed", [0, 7, LARGE_SEED])
def test_each_split_holds_its_share(seed: int) -> None:
    splits = splits_of_many(seed)
    for split, percent in {**PERCENT, CANDIDATE: 50}.items():
        assert within_four_standard_deviations(splits.count(split), percent / 100), split


def test_another_seed_is_an_independent_split() -> None:
    both = sum(one == other == REFERENCE for one, other in zip(splits_of_many(7), splits_of_many(8), strict=True))
    assert within_four_standard_deviations(both, 0.25 * 0.25)


def test_equal_texts_have_one_split_and_the_spelling_of_a_letter_counts() -> None:
    assert place_of("na\u00efve", 0) != place_of("nai\u0308ve", 0)  # looks the same
    for text in ("na\u00efve", "nai\u0308ve"):
        assert split_of(text, shares=SHARES, seed=1) == split_in_integers(text, 1)
    assert split_of("nai\u0308ve", shares=SHARES, seed=1) != split_of("na\u00efve", shares=SHARES, seed=1)


@pytest.mark.parametrize("split", [VALIDATION, REFERENCE, TEACHER])
def test_a_text_that_stands_where_a_share_ends_is_behind_it(split: str) -> None:
    # A share is [0, end): a text at `end` is outside, and inside of one that is larger by the smallest step there is.
    end = place_of("the river", 5) / 2**64
    nothing = dict.fromkeys(HELD_APART, 0.0)
    assert split_of("the river", shares={**nothing, split: end}, seed=5) == CANDIDATE
    assert split_of("the river", shares={**nothing, split: math.nextafter(end, 1)}, seed=5) == split


def test_without_shares_all_are_candidates() -> None:
    assert set(splits_of_many(3, **dict.fromkeys(HELD_APART, 0))) == {CANDIDATE}


def moves(**percent: int) -> set[tuple[str, str]]:
    before, after = splits_of_many(11), splits_of_many(11, **percent)
    return {(one, other) for one, other in zip(before, after, strict=True) if one != other}


def test_a_share_that_changes_moves_only_the_splits_behind_it() -> None:
    """The line is validation, reference, teacher, candidates; each border is moved by its share and those before."""
    assert HELD_APART == (VALIDATION, REFERENCE, TEACHER)
    assert moves(teacher=20) == {(CANDIDATE, TEACHER)}
    assert moves(teacher=0) == {(TEACHER, CANDIDATE)}
    assert moves(reference=30) == {(TEACHER, REFERENCE), (CANDIDATE, TEACHER)}
    assert moves(reference=20) == {(REFERENCE, TEACHER), (TEACHER, CANDIDATE)}
    assert moves(validation=15) == {(REFERENCE, VALIDATION), (TEACHER, REFERENCE), (CANDIDATE, TEACHER)}
