"""`<name>/tokenizer`: from a hub, from a folder, or trained here."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from miniplm_assets.core.errors import ModelError
from miniplm_assets.core.recipe import key_of
from miniplm_assets.core.splits import REFERENCE
from miniplm_assets.corpus.encoding import PackingTokenizer
from miniplm_assets.corpus.tokenizer import fetch_tokenizer, load_tokenizer, tokenizer_files, train_tokenizer
from miniplm_assets.experiment import FolderTokenizer, HubTokenizer, TrainedTokenizer
from miniplm_assets.kinds.documents import DOCUMENTS
from miniplm_assets.lineage.folders import require_copied
from miniplm_assets.lineage.kind import Blueprint, Kind, Node
from miniplm_assets.lineage.page import Page, amount
from miniplm_assets.lineage.sizes import Sizes
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.store import Draft, Result

Source = HubTokenizer | FolderTokenizer | TrainedTokenizer


def _nodes(blueprint: Blueprint) -> Iterator[Node[Source]]:
    for name, source in blueprint.experiment.tokenizers.items():
        match source:
            case TrainedTokenizer():
                yield Node(
                    kind=TOKENIZER,
                    names=(name,),
                    inputs={DOCUMENTS.name: DOCUMENTS.name},
                    settings=source,
                    shards=source.shards,
                )
            case FolderTokenizer():
                yield Node(kind=TOKENIZER, names=(name,), settings=source, folder=Path(source.path))
            case HubTokenizer():
                yield Node(kind=TOKENIZER, names=(name,), settings=source)


def _make(work: Work[Source]) -> Result:
    """Fetch a tokenizer, or train one on the reference split."""
    source = work.settings

    def write(draft: Draft) -> None:
        if isinstance(source, TrainedTokenizer):
            texts = _texts(work.input_tables(DOCUMENTS.name), REFERENCE)
            train_tokenizer(texts, vocab_size=source.vocab_size, folder=draft.path)
        else:
            fetch_tokenizer(source, draft.path)
            require_copied(work.node, draft.recipe, draft.path)

    return work.make(write)


def _page(work: Work[Source], _result: Result) -> Page:
    match work.settings:
        case TrainedTokenizer(vocab_size=vocab_size, shards=shards):
            of = "" if shards == ("*",) else f" of {', '.join(shards)}"
            told = f"A byte-level BPE of {amount(vocab_size)} entries, trained here on the {REFERENCE} split{of}."
        case FolderTokenizer(path=path):
            told = f"A copy of the tokenizer in {path}."
        case HubTokenizer(id=name, revision=revision):
            told = f"A copy of the tokenizer of {name} at {revision}."
    return Page(outcome={"outcome": told})


def _texts(tables: list[Path], split: str) -> Iterator[str]:
    for table in tables:
        yield from pl.scan_parquet(table, glob=False).filter(pl.col("split") == split).select("text").collect()["text"]


TOKENIZER = Kind(
    name="tokenizer",
    code_version="1",
    section="tokenizer",
    technologies=frozenset({"huggingface"}),
    description="A tokenizer: from a hub, from a folder, or trained here on the reference split (byte-level BPE).",
    nodes=_nodes,
    make=_make,
    page=_page,
    copied_files=tokenizer_files,
)


def tokenizer_key(name: str) -> str:
    """Return the key of a tokenizer."""
    return key_of(TOKENIZER.name, name)


def tokenizer_problems(
    node: Node[Any], sizes: Sizes, role: str, require: Callable[[PackingTokenizer, str], None]
) -> Iterator[str]:
    """Say why a tokenizer that is here already cannot be used by an asset, if it cannot.

    Args:
        node: the asset.
        sizes: of the experiment.
        role: of the tokenizer among its inputs.
        require: raises ModelError where it cannot be used; takes the tokenizer, and what messages call it.
    """
    tokenizer = sizes.input_node(node, role)
    folder = None if isinstance(tokenizer.settings, TrainedTokenizer) else sizes.folder_of(tokenizer)
    if folder is None:  # what is trained here spells every text; of one that is fetched, making it will tell
        return
    try:
        require(load_tokenizer(folder, origin=tokenizer.key), tokenizer.key)
    except ModelError as error:
        yield str(error)
