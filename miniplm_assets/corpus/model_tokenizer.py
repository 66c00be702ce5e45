"""A model's own tokenizer, held against the one that the sequences are made with.

Scores mean nothing where a piece of text has another id than the model learnt it by. Equal ids are not all: many models
learnt every text behind a first token (Llama's and Gemma's `<bos>`), which their tokenizer puts there and packing does
not. Whether it does is seen by encoding: the template in tokenizer.json decides, whatever tokenizer_config.json says.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from miniplm_assets.core.doors import explained_as
from miniplm_assets.core.errors import ModelError
from miniplm_assets.corpus.tokenizer import TOKENIZER_FILE, load_tokenizer

# Any text will do: what stands before its own tokens was put there.
SOME_TEXT: Final = "a"
NUM_NAMED: Final = 3


@dataclass(frozen=True, kw_only=True)
class FirstToken:
    """The token that a template puts in front of a text."""

    piece: str
    token_id: int


def first_token(folder: Path, named: str) -> FirstToken | None:
    """Return the token that a folder's tokenizer puts in front of every text, if it puts one there.

    Args:
        folder: holds tokenizer.json.
        named: what messages call the folder.

    Raises:
        ModelError: if tokenizer.json cannot be read, or more than one token comes first.
    """
    tokenizer = _load(folder, named)
    begun = tokenizer.encode(SOME_TEXT, add_special_tokens=True).ids
    plain = tokenizer.encode(SOME_TEXT, add_special_tokens=False).ids
    starts = [start for start in range(len(begun) - len(plain) + 1) if begun[start : start + len(plain)] == plain]
    num_first = starts[0] if starts and plain else 0
    first = [
        FirstToken(piece=str(tokenizer.id_to_token(token_id)), token_id=token_id) for token_id in begun[:num_first]
    ]
    if len(first) > 1:
        raise ModelError(
            f"{named}: its tokenizer puts {len(first)} tokens in front of a text ({', '.join(map(_shown, first))}), "
            "but a sequence is scored behind one at most; set scoring.begin_of_sequence to none to score without them"
        )
    return first[0] if first else None


def require_same_pieces(model_folder: Path, tokenizer_folder: Path, *, model: str, tokenizer: str) -> None:
    """Make sure that a model knows each piece of a tokenizer by its id; one without a tokenizer.json is not asked.

    Special tokens that no sequence holds may differ: all but the one that ends a document.

    Args:
        model_folder: the model's; its own tokenizer.json is compared.
        tokenizer_folder: what `load_tokenizer` reads.
        model: what messages call the one.
        tokenizer: and the other.

    Raises:
        ModelError: naming pieces whose ids differ, or an id that the model has no embedding for.
    """
    packing = load_tokenizer(tokenizer_folder, origin=tokenizer)
    wanted = packing.pieces_in_sequences()
    num_embeddings = _num_embeddings(model_folder)
    highest = max(wanted.values())
    if num_embeddings is not None and highest >= num_embeddings:
        raise ModelError(
            f"{model}: knows the token ids 0 to {num_embeddings - 1:,} (vocab_size in config.json), but tokenizer "
            f"{tokenizer} has pieces up to id {highest:,}; name the tokenizer that belongs to the model"
        )
    if not (model_folder / TOKENIZER_FILE).is_file():
        return
    known = _load(model_folder, model).get_vocab(with_added_tokens=True)
    others = sorted(
        (piece for piece, token_id in wanted.items() if known.get(piece) != token_id), key=wanted.__getitem__
    )
    if others:
        shown = "; ".join(
            f"{piece!r} is {known.get(piece)} there and {wanted[piece]} here" for piece in others[:NUM_NAMED]
        )
        raise ModelError(
            f"{model}: its own {TOKENIZER_FILE} has other ids than tokenizer {tokenizer} for {len(others):,} of "
            f"{len(wanted):,} pieces: {shown}. Its scores of these sequences would mean nothing; name the model's own "
            "tokenizer under tokenizers, or another model"
        )


def begin_of_sequence(model_folder: Path, tokenizer_folder: Path, *, model: str, tokenizer: str) -> FirstToken | None:
    """Return the token behind which a model learnt every text, if there is one: what its own tokenizer puts first.

    Args:
        model_folder: the model's. Where it has no tokenizer.json, the other one's word is taken.
        tokenizer_folder: that of the sequences.
        model: what messages call the one.
        tokenizer: and the other.

    Raises:
        ModelError: if the two put different tokens first.
    """
    ours = first_token(tokenizer_folder, f"tokenizer {tokenizer}")
    if not (model_folder / TOKENIZER_FILE).is_file():
        return ours
    theirs = first_token(model_folder, model)
    if theirs != ours:
        raise ModelError(
            f"{model}: its own tokenizer puts {_shown(theirs)} in front of a text, and tokenizer {tokenizer} "
            f"{_shown(ours)}. Name the model's own tokenizer under tokenizers; or set scoring.begin_of_sequence to "
            "none, to score without a token in front"
        )
    return theirs


def _shown(token: FirstToken | None) -> str:
    return "nothing" if token is None else f"{token.piece!r} (id {token.token_id})"


def _load(folder: Path, named: str) -> Tokenizer:
    with explained_as(
        ModelError,
        f"{named}: {TOKENIZER_FILE} cannot be read by this version of tokenizers",
        "fetch it again; or where a newer library wrote it, upgrade tokenizers",
    ):
        return Tokenizer.from_file(str(folder / TOKENIZER_FILE))


def _num_embeddings(model_folder: Path) -> int | None:
    """Return how many tokens a model knows by its config.json; None where it does not say."""
    with explained_as(ModelError, f"{model_folder}: config.json cannot be read", "fetch the model again"):
        config: Mapping[str, Any] = json.loads((model_folder / "config.json").read_text(encoding="utf-8"))
        found = config.get("vocab_size", (config.get("text_config") or {}).get("vocab_size"))
    return found if isinstance(found, int) else None
