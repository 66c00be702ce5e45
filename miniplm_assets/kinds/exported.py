"""`<student>/exported_student`, `<selection>/exported_corpus`: repository folders of a model hub, where asked for."""

from collections.abc import Iterator, Sequence
from typing import Final

from miniplm_assets.core.recipe import key_of
from miniplm_assets.kinds.exports import write_corpus, write_student
from miniplm_assets.kinds.publications import Publication, publication_of
from miniplm_assets.kinds.selection import DOMAIN_SHIFT, REFINED_CORPUS
from miniplm_assets.kinds.student_checkpoint import checkpoint_key
from miniplm_assets.kinds.student_evaluation import evaluation_key
from miniplm_assets.lineage.kind import Blueprint, Kind, Node
from miniplm_assets.lineage.origins import InputResults
from miniplm_assets.lineage.work import Work
from miniplm_assets.storage.store import Draft, Result

UPLOAD: Final = "Nothing is sent: `hf upload <repository> <folder> . --repo-type {}` does that."


def _inputs(publication: Publication, keys: Sequence[str]) -> dict[str, str]:
    return {key: key for key in [publication.key, *keys, *publication.cutoffs.values()]}


def _student_nodes(blueprint: Blueprint) -> Iterator[Node[Publication]]:
    graph = {node.key: node for node in blueprint.nodes}
    for name, published in blueprint.experiment.publishing.students.items():
        publication = publication_of(graph, checkpoint_key(name), published.license)
        yield Node(
            kind=EXPORTED_STUDENT,
            names=(name,),
            inputs=_inputs(publication, [evaluation_key(name)]),
            settings=publication,
        )


def _make_students(work: Work[Publication]) -> Result:
    """Write a folder for each seed: the card of each shows the figures of all."""
    shelf = InputResults(work)

    def write(draft: Draft) -> None:
        seeds = sorted(shelf.of_stored_seeds(work.settings.key))
        for seed in seeds:
            folder = draft.path / f"seed_{seed}"
            folder.mkdir()
            write_student(work.settings, shelf, seed, folder)
        draft.facts = {"license": work.settings.license, "num_models": len(seeds)}

    return work.make(write)


def _corpus_nodes(blueprint: Blueprint) -> Iterator[Node[Publication]]:
    graph = {node.key: node for node in blueprint.nodes}
    for name, published in blueprint.experiment.publishing.selections.items():
        publication = publication_of(graph, key_of(REFINED_CORPUS, name), published.license)
        yield Node(
            kind=EXPORTED_CORPUS,
            names=(name,),
            inputs=_inputs(publication, [key_of(DOMAIN_SHIFT, name)]),
            settings=publication,
        )


def _make_corpus(work: Work[Publication]) -> Result:
    """Write the folder of a refined corpus."""

    def write(draft: Draft) -> None:
        write_corpus(work.settings, InputResults(work), draft.path)
        draft.facts = {"license": work.settings.license}

    return work.make(write)


EXPORTED_STUDENT = Kind(
    name="exported_student",
    code_version="1",
    section="student",
    technologies=frozenset({"huggingface"}),
    description=f"""A student as a repository of a model hub: a folder `seed_<seed>` for each, with its card.

{UPLOAD.format("model")}""",
    nodes=_student_nodes,
    make=_make_students,
)
EXPORTED_CORPUS = Kind(
    name="exported_corpus",
    code_version="1",
    section="selection",
    technologies=frozenset({"huggingface", "parquet"}),
    description=f"""A refined corpus as a repository of a hub: Parquet files, a card, a Croissant description.

It is a copy, as large as the refined corpus itself. {UPLOAD.format("dataset")}""",
    nodes=_corpus_nodes,
    make=_make_corpus,
)
