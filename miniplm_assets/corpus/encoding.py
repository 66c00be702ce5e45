"""Encoding texts for packing: token ids, and where each token ends in its text.

For a byte-level tokenizer the bytes of the tokens, laid end to end, *are* the text, so that the place of a
token follows from the lengths of those before it: a few NumPy passes instead of a pair of Python integers a
token. Where that does not hold (another kind of tokenizer, or a text that a normaliser changes) the
tokenizer's own offsets are asked for.
"""

import json
from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from miniplm_assets.core.encoded_texts import EncodedTexts
from miniplm_assets.core.errors import ModelError
from miniplm_assets.corpus.fast_merges import FastMerges, find_fast_merges

_SENTENCE_ENDS: Final = (".", "!", "?", "…", "。", "！", "？", "．", "｡", "।", "؟", "۔")  # noqa: RUF001 - other scripts are meant
# What may stand between the end of a sentence and the next one.
_CLOSERS: Final = "\"'”’»›)]}）」』】》〉 \t"  # noqa: RUF001

# Bytes or tokens that 32 bits count, however long a normaliser makes a text (11 times, at most).
_FEW: Final = 1 << 26


class PackingTokenizer:
    """A tokenizer as packing needs it. Special tokens that a text spells out are encoded as ordinary text.

    Attributes:
        end_of_document_id: the token that follows every document.
        vocab_size: one more than the largest id, added tokens included.
        token_num_bytes: int32 of shape (vocabulary,): UTF-8 bytes that a token stands for; 0 for special tokens. Exact
            for byte-level tokenizers; for others, of the piece as spelt, with a space for ▁ and a byte for <0xNN>.
        ends_sentence: bool of shape (vocabulary,): tokens that end like a sentence, closing quotes and brackets apart,
            or hold a line break.
    """

    def __init__(self, spec: dict[str, Any], *, end_of_document: str, named: str) -> None:
        # Nothing may be added to a text, cut from it, or trimmed from the offsets.
        spec = spec | {"post_processor": None, "truncation": None, "padding": None}
        added = [
            token | {"special": True} if token["content"] == end_of_document else token
            for token in spec.get("added_tokens", [])
        ]
        self._tokenizer = Tokenizer.from_str(json.dumps(spec | {"added_tokens": added}))
        self._tokenizer.encode_special_tokens = True
        self._end_of_document, self._named = end_of_document, named
        end_of_document_id = self._tokenizer.token_to_id(end_of_document)
        if end_of_document_id is None:
            raise ModelError(f"tokenizer {named}: its eos_token {end_of_document!r} is not in its vocabulary")
        self.end_of_document_id: int = end_of_document_id
        self._is_byte_level = "ByteLevel" in _types(spec.get("decoder"))
        self._normalizer = self._tokenizer.normalizer
        # What these change is never ASCII.
        self._keeps_ascii = _types(spec.get("normalizer")) <= {"NFC", "NFD", "NFKC", "NFKD", "Sequence"}
        self._spec = spec | {"added_tokens": added}

        vocabulary: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values()) + 1
        spelt = self.token_bytes()
        self.token_num_bytes: NDArray[np.int32] = np.array([len(piece) for piece in spelt], dtype=np.int32)
        self.ends_sentence: NDArray[np.bool_] = np.array(
            [_ends_sentence(piece.decode(errors="ignore")) for piece in spelt], dtype=np.bool_
        )

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of some tokens, special ones left out; a character that is cut shows as U+FFFD."""
        text: str = self._tokenizer.decode(token_ids, skip_special_tokens=True)
        return text

    def pieces_in_sequences(self) -> dict[str, int]:
        """Return the id of every piece that may stand in a sequence: all but the special ones that end no document."""
        end_of_document = self._tokenizer.id_to_token(self.end_of_document_id)
        special = {token["content"] for token in self._spec["added_tokens"] if token["special"]} - {end_of_document}
        vocabulary: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        return {piece: token_id for piece, token_id in vocabulary.items() if piece not in special}

    def token_bytes(self) -> list[bytes]:
        """Return the UTF-8 bytes that each token of the vocabulary stands for, as `token_num_bytes` counts them."""
        spelt = [b""] * self.vocab_size
        added = {token["id"]: token["special"] for token in self._spec["added_tokens"]}
        for piece, token_id in self._tokenizer.get_vocab(with_added_tokens=True).items():
            if not added.get(token_id, False):
                spelt[token_id] = piece.encode() if token_id in added else _piece_bytes(piece, self._is_byte_level)
        return spelt

    @cached_property
    def byte_ids(self) -> NDArray[np.int32] | None:
        """The token of each single byte, int32 of shape (256,); None where a text may hold a byte that has none."""
        if self._is_byte_level:
            pieces = {byte: piece for piece, byte in _BYTE_OF.items()}
        elif self._spec["model"].get("byte_fallback"):
            pieces = {byte: f"<0x{byte:02X}>" for byte in range(256)}
        else:
            return None
        found = [self._tokenizer.token_to_id(pieces[byte]) for byte in range(256)]
        return None if None in found else np.array(found, dtype=np.int32)

    def continuing(self) -> "PackingTokenizer":
        """Return the same tokenizer for texts that go on from others: it puts no space in front of them."""
        parts = {name: _with_nothing_in_front(self._spec.get(name)) for name in ("normalizer", "pre_tokenizer")}
        if all(self._spec.get(name) == part for name, part in parts.items()):
            return self
        return PackingTokenizer(self._spec | parts, end_of_document=self._end_of_document, named=self._named)

    @cached_property
    def fast_merges(self) -> FastMerges | None:
        """The faster way to the same ids, if there is one; a second or so for a large vocabulary to be sure of it."""
        return find_fast_merges(self._spec, self._tokenizer, _BYTE_OF)

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        """Encode texts on all cores; the GIL is free meanwhile. A text may have no tokens: look at `num_tokens`."""
        if not self._is_byte_level:
            return _joined([self._encode_with_offsets(text) for text in texts])
        num_tokens, token_ids = self._encode_batch(texts)
        fast, is_exact = self._from_bytes(texts, num_tokens, token_ids)
        if is_exact.all():
            return fast
        return _joined(
            [
                fast.texts(index, index + 1) if is_exact[index] else self._encode_with_offsets(text)
                for index, text in enumerate(texts)
            ]
        )

    def _encode_batch(self, texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        if self.fast_merges is not None:
            found = self.fast_merges.encode(texts)
            num_tokens = np.fromiter(map(len, found), dtype=np.int64, count=len(found))
            return num_tokens, np.concatenate([np.empty(0, np.int32), *found])
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        ids = [encoding.ids for encoding in encodings]
        del encodings  # they hold every token as a string, too
        num_tokens = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
        return num_tokens, np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=int(num_tokens.sum()))

    def _from_bytes(
        self, texts: Sequence[str], num_tokens: NDArray[np.int64], token_ids: NDArray[np.int32]
    ) -> tuple[EncodedTexts, NDArray[np.bool_]]:
        """Place tokens by their lengths in bytes; also tell for which texts that is exact."""
        content = [text.encode() for text in texts]
        text_byte_ends = np.cumsum(np.fromiter(map(len, content), dtype=np.int64, count=len(content)))
        text_bytes = np.frombuffer(b"".join(content), dtype=np.uint8)
        # A few megabytes are given at once: half the memory is half the time.
        width: type[np.int32 | np.int64] = np.int32 if max(len(text_bytes), len(token_ids)) < _FEW else np.int64
        token_byte_ends = np.cumsum(self.token_num_bytes[token_ids], dtype=width)
        token_text_ends = np.concatenate([[0], token_byte_ends])[np.cumsum(num_tokens)]
        is_exact = np.diff(token_text_ends, prepend=0) == np.diff(text_byte_ends, prepend=0)
        if self._normalizer is not None:
            is_exact &= [
                (self._keeps_ascii and text.isascii()) or self._normalizer.normalize_str(text) == text for text in texts
            ]
        places = token_byte_ends
        if not is_exact.all():  # an inexact text shifts those after it; put every token into its own text
            shift = np.repeat(np.concatenate([[0], (text_byte_ends - token_text_ends)[:-1]]), num_tokens)
            places = np.clip(token_byte_ends + shift, 0, len(text_bytes)).astype(width)
        starts = np.concatenate([[0], text_byte_ends[:-1]])
        if all(map(str.isascii, texts)):
            ends_character = np.ones(len(places), dtype=np.bool_)
        else:
            # One more at the end, where the last character ends.
            begins_character = np.append((text_bytes & 0xC0) != 0x80, True)
            chars_before = np.zeros(len(begins_character) + 1, dtype=width)
            np.cumsum(begins_character, out=chars_before[1:], dtype=width)
            ends_character, starts, places = begins_character[places], chars_before[starts], chars_before[places]
        char_ends: Any = places - np.repeat(starts.astype(width), num_tokens)  # of that width
        return EncodedTexts(
            num_tokens=num_tokens,
            token_ids=token_ids,
            char_ends=char_ends,
            ends_character=ends_character,
        ), is_exact

    def _encode_with_offsets(self, text: str) -> EncodedTexts:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        starts, ends = offsets[:, 0], offsets[:, 1]
        # Two tokens that share a character overlap.
        ends_character = np.append(starts[1:] >= ends[:-1], True)[: len(ends)]
        # What no token covers (a joined accent, a dropped space) belongs to the token before it.
        char_ends = np.maximum.accumulate(np.maximum(ends, np.append(starts[1:], len(text))[: len(ends)]))
        return EncodedTexts(
            num_tokens=np.array([len(ends)], dtype=np.int64),
            token_ids=np.array(encoding.ids, dtype=np.int32),
            char_ends=char_ends,
            ends_character=ends_character,
        )


def _joined(parts: list[EncodedTexts]) -> EncodedTexts:
    return EncodedTexts(
        num_tokens=np.concatenate([part.num_tokens for part in parts]),
        token_ids=np.concatenate([part.token_ids for part in parts]),
        char_ends=np.concatenate([part.char_ends for part in parts]),
        ends_character=np.concatenate([part.ends_character for part in parts]),
    )


def _ends_sentence(text: str) -> bool:
    return "\n" in text or text.rstrip(_CLOSERS).endswith(_SENTENCE_ENDS)


def _byte_alphabet() -> dict[str, int]:
    """Return the byte behind each character of byte-level vocabularies (GPT-2's table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTE_OF: Final = _byte_alphabet()


def _piece_bytes(piece: str, is_byte_level: bool) -> bytes:
    if is_byte_level and all(character in _BYTE_OF for character in piece):
        return bytes(_BYTE_OF[character] for character in piece)
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes.fromhex(piece[3:5])
    return piece.replace("▁", " ").encode()


def _with_nothing_in_front(part: Any) -> Any:
    """Return a tokenizer's component, and all that it holds, without what it puts in front of a text."""
    if isinstance(part, list):
        return [_with_nothing_in_front(one) for one in part if not _is_prepend(one)]
    if not isinstance(part, dict):
        return part
    if _is_prepend(part):
        return None
    changed = {name: _with_nothing_in_front(value) for name, value in part.items()}
    if changed.get("type") == "Metaspace":
        changed["prepend_scheme"] = "never"
    if "add_prefix_space" in changed:
        changed["add_prefix_space"] = False
    return changed


def _is_prepend(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "Prepend"


def _types(part: Any) -> set[str]:
    """Return the kinds of a tokenizer's component and of all that it holds."""
    if isinstance(part, list):
        return set().union(*map(_types, part))
    if not isinstance(part, dict):
        return set()
    own = {part["type"]} if isinstance(part.get("type"), str) else set()
    return own.union(*map(_types, part.values()))
