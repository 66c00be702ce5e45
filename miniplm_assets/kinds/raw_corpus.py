"""`raw_corpus`: the source files with their sizes and content fingerprints."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

import polars as pl

from miniplm_assets.corpus.files import LeftOut
from miniplm_assets.experiment import DemoSource
from miniplm_assets.kinds.origin_words import corpus_words
from miniplm_assets.lineage.fingerprints import RAW_CORPUS as NAME
from miniplm_assets.lineage.kind import ALL_FILES, Blueprint, Check, Kind, Node
from miniplm_assets.lineage.page import Cell, Page, Rows, amount, bytes_in_words
from miniplm_assets.lineage.plan import PlannedAsset, plan_on, require_possible
from miniplm_assets.lineage.snapshot import Listing, corpus_listing, look, make_latest, write_listing
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.manifest import CheckOutcome
from miniplm_assets.storage.places import local_folder
from miniplm_assets.storage.store import Result

# What fits on a page.
MAX_SHOWN: Final = 100
NOTHING_IS_LEFT_OUT = Check(
    "nothing_is_left_out",
    "A failure names files beside the corpus that look as if they were meant to be read, and are not.",
    is_blocking=False,
)


def _nodes(blueprint: Blueprint) -> Iterator[Node[Listing]]:
    experiment = blueprint.experiment
    source = experiment.corpus.source
    yield Node(
        kind=RAW_CORPUS,
        settings=Listing(
            source=source,
            warehouse=str(local_folder(experiment.warehouse)) if isinstance(source, DemoSource) else None,
            expected_tokens=experiment.corpus.expected_tokens,
        ),
    )


def _make(work: Work[Listing]) -> Result:
    """Look at the corpus files, unless the run was asked for what somebody saw; the rest of the run works on that."""
    store = work.pipeline.store
    asked = work.run.asked_snapshot()
    snapshot = look(work.node, store, work.report) if asked is None else asked
    left_out = snapshot.left_out if asked is None else corpus_listing(work.node, store).left_out
    result = work.make_as(snapshot.recipe, partial(write_listing, snapshot))
    work.run.pin(snapshot)
    if not make_latest(snapshot, work.node, store):
        work.report("somebody has looked at the corpus since: commands and other runs work on what was seen last")
    work.tally.checks.append(_nothing_left_out(left_out))
    if left_out:
        work.tally.notes["left_out"] = [{"name": one.name, "why": one.reason} for one in left_out[:MAX_SHOWN]]
        work.tally.notes["num_left_out"] = len(left_out)
    planned = plan_on(work.pipeline, snapshot)
    require_possible(planned)
    work.tally.notes["plan"] = _plan_table(planned)
    return result


def _nothing_left_out(left_out: Sequence[LeftOut]) -> CheckOutcome:
    suspects = [one for one in left_out if one.looks_like_corpus]
    shown = "\n".join(f"{one.name}: {one.reason}" for one in suspects[:MAX_SHOWN])
    return CheckOutcome(
        name=NOTHING_IS_LEFT_OUT.name,
        passed=not suspects,
        description=f"not read, though named like corpus ({len(suspects):,}):\n{shown}" if suspects else "",
        facts={"num_left_out": len(left_out), "num_that_look_like_corpus": len(suspects)},
    )


def _plan_table(planned: Sequence[PlannedAsset]) -> list[dict[str, Any]] | str:
    """Return what a run of the whole graph has to do, a row an asset; what is stored is left out."""
    return [
        {
            "asset": one.key,
            "to do": "?" if one.num_missing is None else f"{one.num_missing} of {one.num_missing + one.num_stored}",
            "why": "; ".join(one.reasons),
            "tokens": one.num_tokens,
            "seconds": one.seconds,
        }
        for one in planned
        if not one.is_complete
    ] or "everything is stored for the corpus as it is"


def _page(work: Work[Listing], result: Result) -> Page:
    num_files, size = result.facts["num_files"], bytes_in_words(result.facts["num_corpus_bytes"])
    [listing] = result.matching(ALL_FILES)
    shown = pl.scan_parquet(listing, glob=False).head(MAX_SHOWN).collect()
    files: list[list[Cell]] = [
        [name, bytes_in_words(num_bytes)] for name, num_bytes in shown.select("shard", "num_bytes").iter_rows()
    ]
    first, *others = dict.fromkeys(file.rpartition("/")[0] for file in shown["files"].explode()) or [""]
    return Page(
        outcome={
            "outcome": f"{amount(num_files)} corpus file{'s' if num_files != 1 else ''}, {size} as stored: "
            f"{corpus_words(work.settings.source)}.",
            "files": Rows(("corpus file", "size"), files),
        },
        made_of={"where they lie": first + (f" and {amount(len(others))} more folders" if others else "")},
    )


RAW_CORPUS = Kind(
    name=NAME,
    code_version="1",
    section="corpus",
    technologies=frozenset({"file"}),
    description="The corpus files with their sizes and content fingerprints. Nothing is copied.",
    nodes=_nodes,
    make=_make,
    page=_page,
    table=ALL_FILES,
    checks=(NOTHING_IS_LEFT_OUT,),
    columns={
        "shard": "name of the corpus file",
        "files": "where it lies; several where a folder of texts is one shard",
        "num_bytes": "size as stored, compressed or not",
        "fingerprint": "of its content",
    },
)
