"""Byte-level BPE by tiktoken, where it is sure to give the ids that the tokenizers library gives.

Both cut a text by the same regular expression and then merge the neighbours of lowest rank, leftmost first, until none
is left. They differ in what counts as a merge: the tokenizers library joins a pair only if the pair itself is in its
list, tiktoken joins any pair that together is a token, and takes a piece that is a token at once.

They agree where the list of merges, applied to the bytes of any token alone, ends in that token, which is checked
for every token when a tokenizer is loaded. For suppose that in some text both have come to the same state, and
tiktoken would join neighbours x, y to the token xy by a pair (x, y) that is not in the list. What was merged inside of
x and y was merged there as it would have been in the bytes of xy alone: the lowest rank first, and nothing reached
across their ends. So the list, applied to the bytes of xy alone, comes through [x, y], from where only the pair (x, y)
leads to [xy]; yet it ends in [xy], so that (x, y) is in the list.
"""

import json
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
import tiktoken
from numpy.typing import NDArray
from tokenizers import Tokenizer

NUM_BYTES: Final = 256
# What the ByteLevel pre-tokenizer cuts by, unless it is told not to: GPT-2's expression.
GPT2_PATTERN: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# What of an expression means the same to both libraries. Anchors, named classes and other letters behind a backslash do
# not: "^" begins a line to the one, and the text to the other; [[:alpha:]] has an accented letter, or has none.
_SAME_TO_BOTH: Final = re.compile(
    r"""(?:
        \\[pP]\{\^?(?:L|N|M|P|S|Lu|Ll|Lt|Lm|Lo)\}   # a category of characters
      | \\[sSrnt] | \\[^A-Za-z0-9]                  # white space; a character as it stands
      | \(\?(?:i:|:|=|!) | \((?!\?) | \)            # groups
      | \[\^?(?!:) | \]                             # classes
      | [^\\()\[\]^$.&~]                            # all else, but for what classes are added and cut by
    )*""",
    re.VERBOSE,
)
_NOT_SAME: Final = re.compile(r"--|\{\d+(,\d*)?\}\+")
# Texts that a thread takes at once: fewer, and handing them out costs more than the shortest of them.
TEXTS_PER_TASK: Final = 32


class FastMerges:
    """A tokenizer's merges and its cutting, without normalising and special tokens."""

    def __init__(self, pattern: str, ranks: dict[bytes, int], ids: NDArray[np.int32], slow: Tokenizer) -> None:
        self._encoding = tiktoken.Encoding("merges", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        self._ids = ids
        self._slow = slow
        affinity = getattr(os, "sched_getaffinity", None)
        self._threads = ThreadPoolExecutor(len(affinity(0)) if affinity else os.cpu_count(), "encode")

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Return the token ids of each text, on all cores; the GIL is free meanwhile."""
        tasks = [texts[start : start + TEXTS_PER_TASK] for start in range(0, len(texts), TEXTS_PER_TASK)]
        return [token_ids for done in self._threads.map(self._encode_some, tasks) for token_ids in done]

    def _encode_some(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        return [self._encode_one(text) for text in texts]

    def _encode_one(self, text: str) -> NDArray[np.int32]:
        try:
            ranks: NDArray[np.uint32] = self._encoding.encode_to_numpy(text, disallowed_special=())
        except ValueError:  # its expressions give up on some hundred thousand spaces in a row
            return np.array(self._slow.encode(text, add_special_tokens=False).ids, dtype=np.int32)
        return self._ids[ranks]


def find_fast_merges(spec: dict[str, Any], slow: Tokenizer, byte_of: dict[str, int]) -> FastMerges | None:
    """Return the fast way to encode with a tokenizer, or None where it might give other ids.

    Args:
        spec: the content of tokenizer.json.
        slow: the same, loaded by the tokenizers library.
        byte_of: the byte behind each character of byte-level vocabularies.
    """
    model, pattern = spec["model"], _pattern(spec.get("pre_tokenizer"))
    plain = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    if pattern is None or model.get("type") != "BPE" or any(model.get(name) for name in plain):
        return None
    if not all(token["special"] for token in spec.get("added_tokens", [])):
        return None  # they would be cut out of a text before all else
    vocabulary: dict[str, int] = model["vocab"]
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    pieces = [*byte_of, *("".join(merge) for merge in merges)]
    if len(set(pieces)) < len(pieces) or not vocabulary.keys() >= set(pieces):
        return None
    if model.get("ignore_merges") and len(pieces) < len(vocabulary):
        return None  # a token that no merge leads to would be found by its bytes
    alone = Tokenizer.from_str(
        json.dumps(spec | {"model": model | {"ignore_merges": False}, "added_tokens": [], "normalizer": None})
    ).model
    for piece in pieces:
        if [token.value for token in alone.tokenize(piece)] != [piece]:
            return None
    ranks = {bytes(map(byte_of.__getitem__, piece)): rank for rank, piece in enumerate(pieces)}
    ids = np.fromiter(map(vocabulary.__getitem__, pieces), dtype=np.int32, count=len(pieces))
    try:
        return FastMerges(pattern, ranks, ids, slow)
    except ValueError:  # an expression that one library reads, and the other does not
        return None


def _pattern(pre_tokenizer: Any) -> str | None:
    """Return the expression that a pre-tokenizer cuts by, if all it does is cut and spell out bytes."""
    match pre_tokenizer:
        case {"type": "ByteLevel", "add_prefix_space": False} if pre_tokenizer.get("use_regex", True):
            return GPT2_PATTERN
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        }:
            is_same = _SAME_TO_BOTH.fullmatch(pattern) is not None and _NOT_SAME.search(pattern) is None
            return str(pattern) if is_same else None
        case _:
            return None
