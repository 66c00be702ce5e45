"""`raw_corpus`: the source files with their sizes and content fingerprints."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from miniplm_assets.experiment import DemoSource
from miniplm_assets.lineage.fingerprints import RAW_CORPUS as NAME
from miniplm_assets.lineage.kind import ALL_FILES, Blueprint, Kind, Node
from miniplm_assets.lineage.plan import PlannedAsset, plan_on
from miniplm_assets.lineage.snapshot import Listing, look, make_latest, write_listing
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.store import Result


def _nodes(blueprint: Blueprint) -> Iterator[Node[Listing]]:
    experiment = blueprint.experiment
    source = experiment.corpus.source
    yield Node(
        kind=RAW_CORPUS,
        settings=Listing(
            source=source,
            warehouse=experiment.warehouse if isinstance(source, DemoSource) else None,
            expected_tokens=experiment.corpus.expected_tokens,
        ),
    )


def _make(work: Work[Listing]) -> Result:
    """Look at the corpus files and let the rest of the run work on what is seen."""
    store = work.pipeline.store
    snapshot = look(work.node, store, work.report)
    result = work.make_as(snapshot.recipe, partial(write_listing, snapshot))
    make_latest(snapshot, work.node, store)
    work.run.pin(snapshot)
    work.tally.notes["plan"] = _plan_table(plan_on(work.pipeline, snapshot))
    return result


def _plan_table(planned: Sequence[PlannedAsset]) -> list[dict[str, Any]] | str:
    """Return what a run of the whole graph has to do, a row an asset; what is stored is left out."""
    return [
        {
            "asset": one.key,
            "stored": one.num_stored,
            "to do": one.num_missing,
            "why": "; ".join(one.reasons),
            "tokens": one.num_tokens,
            "FLOPs": None if one.flops is None else float(one.flops),
            "seconds": one.seconds,
        }
        for one in planned
        if not one.is_complete
    ] or "everything is stored for the corpus as it is"


RAW_CORPUS = Kind(
    name=NAME,
    code_version="1",
    section="corpus",
    technologies=frozenset({"file"}),
    description="The corpus files with their sizes and content fingerprints. Nothing is copied.",
    nodes=_nodes,
    make=_make,
    table=ALL_FILES,
    columns={
        "shard": "name of the corpus file",
        "files": "where it lies; several where a folder of texts is one shard",
        "num_bytes": "size as stored, compressed or not",
        "fingerprint": "of its content",
    },
)
