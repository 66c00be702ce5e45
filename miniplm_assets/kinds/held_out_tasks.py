"""`held_out_tasks`: tasks for lm-evaluation-harness that are made of the validation split."""

from collections.abc import Iterator

import polars as pl

from miniplm_assets.core.splits import VALIDATION
from miniplm_assets.evaluation.held_out_tasks import write_held_out_tasks
from miniplm_assets.experiment import Cloze
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.kinds.documents import DOCUMENTS
from miniplm_assets.lineage.kind import Blueprint, Kind, Node
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.store import Draft, Result


class HeldOut(Settings):
    """Which tasks are made, and of what.

    Attributes:
        names: of the tasks.
        cloze: how many documents, and how long their pieces are.
        excluded_domains: that no question is made of.
        seed: of the draws.
    """

    names: tuple[str, ...]
    cloze: Cloze
    excluded_domains: tuple[str, ...] = ()
    seed: int


def _nodes(blueprint: Blueprint) -> Iterator[Node[HeldOut]]:
    experiment = blueprint.experiment
    tasks = experiment.evaluation.tasks
    if tasks is None or not tasks.held_out_names:
        return
    yield Node(
        kind=HELD_OUT_TASKS,
        inputs={DOCUMENTS.name: DOCUMENTS.name},
        settings=HeldOut(
            names=tasks.held_out_names,
            cloze=tasks.held_out,
            excluded_domains=experiment.evaluation.excluded_domains,
            seed=experiment.seed,
        ),
    )


def _make(work: Work[HeldOut]) -> Result:
    """Make questions of held-out documents."""
    settings = work.settings

    def documents() -> Iterator[tuple[int, str, str]]:
        for table in work.input_tables(DOCUMENTS.name):
            rows = (
                pl.scan_parquet(table, glob=False)
                .filter(pl.col("split") == VALIDATION, ~pl.col("domain").is_in(settings.excluded_domains))
                .select("document_id", "domain", "text")
            )
            yield from rows.collect().iter_rows()

    def write(draft: Draft) -> None:
        num_questions = write_held_out_tasks(
            settings.names, documents(), settings.cloze, seed=settings.seed, folder=draft.path
        )
        draft.facts = {"num_questions": num_questions}

    return work.make(write)


HELD_OUT_TASKS = Kind(
    name="held_out_tasks",
    code_version="1",
    section="tasks",
    technologies=frozenset({"json"}),
    description="""Tasks made of the validation split, as lm-evaluation-harness reads them; they need no network.

`held_out_cloze`: which of four pieces of text goes on with a held-out document, its own or those of three others of its
domain. `held_out_bits_per_byte`: of these pieces.""",
    nodes=_nodes,
    make=_make,
)
