"""Which language a document is in: a column, and which stay."""

import random
import unicodedata
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from miniplm_assets.core.errors import ExperimentError
from miniplm_assets.corpus.languages import CHARACTERS, languages_of
from miniplm_assets.experiment import Cleaning, load_experiment
from miniplm_assets.experiment.languages import LANGUAGES
from miniplm_assets.lineage.work import Work
from tests.test_duplicates import experiment, materialise, tables, write_corpus
from tests.test_work import TestRun

TEXTS = {
    "en": "The quick brown fox jumps over the lazy dog, and nobody in the village was surprised by that.",
    "de": "Der schnelle braune Fuchs springt über den faulen Hund, und niemand im Dorf war davon überrascht.",
    "fr": "Le renard brun saute par-dessus le chien paresseux, et personne au village n'en fut surpris.",
    "zh": "敏捷的棕色狐狸跳过了懒狗。村里没有人对此感到惊讶。",
    "ja": "すばしこい茶色の狐が怠け者の犬を飛び越えたが、村の誰もそれに驚かなかった。",
    "ru": "Быстрая коричневая лиса прыгает через ленивую собаку, и никто в деревне этому не удивился.",
    "zxx": "0 1 2 3 4 5 6 7 8 9 :: 3.14159",
}


def test_the_codes_are_those_of_the_model() -> None:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    assert set(LanguageIdentifier.from_model_file(MODEL_FILE).labels) == LANGUAGES.keys()


def test_languages_are_found() -> None:
    assert languages_of(TEXTS.values()) == list(TEXTS)
    # Nothing to go by; and what comes late is not looked at.
    assert languages_of(["", " \n", "!", "🙂", TEXTS["de"] * 50 + TEXTS["en"] * 10**5]) == ["zxx"] * 4 + ["de"]
    assert len(TEXTS["de"]) * 50 > CHARACTERS


def test_many_texts_at_once_are_in_the_languages_of_each_alone() -> None:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    package = LanguageIdentifier.from_model_file(MODEL_FILE)
    generator = random.Random(7)
    mixed = [generator.choices(list(TEXTS.values()), k=3) for _ in range(300)]
    texts = [
        *("".join(three)[: generator.randrange(1, 300)] for three in mixed),
        *("".join(map(chr, generator.choices(range(0x3000), k=generator.randrange(1, 90)))) for _ in range(300)),
        *(unicodedata.normalize("NFD", text) for text in TEXTS.values()),
        *(text.upper() for text in TEXTS.values()),
        *(path.read_text(encoding="utf-8") for path in sorted(Path(random.__file__).parent.glob("*.py"))),
        "\ud800 a lone surrogate",
        "a",
    ]
    heads = [text[:CHARACTERS] for text in texts]
    alone = [package.classify(head)[0] if any(letter.isalpha() for letter in head) else "zxx" for head in heads]
    assert languages_of(texts) == alone and len(set(alone)) > 15
    assert languages_of(texts[::-1]) == alone[::-1]


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("eng", "did you mean 'en' (English)?"),
        ("German", "did you mean 'de' (German)?"),
        ("ger", "did you mean 'de' (German)?"),
        ("EN", "did you mean 'en' (English)?"),
        ("zh-CN", "did you mean 'zh' (Chinese)?"),
        ("Spansh", "did you mean 'es' (Spanish)?"),
        ("ara", "did you mean 'ar' (Arabic)?"),
        ("jp", "did you mean 'ja' (Japanese)?"),
        ("qqq", "known: ace, af,"),
    ],
)
def test_an_unknown_language_is_refused_with_the_nearest(tmp_path: Path, word: str, hint: str) -> None:
    path = experiment(tmp_path, languages=["de", word])
    with pytest.raises(ExperimentError) as error:
        load_experiment(path)
    assert f"corpus.cleaning.languages: '{word}' is no known language, {hint}" in str(error.value)


def test_every_language_stands_alone(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"corpus\.cleaning\.languages: '\*' stands for every language"):
        load_experiment(experiment(tmp_path, languages=["*", "de"]))


def test_the_order_of_languages_does_not_matter() -> None:
    assert Cleaning(languages=("en", "de", "en")).identity() == Cleaning(languages=("de", "en")).identity()


def facts_of(pipeline: Any) -> dict[str, Any]:
    return dict(pipeline.store.require(pipeline.latest_fingerprints().recipe("documents")).facts)


def test_documents_of_other_languages_are_rejected_rows_that_say_which(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", a=[*TEXTS.values(), " "], b=[TEXTS["fr"]], c=[TEXTS["en"]])
    pipeline, _ = materialise(experiment(tmp_path, languages=["de", "en"]))
    documents, rejected = tables(pipeline)
    assert documents.select("shard", "line", "language").rows() == [
        ("a.jsonl", 1, "en"),
        ("a.jsonl", 2, "de"),
        ("c.jsonl", 1, "en"),
    ]
    assert documents["text"].to_list() == [TEXTS["en"], TEXTS["de"], TEXTS["en"]]
    assert rejected.select("shard", "line", "reason").rows() == [
        *(("a.jsonl", 3 + place, f"language_{code}") for place, code in enumerate(("fr", "zh", "ja", "ru", "zxx"))),
        ("a.jsonl", 8, "empty"),
        ("b.jsonl", 1, "language_fr"),  # of which nothing stays, which is no fault
    ]
    facts = facts_of(pipeline)
    assert facts["documents_per_language"] == {"de": 1, "en": 2}
    assert facts["dropped_per_language"] == {"fr": 2, "ja": 1, "ru": 1, "zh": 1, "zxx": 1}
    assert (facts["num_of_other_languages"], facts["num_rejected"]) == (6, 1)


def test_a_language_is_a_column_where_all_stay(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", a=list(TEXTS.values()))
    documents, rejected = tables(materialise(experiment(tmp_path, languages=["*"]))[0])
    assert documents["language"].to_list() == list(TEXTS) and rejected.is_empty()
    without, _ = tables(materialise(experiment(tmp_path))[0])
    assert "language" not in without.columns
    assert documents.select(pl.exclude("language", "document_id")).equals(without.select(pl.exclude("document_id")))


def test_a_document_of_another_language_is_nobodys_twin(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", a=[TEXTS["fr"], TEXTS["en"], TEXTS["en"]], b=[TEXTS["en"], TEXTS["fr"]])
    pipeline, _ = materialise(experiment(tmp_path, languages=["en"], duplicates="exact"))
    documents, rejected = tables(pipeline)
    assert documents.select("shard", "line", "language").rows() == [("a.jsonl", 2, "en")]
    first = documents["document_id"][0]
    assert rejected.select("shard", "line", "reason", "twin_id").rows() == [
        ("a.jsonl", 1, "language_fr", None),
        ("a.jsonl", 3, "exact_duplicate", first),
        ("b.jsonl", 1, "exact_duplicate", first),
        ("b.jsonl", 2, "language_fr", None),
    ]
    facts = facts_of(pipeline)
    assert (facts["documents_per_language"], facts["num_duplicates"]) == ({"en": 1}, 2)


@pytest.mark.parametrize(
    ("languages", "passed", "is_warning"),
    [
        (["en"], True, False),
        (["*"], True, False),
        ([], True, False),
        (["en", "sv"], False, True),
        (["sv"], False, False),
    ],
)
def test_a_language_that_no_document_is_in_is_named(
    tmp_path: Path, languages: list[str], passed: bool, is_warning: bool
) -> None:
    write_corpus(tmp_path / "corpus", a=[TEXTS["en"]], b=[TEXTS["fr"]])
    pipeline, _ = materialise(experiment(tmp_path, languages=languages))
    work = Work(pipeline, pipeline.graph["documents"], TestRun(pipeline))
    work.node.kind.make(work)  # all of it is stored
    [check] = [check for check in work.tally.checks if check.name == "named_languages_are_found"]
    assert check.passed == passed and (passed or check.is_warning == is_warning)
    assert passed or "no document is in sv; dropped of others:" in check.description
