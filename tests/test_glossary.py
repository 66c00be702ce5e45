"""What words mean: those that a page uses are told, and no others."""

import pytest

from miniplm_assets.core.glossary import GLOSSARY, words_of


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Sequences that were kept", ["sequence"]),
        ("nats a token", ["nat"]),
        ("The teacher's loss, in bits a byte", ["teacher", "bits a byte"]),
        ("no KD against miniplm: not told apart", ["no KD", "MiniPLM", "told apart"]),
        ("seedling, national, scoreboard, flops", []),
        ("3 FLOPs", ["FLOP"]),
        ("half/student and pre-pilot are names, no words", []),
        ("", []),
    ],
)
def test_words_of_a_text_are_found_whole_in_any_form(text, terms):
    assert list(words_of(text)) == terms


def test_a_meaning_is_one_line_and_says_more_than_the_word():
    for term, meaning in GLOSSARY.items():
        assert 20 < len(meaning) < 115 and "\n" not in meaning, term
