"""Byte-level BPE by gigatoken, where it is sure to give the ids that the tokenizers library gives.

Two things could make them differ.

How a text is cut. The one library runs an expression, the other has code of its own for some known expressions. For
those that are listed here the tests hold both against each other: every character of Unicode beside letters, digits,
marks, spaces and punctuation, and every short text of one character of each kind. They agree on all characters that
Python's tables know; on later ones they do not, since each library has its own edition of Unicode. So a text with a
character that is not in Python's tables is left to the tokenizers library.

What counts as a merge. The tokenizers library joins a pair only if the pair itself is in its list; another may join any
pair that together is a token, and take a piece that is a token at once. All agree where the list of merges, applied to
the bytes of any token alone, ends in that token, which is checked for every token when a tokenizer is loaded. For
suppose that in some text both have come to the same state, and the other would join neighbours x, y to the token xy by
a pair (x, y) that is not in the list. What was merged inside of x and y was merged there as it would have been in the
bytes of xy alone: the lowest rank first, and nothing reached across their ends. So the list, applied to the bytes of xy
alone, comes through [x, y], from where only the pair (x, y) leads to [xy]; yet it ends in [xy], so that (x, y) is in
the list.
"""

import json
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import numpy as np
from gigatoken.gigatoken_rs import load_hf_json
from numpy.typing import NDArray
from tokenizers import Tokenizer

# How Qwen 2 to 3 cut, and who followed them; Llama 3 takes up to three digits at once, Qwen 3.5 marks with letters.
QWEN: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA_3: Final = QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
QWEN_3_5: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_UPPER, _LOWER, _SHORT = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}", "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K: Final = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*{_SHORT}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The expressions that the tests have proven, beside the one that the ByteLevel pre-tokenizer has by itself.
PROVEN: Final = (QWEN, LLAMA_3, QWEN_3_5, O200K)
# It keeps each word that it has met, 60 bytes or so for one, and never lets go of any: after so much text it is loaded
# anew, a tenth of the time that the text took.
MAX_BYTES_OF_CACHE: Final = 256 << 20
# The planes that hold any; what is not looked at counts as unknown.
_PLANES: Final = ((0, 0x40000), (0xE0000, 0xF0000))
# Not in Python's tables: not assigned, for private use, half of a pair.
_UNKNOWN: Final = frozenset({"Cn", "Co", "Cs"})


class FastMerges:
    """A tokenizer's merges and its cutting, without normalising and special tokens.

    Args:
        spec: the content of tokenizer.json.
        slow: the same, loaded by the tokenizers library.
    """

    def __init__(self, spec: dict[str, Any], slow: Tokenizer) -> None:
        nothing = dict.fromkeys(("normalizer", "post_processor", "truncation", "padding"))
        self._spec = json.dumps(spec | nothing | {"added_tokens": []})
        self._slow = slow
        self._fast = load_hf_json(self._spec)
        self._num_bytes = 0

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Return the token ids of each text."""
        self._num_bytes += sum(map(len, texts))
        if self._num_bytes > MAX_BYTES_OF_CACHE:
            self._fast = load_hf_json(self._spec)
            self._num_bytes = 0
        return [self._encode_one(text) for text in texts]

    def _encode_one(self, text: str) -> NDArray[np.int32]:
        if not (text.isascii() or all_known(text)):
            return np.array(self._slow.encode(text, add_special_tokens=False).ids, dtype=np.int32)
        token_ids: NDArray[np.uint32] = self._fast.encode(text)
        return token_ids.view(np.int32)


def all_known(text: str) -> bool:
    """Say whether Python's tables of Unicode have every character of a text."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    return bool(_known()[points].all())


@cache
def _known() -> NDArray[np.bool_]:
    """Return for every code point whether Python's tables have it."""
    known = np.zeros(0x110000, dtype=np.bool_)
    for first, last in _PLANES:
        known[first:last] = [unicodedata.category(chr(point)) not in _UNKNOWN for point in range(first, last)]
    return known


def find_fast_merges(spec: dict[str, Any], slow: Tokenizer, byte_of: dict[str, int]) -> FastMerges | None:
    """Return the fast way to encode with a tokenizer, or None where it might give other ids.

    Args:
        spec: the content of tokenizer.json.
        slow: the same, loaded by the tokenizers library.
        byte_of: the byte behind each character of byte-level vocabularies.
    """
    model = spec["model"]
    plain = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    if not _is_proven(spec.get("pre_tokenizer")):
        return None
    if model.get("type") != "BPE" or any(model.get(name) for name in plain):
        return None
    if not all(token["special"] for token in spec.get("added_tokens", [])):
        return None  # they would be cut out of a text before all else
    vocabulary: dict[str, int] = model["vocab"]
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    pieces = [*byte_of, *("".join(merge) for merge in merges)]
    if len(set(pieces)) < len(pieces) or not vocabulary.keys() >= set(pieces):
        return None
    if len(set(vocabulary.values())) < len(vocabulary):
        return None  # of tokens that share an id it knows one
    if model.get("ignore_merges") and len(pieces) < len(vocabulary):
        return None  # a token that no merge leads to would be found by its bytes
    alone = Tokenizer.from_str(
        json.dumps(spec | {"model": model | {"ignore_merges": False}, "added_tokens": [], "normalizer": None})
    ).model
    for piece in pieces:
        if [token.value for token in alone.tokenize(piece)] != [piece]:
            return None
    try:
        return FastMerges(spec, slow)
    except RuntimeError:  # gigatoken takes fewer than the tokenizers library does, and need not
        return None


def _is_proven(pre_tokenizer: Any) -> bool:
    """Say whether all that a pre-tokenizer does is to cut by a proven expression and to spell out bytes."""
    match pre_tokenizer:
        case {"type": "ByteLevel", "add_prefix_space": False}:
            return bool(pre_tokenizer.get("use_regex", True))
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        }:
            return pattern in PROVEN
        case _:
            return False
