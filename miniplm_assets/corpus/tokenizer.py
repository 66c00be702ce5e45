"""Tokenizers: trained here, or fetched from a hub or a folder; and loaded for packing.

A folder holds what transformers' AutoTokenizer reads. Packing needs more than ids: which token ends a
document, after which tokens a sentence may end, and where each token ends in the text.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

import tokenizers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from miniplm_assets.core.doors import explained_as
from miniplm_assets.core.errors import ModelError
from miniplm_assets.corpus.encoding import PackingTokenizer
from miniplm_assets.experiment.models import FolderTokenizer, HubTokenizer
from miniplm_assets.storage.hub import download
from miniplm_assets.storage.lfs import refuse_pointers

TOKENIZER_FILE: Final = "tokenizer.json"
CONFIG_FILE: Final = "tokenizer_config.json"
END_OF_DOCUMENT: Final = "<|endoftext|>"
# Everything that AutoTokenizer may ask for, and no weights.
TOKENIZER_FILES: Final = (
    "tokenizer*",
    "*token*.json",
    "vocab.*",
    "merges.txt",
    "spiece.model",
    "chat_template*",
)
# How Qwen splits a text into words: contractions, words with their space, single digits, punctuation, white space.
WORDS: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(texts: Iterator[str], *, vocab_size: int, folder: Path) -> None:
    """Train a byte-level BPE tokenizer; the same texts give the same tokenizer.

    All 256 bytes are in it, so that every text can be written and read back exactly. Its one special token ends a
    document and pads.

    Args:
        texts: what it learns from.
        vocab_size: entries, the special token included.
        folder: gets tokenizer.json and tokenizer_config.json.

    Raises:
        ModelError: if the texts are too few for so many entries.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    reached = tokenizer.get_vocab_size()
    if reached != vocab_size:
        raise ModelError(
            f"a tokenizer of {vocab_size:,} entries was asked for, but its texts (the reference split) yield only "
            f"{reached:,}. Lower vocab_size to {reached:,} or less, or give the reference split more text."
        )
    tokenizer.save(str(folder / TOKENIZER_FILE))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_DOCUMENT,
        "pad_token": END_OF_DOCUMENT,
        "clean_up_tokenization_spaces": False,
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def fetch_tokenizer(source: HubTokenizer | FolderTokenizer, folder: Path) -> None:
    """Copy a tokenizer's files into a folder.

    Raises:
        ModelError: if the hub has no such revision, the folder does not exist, or what is there is no tokenizer that
            can be used.
        UnreachableModelError: if the hub cannot be reached.
    """
    if isinstance(source, HubTokenizer):
        named = source.id
        origin = download(
            "tokenizer", repository=source.id, revision=source.revision, patterns=TOKENIZER_FILES, folder=None
        )
    else:
        named = source.path
        origin = Path(source.path)
        if not origin.is_dir():
            raise ModelError(
                f"tokenizer folder {origin} does not exist; check tokenizers.*.path in the experiment file"
            )
    refuse_pointers(tokenizer_files(origin), f"tokenizer {named}")
    for path in tokenizer_files(origin):
        shutil.copyfile(path, folder / path.name)
    load_tokenizer(folder, origin=named)


def tokenizer_files(folder: Path) -> list[Path]:
    """Return the files of a folder that make the tokenizer, by name."""
    return sorted({path for pattern in TOKENIZER_FILES for path in folder.glob(pattern) if path.is_file()})


def load_tokenizer(folder: Path, *, origin: str | None = None) -> PackingTokenizer:
    """Load a tokenizer for packing.

    Args:
        folder: where its files are.
        origin: what messages call it, where the folder is only a copy.

    Raises:
        ModelError: if there is no tokenizer.json, none that can be read, or no end-of-document (eos) token.
    """
    named = origin or str(folder)
    if not (folder / TOKENIZER_FILE).is_file():
        raise ModelError(
            f"tokenizer {named} has no {TOKENIZER_FILE}. Load it once with transformers.AutoTokenizer, "
            "save_pretrained() it to a folder, and name that folder."
        )
    with _readable(named, CONFIG_FILE):
        end_of_document = _end_of_document(folder)
    if end_of_document is None:
        raise ModelError(
            f"tokenizer {named} names no eos_token in {CONFIG_FILE}; packing needs one to end documents. Add it there."
        )
    with _readable(named, TOKENIZER_FILE):
        spec: dict[str, Any] = json.loads((folder / TOKENIZER_FILE).read_text(encoding="utf-8"))
        return PackingTokenizer(spec, end_of_document=end_of_document, named=named)


def _readable(named: str, file: str) -> AbstractContextManager[None]:
    return explained_as(
        ModelError,
        f"tokenizer {named}: {file} cannot be read by the installed tokenizers {tokenizers.__version__}",
        "fetch it again; or where a newer library wrote it, upgrade tokenizers",
    )


def _end_of_document(folder: Path) -> str | None:
    for name in (CONFIG_FILE, "special_tokens_map.json"):
        path = folder / name
        if path.is_file():
            token = json.loads(path.read_text(encoding="utf-8")).get("eos_token")
            if isinstance(token, dict):  # an AddedToken as transformers writes it
                token = token.get("content")
            if token is not None:
                return str(token)
    return None
