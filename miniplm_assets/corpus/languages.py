"""Which language a text is in, by py3langid: a naive Bayes model over byte n-grams, which its package holds."""

from collections.abc import Iterable
from functools import cache
from typing import Any, Final

# As many decide it, at some 2,000 texts a second; more would cost more and change few.
CHARACTERS: Final = 2_000
# Numbers, symbols, noise: the code of ISO 639 for what is in no language.
NO_LANGUAGE: Final = "zxx"


def languages_of(texts: Iterable[str]) -> list[str]:
    """Return the code of the language of each text, by its first `CHARACTERS` characters."""
    identifier = _identifier()
    heads = (text[:CHARACTERS] for text in texts)
    # Of a text without a letter the model says something, too.
    return [str(identifier.classify(head)[0]) if any(map(str.isalpha, head)) else NO_LANGUAGE for head in heads]


@cache
def _identifier() -> Any:
    """Load the model, half a second; one of our own, since anybody may restrict the languages of the shared one."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE)
