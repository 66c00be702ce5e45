"""Documents that are much alike: what a signature says of two texts, which one stays, and what is never dropped."""

import hashlib
import random
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miniplm_assets.core.errors import ExperimentError
from miniplm_assets.corpus import signatures as signatures_module
from miniplm_assets.corpus.duplicates import NO_TWIN, KeptDocuments
from miniplm_assets.corpus.hashes import Hashes
from miniplm_assets.corpus.signatures import bands_of, num_places_of_band, shingles_of, signatures_of, similarity_of
from miniplm_assets.experiment import load_experiment
from miniplm_assets.experiment.cleaning import NearDuplicates
from tests.test_duplicates import experiment, materialise, tables, write_corpus

NEAR = NearDuplicates()


def variants(seed: int, num_originals: int, most_variants: int) -> list[str]:
    """Texts of random words, and of each some variants with one word in so many replaced; in a random order."""
    generator = random.Random(seed)
    found = []
    for _ in range(num_originals):
        words = [f"w{generator.randrange(5_000)}" for _ in range(generator.randrange(30, 200))]
        found.append(" ".join(words))
        for _ in range(generator.randrange(most_variants + 1)):
            share = generator.choice([0, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.3])
            found.append(" ".join(f"x{generator.random()}" if generator.random() < share else word for word in words))
    generator.shuffle(found)
    return found


def shingle_set(text: str, num_words: int = 5) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[place : place + num_words]) for place in range(len(words) - num_words + 1)}


def similarity(one: set[Any], other: set[Any]) -> float:
    return len(one & other) / len(one | other)


def twins_of(texts: list[str], near: NearDuplicates, seed: int) -> list[tuple[int, float]]:
    """The place of the twin of each text, and how alike it is, over files and batches of random sizes."""
    generator = random.Random(seed)
    kept, place, found = KeptDocuments(near), 0, []
    place_of_id: dict[int, int] = {NO_TWIN: NO_TWIN}
    for shard in range(1, len(texts) + 1):
        next_id = shard << 27
        kept.begin_shard(next_id)
        for _ in range(3):
            batch = texts[place : place + generator.randrange(400)]
            twins = kept.twins(Hashes.of(batch, near))
            for number, (document_id, alike) in enumerate(zip(twins.document_id, twins.similarity, strict=True)):
                if document_id == NO_TWIN:
                    place_of_id[next_id] = place + number
                    next_id += 1
                found.append((int(document_id), float(alike)))
            place += len(batch)
        if place >= len(texts):
            break
    return [(place_of_id[document_id], alike) for document_id, alike in found]


def test_shingles_by_hand() -> None:
    def shingles(text: str, num_words: int = 3) -> list[str]:
        return [shingle for some in shingles_of(text, num_words) for shingle in some]

    assert shingles("One two, THREE (four)") == ["one two three", "two three four"]
    assert shingles("One two!") == ["one two"]
    assert shingles("猫が好き") == ["猫 が 好", "が 好 き"]
    assert shingles("a猫b") == ["a 猫 b"]
    assert shingles("don't") == ["don t"]
    assert shingles("?!") == ["?!"]
    assert shingles("") == [""]
    assert shingles("हिन्दी में") == ["हिन्दी में"]


def test_a_long_text_is_cut_without_losing_a_shingle(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = variants(0, 5, 3)
    whole = signatures_of(texts, NEAR)
    monkeypatch.setattr(signatures_module, "_MAX_SHINGLES", 7)
    assert (signatures_of(texts, NEAR) == whole).all()


def test_a_signature_says_how_alike_two_texts_are() -> None:
    texts = variants(1, 150, 4)
    sets, signatures = [shingle_set(text) for text in texts], signatures_of(texts, NEAR)
    generator = random.Random(0)
    errors = []
    for one in range(len(texts)):
        others = [other for other in range(len(texts)) if sets[one] & sets[other]] + generator.sample(
            range(len(texts)), 3
        )
        for other in others:
            estimated = float(similarity_of(signatures[one], signatures[other]))
            errors.append(estimated - similarity(sets[one], sets[other]))
    # Of 128 permutations the standard deviation is 0.044 at most.
    assert max(map(abs, errors)) < 0.2 and np.std(errors) < 0.044 and abs(np.mean(errors)) < 0.01


def test_signatures_are_those_that_stored_results_have() -> None:
    """They must not change under a fingerprint: with this digest, raise the code version of `documents`."""
    signature = signatures_of(["A corpus holds the same page many times, and this is one of them."], NEAR)
    assert hashlib.sha256(signature.tobytes()).hexdigest()[:16] == "c1987890dc0faced"
    assert hashlib.sha256(bands_of(signature, NEAR).tobytes()).hexdigest()[:16] == "9db3ea298cfec9d8"


@pytest.mark.parametrize(
    ("min_similarity", "num_permutations", "num_places"), [(0.8, 128, 8), (1.0, 128, 128), (0.5, 64, 3), (0.01, 16, 1)]
)
def test_as_many_places_are_a_band_as_let_nine_of_ten_meet(
    min_similarity: float, num_permutations: int, num_places: int
) -> None:
    def recall(places: int) -> float:
        return 1 - (1 - min_similarity**places) ** (num_permutations // places)

    near = NearDuplicates(min_similarity=min_similarity, num_permutations=num_permutations)
    assert num_places_of_band(near) == num_places
    assert num_places == 1 or recall(num_places) >= 0.9
    assert num_places == num_permutations or recall(num_places + 1) < 0.9


@pytest.mark.parametrize(("seed", "min_similarity"), [(0, 0.8), (1, 0.5), (2, 1.0)])
def test_the_first_that_is_alike_stays(seed: int, min_similarity: float) -> None:
    """Against a comparison of each text with all that stay before it, whatever the sizes of files and batches."""
    near = NearDuplicates(min_similarity=min_similarity)
    texts = variants(seed, 400, 8)
    signatures = signatures_of(texts, near)
    places = num_places_of_band(near)
    expected: list[int] = []
    stay: list[int] = []
    for one in range(len(texts)):
        twin = NO_TWIN
        if stay:
            same = signatures[stay] == signatures[one]
            meet = same[:, : 128 // places * places].reshape(len(stay), -1, places).all(axis=2).any(axis=1)
            alike = np.flatnonzero(meet & ((same.sum(axis=1) - 0.5) / 127.5 >= min_similarity))
            twin = stay[alike[0]] if len(alike) else NO_TWIN
        expected.append(twin)
        if twin == NO_TWIN:
            stay.append(one)
    found = twins_of(texts, near, seed)
    assert [twin for twin, _ in found] == expected
    assert 0.2 < len(stay) / len(texts) < 0.8
    for one, (twin, alike) in enumerate(found):
        if twin != NO_TWIN:
            estimated = float(similarity_of(signatures[one], signatures[twin]))
            assert alike == pytest.approx(1 if texts[one] == texts[twin] else estimated)


def test_precision_and_recall_against_the_sets_of_shingles() -> None:
    texts = variants(3, 700, 8)
    sets = [shingle_set(text) for text in texts]
    of_shingle: dict[Any, list[int]] = {}
    stay, num_alike, num_found, num_much_alike, num_much_found, num_unlike = set(), 0, 0, 0, 0, 0
    similarities = []
    for one, (twin, _) in enumerate(twins_of(texts, NEAR, 3)):
        met = {other for shingle in sets[one] for other in of_shingle.get(shingle, ())} & stay
        most = max((similarity(sets[one], sets[other]) for other in met), default=0.0)
        if twin != NO_TWIN:
            assert twin in stay  # each has a twin that is there
            similarities.append(similarity(sets[one], sets[twin]))
        else:
            stay.add(one)
            for shingle in sets[one]:
                of_shingle.setdefault(shingle, []).append(one)
        num_alike += most >= 0.8
        num_found += most >= 0.8 and twin != NO_TWIN
        num_much_alike += most >= 0.88
        num_much_found += most >= 0.88 and twin != NO_TWIN
        if most < 0.65:
            num_unlike += 1
            assert twin == NO_TWIN  # nothing is lost that has no twin
    precision = np.mean([one >= 0.8 for one in similarities])
    # 0.98 and 0.95 as seen, and all of those much alike.
    assert precision > 0.9 and min(similarities) > 0.65
    assert num_found / num_alike > 0.9 and num_much_found / num_much_alike > 0.99


ODD = [
    "",
    " \n\t",
    "?!?!",
    "?!?! ",
    "!",
    "ひとつの文書がここにあり、それはふたたび現れる。",
    "ひとつの文書がここにあり、それはふたたび現れる!",
    "まったく別の文書であって、上のものとは似ていない。",
    "word " * 50_000,
    "word " * 60_000,
    "Two words",
    "two: WORDS!",
    "two other words",
]


def test_odd_texts(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", a=ODD[:7], b=ODD[7:])
    documents, rejected = tables(materialise(experiment(tmp_path, duplicates="near"))[0])
    id_of = {row["text"]: row["document_id"] for row in documents.iter_rows(named=True)}
    assert list(id_of) == [ODD[place] for place in (2, 3, 4, 5, 7, 8, 10, 12)]
    assert rejected.select("shard", "line", "reason", "twin_id").rows() == [
        ("a.jsonl", 1, "empty", None),
        ("a.jsonl", 2, "empty", None),
        ("a.jsonl", 7, "near_duplicate", id_of[ODD[5]]),
        ("b.jsonl", 3, "near_duplicate", id_of[ODD[8]]),
        ("b.jsonl", 5, "near_duplicate", id_of[ODD[10]]),
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=40), st.text("ab 猫!", max_size=12)), max_size=60), st.integers(0, 9))
def test_of_any_texts_each_stays_or_has_a_twin_that_does(texts: list[str], seed: int) -> None:
    """Short texts have few shingles, of which a hair's breadth decides; whether any is shared at all does not."""
    stay = {}
    for place, (twin, alike) in enumerate(twins_of(texts, NEAR, seed)):
        if twin == NO_TWIN:
            assert texts[place] not in stay.values()
            stay[place] = texts[place]
            continue
        assert twin in stay and 0.79 < alike <= 1
        mine, other = (
            {shingle for some in shingles_of(text, 5) for shingle in some} for text in (texts[place], stay[twin])
        )
        assert mine & other
        assert (alike == 1) or texts[place] != stay[twin]


def test_a_file_more_costs_that_file_and_changes_nothing_before_it(tmp_path: Path) -> None:
    texts = variants(4, 100, 6)
    path = experiment(tmp_path, duplicates="near", near={"min_similarity": 0.7})
    write_corpus(tmp_path / "corpus", a=texts[:150], b=texts[150:200])
    before, rejected_before = tables(materialise(path)[0])
    write_corpus(tmp_path / "corpus", c=texts[200:])
    pipeline, computed = materialise(path)
    documents, rejected = tables(pipeline)
    assert computed == 1
    assert documents.head(len(before)).equals(before) and rejected.head(len(rejected_before)).equals(rejected_before)
    # In the order of the files, what stays is what stays of one file that holds all.
    expected = [
        place for place, (twin, _) in enumerate(twins_of(texts, NearDuplicates(min_similarity=0.7), 0)) if twin < 0
    ]
    assert documents["text"].to_list() == [texts[place] for place in expected]
    kept = documents.join(rejected, left_on="document_id", right_on="twin_id")
    assert len(kept) == len(rejected) == len(texts) - len(expected)
    assert rejected.filter(pl.col("reason") == "near_duplicate")["similarity"].is_between(0.69, 1).all()


def test_what_is_not_read_is_refused(tmp_path: Path) -> None:
    path = experiment(tmp_path, duplicates="exact", near={"min_similarity": 0.9})
    with pytest.raises(ExperimentError, match=r"corpus\.cleaning: near: is read with duplicates: near alone"):
        load_experiment(path)
    path = experiment(tmp_path, duplicates="near", near={"similarity": 0.9})
    with pytest.raises(ExperimentError, match="did you mean 'min_similarity'"):
        load_experiment(path)
