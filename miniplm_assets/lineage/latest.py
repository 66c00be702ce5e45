"""What is shown at the top of the warehouse: results on the latest state of the corpus, whoever made them."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from miniplm_assets.core.errors import MissingResultError
from miniplm_assets.core.facts import PIECES
from miniplm_assets.lineage.fingerprints import RAW_CORPUS
from miniplm_assets.lineage.kind import Node
from miniplm_assets.lineage.snapshot import latest_state
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.latest import LATEST, View, show_latest, shown_fingerprint
from miniplm_assets.storage.store import Result, Store

# What tells that a result is the folder of a model, which is opened as a whole.
MODEL_CONFIG: Final = "config.json"
# What lies beside a table. Readers of a folder of tables pass over a folder whose name begins so.
MORE: Final = "__more__"


def place_result(
    work: Work[Any], what: str, place: Callable[[Result], None], placed_own: Callable[[], None] = lambda: None
) -> None:
    """Place the result of an asset on the latest state of the corpus, whoever has made it.

    Where a run on an older state ends last, what a newer one placed stays. Where the newer one has not come to it
    yet, it will.

    Args:
        work: the asset, made on the state that its run works on.
        what: is placed, in words.
        place: places a result.
        placed_own: called where that state is the latest, once its result is placed.
    """
    pipeline, own, placed = work.pipeline, work.run.snapshot(), None
    node, store = pipeline.graph[RAW_CORPUS], pipeline.store
    while placed != (latest := latest_state(node, store)):  # which another run may change meanwhile
        is_own = latest == own.recipe.fingerprint
        recipe = work.recipe if is_own else pipeline.latest_fingerprints().recipe(work.node.key)
        stored = store.find(recipe)
        if stored is None:
            work.report(f"{what} is left to the run on the latest state of the corpus, raw_corpus {latest}")
            return
        place(stored)
        if is_own:
            placed_own()
        placed = latest


def link_latest(work: Work[Any], result: Result) -> None:
    """Let `<warehouse>/latest/<asset key>` lead to the result of an asset, and say where it led elsewhere before.

    Args:
        work: the asset, made.
        result: of the whole asset, on the state of the corpus that its run works on.
    """
    name = f"{LATEST}/{work.node.key}"
    if work.node.inputs:
        place_result(work, name, lambda stored: _link(work, name, stored))
    # What follows from no corpus file needs no state of them; the listing is one.
    elif work.node.key != RAW_CORPUS or _is_latest_state(work, result):
        _link(work, name, result)


def _is_latest_state(work: Work[Any], listing: Result) -> bool:
    return latest_state(work.node, work.pipeline.store) == listing.manifest.fingerprint


def _link(work: Work[Any], name: str, result: Result) -> None:
    store, fingerprint = work.pipeline.store, result.manifest.fingerprint
    before = shown_fingerprint(store.root, work.node.key)
    if before == fingerprint:
        return
    files = dict(view_of(work.node, result, store))
    view = View(key=work.node.key, kind=work.node.kind.name, fingerprint=fingerprint, files=files)
    if not show_latest(store.root, view):
        work.report(f"{name} was not made: another asset's name, or a folder that is no link, is in its place")
    elif before is not None:
        work.report(f"{name} shows {fingerprint} from now on, and {before} no longer")


def view_of(node: Node[Any], result: Result, store: Store) -> Iterator[tuple[str, Path]]:
    """Go through what `latest` shows of a result: the path of each file there, and the stored file.

    A result is shown as it is where it is a model, or has no table; else its table lies at the top, and the rest in
    `__more__`. Of an asset in pieces: `part-00000-of-00004.parquet`, in the order of the corpus files; `seed=11/`,
    which readers of partitioned tables take for a column; the model of the first seed at the top.

    Args:
        node: the asset.
        result: of the whole.
        store: that holds it, and its pieces.

    Raises:
        MissingResultError: if a piece of it is gone.
    """
    pieces = {piece["piece"]: _piece(node, piece["fingerprint"], store) for piece in result.facts.get(PIECES, ())}
    if node.kind.pieces is None:
        yield from _laid_out(node, result)
    elif node.kind.pieces == "shard":
        yield from _parts(node, list(pieces.values()))
    else:
        for place, (seed, piece) in enumerate(pieces.items()):
            is_model = _is_as_it_is(node, piece)
            if place == 0 and is_model:
                yield from _laid_out(node, piece)
            if len(pieces) > 1 or not is_model:
                yield from _laid_out(node, piece, f"seed={seed}/")


def _piece(node: Node[Any], fingerprint: str, store: Store) -> Result:
    found = store.lookup(node.key, node.kind.name, fingerprint)
    if found is None:
        raise MissingResultError(
            f"{node.key}: its piece {fingerprint} is gone from {store.address}; materialise {node.key}"
        )
    return found


def _parts(node: Node[Any], pieces: Sequence[Result]) -> Iterator[tuple[str, Path]]:
    for number, piece in enumerate(pieces):
        tables = {file.name for file in piece.described(node.kind.table or "")}
        part = f"part-{number:05d}-of-{len(pieces):05d}"
        for file in piece.manifest.files:
            is_only = tables == {file.name}
            name = f"{part}.parquet" if is_only else f"{part}/{file.name}" if file.name in tables else None
            yield name or f"{MORE}/{part}/{file.name}", piece.folder / file.name


def _laid_out(node: Node[Any], result: Result, folder: str = "") -> Iterator[tuple[str, Path]]:
    tables = {file.name for file in result.described(node.kind.table or "")}
    as_it_is = _is_as_it_is(node, result)
    for file in result.manifest.files:
        place = "" if as_it_is or file.name in tables else f"{MORE}/"
        yield f"{place}{folder}{file.name}", result.folder / file.name


def _is_as_it_is(node: Node[Any], result: Result) -> bool:
    return node.kind.table is None or any(file.name == MODEL_CONFIG for file in result.manifest.files)
