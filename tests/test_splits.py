"""Which split a text belongs to: pinned rows, a second implementation, and shares over many texts."""

import hashlib
import math

import pytest

from miniplm_assets.core.splits import CANDIDATE, HELD_APART, REFERENCE, SPLITS, TEACHER, VALIDATION, split_of

SHARES = {VALIDATION: 0.15, REFERENCE: 0.3, TEACHER: 0.25}
TEXTS = ["", "a", "A", "a ", "The quick brown fox.", "naïve", "naive", "数据", "🙂🙂", "x" * 10_000, "\n", "0", "1"]
SEEDS = [0, 1, 17, 2**63 - 1]


def by_hand(text, seed):
    """64 bits of keyed BLAKE2b, little-endian, as a place on the line of shares."""
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8, key=seed.to_bytes(8, "little")).digest()
    place = sum(byte << (8 * number) for number, byte in enumerate(digest))
    for split, end in ((VALIDATION, 0.15), (REFERENCE, 0.45), (TEACHER, 0.7)):
        if place < end * 2**64:
            return split
    return CANDIDATE


# Pinned: where a row changes, documents move between splits, and a reference scores what it has learnt from.
PINNED = {
    ("", 0): "reference",
    ("", 1): "validation",
    ("", 17): "reference",
    ("", 9223372036854775807): "candidate",
    ("a", 0): "reference",
    ("a", 1): "reference",
    ("a", 17): "validation",
    ("a", 9223372036854775807): "teacher",
    ("A", 0): "reference",
    ("A", 1): "teacher",
    ("A", 17): "teacher",
    ("A", 9223372036854775807): "candidate",
    ("a ", 0): "candidate",
    ("a ", 1): "validation",
    ("a ", 17): "teacher",
    ("a ", 9223372036854775807): "teacher",
    ("The quick brown fox.", 0): "reference",
    ("The quick brown fox.", 1): "candidate",
    ("The quick brown fox.", 17): "candidate",
    ("The quick brown fox.", 9223372036854775807): "teacher",
    ("naïve", 0): "reference",
    ("naïve", 1): "validation",
    ("naïve", 17): "candidate",
    ("naïve", 9223372036854775807): "reference",
    ("naive", 0): "reference",
    ("naive", 1): "reference",
    ("naive", 17): "teacher",
    ("naive", 9223372036854775807): "reference",
    ("数据", 0): "teacher",
    ("数据", 1): "validation",
    ("数据", 17): "teacher",
    ("数据", 9223372036854775807): "candidate",
    ("🙂🙂", 0): "validation",
    ("🙂🙂", 1): "teacher",
    ("🙂🙂", 17): "reference",
    ("🙂🙂", 9223372036854775807): "reference",
    ("xxxxxxxxxxxxxxxxxxxx", 0): "teacher",
    ("xxxxxxxxxxxxxxxxxxxx", 1): "reference",
    ("xxxxxxxxxxxxxxxxxxxx", 17): "teacher",
    ("xxxxxxxxxxxxxxxxxxxx", 9223372036854775807): "candidate",
    ("\n", 0): "reference",
    ("\n", 1): "reference",
    ("\n", 17): "teacher",
    ("\n", 9223372036854775807): "validation",
    ("0", 0): "candidate",
    ("0", 1): "reference",
    ("0", 17): "candidate",
    ("0", 9223372036854775807): "teacher",
    ("1", 0): "candidate",
    ("1", 1): "teacher",
    ("1", 17): "reference",
    ("1", 9223372036854775807): "reference",
}


def test_pinned_rows():
    found = {(text[:20], seed): split_of(text, shares=SHARES, seed=seed) for text in TEXTS for seed in SEEDS}
    assert found == PINNED
    assert set(found.values()) == set(SPLITS)


def test_a_second_implementation_agrees():
    for number in range(2_000):
        for seed in SEEDS:
            text = f"text {number}"
            assert split_of(text, shares=SHARES, seed=seed) == by_hand(text, seed)


def test_shares_are_those_asked_for_within_four_standard_deviations():
    splits = [split_of(f"document {number}", shares=SHARES, seed=5) for number in range(10_000)]
    for split, share in {**SHARES, CANDIDATE: 1 - sum(SHARES.values())}.items():
        assert splits.count(split) == pytest.approx(10_000 * share, abs=4 * math.sqrt(10_000 * share * (1 - share)))


def test_another_seed_is_another_split():
    pairs = [
        tuple(split_of(f"document {number}", shares=SHARES, seed=seed) for seed in (5, 6)) for number in range(10_000)
    ]
    both = sum(one == other == REFERENCE for one, other in pairs)
    assert both == pytest.approx(10_000 * 0.3 * 0.3, abs=4 * math.sqrt(10_000 * 0.09 * 0.91))


@pytest.mark.parametrize("place", range(len(HELD_APART)))
def test_a_share_that_changes_moves_only_the_splits_behind_it(place):
    changed = HELD_APART[place]
    wider = {**SHARES, changed: SHARES[changed] + 0.1}
    for number in range(3_000):
        before, after = (split_of(f"document {number}", shares=shares, seed=5) for shares in (SHARES, wider))
        if before in HELD_APART[: place + 1]:
            assert after == before
        elif after != before:
            assert HELD_APART.index(after) >= place


def test_a_share_of_nothing_holds_nothing_and_its_neighbours_meet():
    shares = {VALIDATION: 0.0, REFERENCE: 0.5, TEACHER: 0.0}
    splits = {split_of(f"document {number}", shares=shares, seed=0) for number in range(1_000)}
    assert splits == {REFERENCE, CANDIDATE}
