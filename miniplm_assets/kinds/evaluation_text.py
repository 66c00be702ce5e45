"""`<name>/evaluation_text`: text beside the corpus that students are measured on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from miniplm_assets.core.facts import counts_in_words
from miniplm_assets.core.recipe import key_of
from miniplm_assets.corpus.evaluation_text import evaluation_files, read_evaluation_text
from miniplm_assets.experiment.sources import EvaluationText
from miniplm_assets.lineage.folders import require_copied
from miniplm_assets.lineage.kind import Blueprint, Check, Kind, Node
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.manifest import CheckOutcome
from miniplm_assets.storage.store import Draft, Result

TABLE: Final = "documents.parquet"
EVERY_ROW_IS_A_DOCUMENT: Final = Check(
    "every_row_is_a_document",
    "A failure means that some rows hold no text: the students are measured on fewer than there are.",
    is_blocking=False,
)


def _nodes(blueprint: Blueprint) -> Iterator[Node[EvaluationText]]:
    for name, text in blueprint.experiment.evaluation.texts.items():
        yield Node(kind=EVALUATION_TEXT, names=(name,), settings=text, folder=Path(text.path))


def _make(work: Work[EvaluationText]) -> Result:
    """Read all documents of a text."""

    def write(draft: Draft) -> None:
        place = Path(work.settings.path)
        documents, facts = read_evaluation_text(work.settings, evaluation_files(place))
        require_copied(work.node, draft.recipe, place)
        documents.write_parquet(draft.path / TABLE)
        draft.facts = dict(facts)
        num_rejected, reasons = facts["num_rejected"], counts_in_words(facts["rejected_per_reason"])
        draft.checks.append(
            CheckOutcome(
                name=EVERY_ROW_IS_A_DOCUMENT.name,
                passed=not num_rejected,
                description=f"{num_rejected:,} rows are no documents ({reasons})" if num_rejected else "",
                facts={"num_rejected": num_rejected},
            )
        )

    return work.make(write)


EVALUATION_TEXT = Kind(
    name="evaluation_text",
    code_version="1",
    section="text",
    technologies=frozenset({"parquet"}),
    description="One row for each document of a text beside the corpus, on which students are measured.",
    nodes=_nodes,
    make=_make,
    table=TABLE,
    checks=(EVERY_ROW_IS_A_DOCUMENT,),
    copied_files=evaluation_files,
    columns={
        "document_id": "its number, in the order of the files and rows",
        "domain": "as evaluation.texts.<name>.fields says; else the name of the file, or of the folder of plain texts",
        "text": "the whole text",
    },
)


def text_key(name: str) -> str:
    """Return the key of a text that students are measured on."""
    return key_of(EVALUATION_TEXT.name, name)
