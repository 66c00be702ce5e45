"""What is told of a student or a refined corpus that is published, as far as it follows from the experiment alone."""

from collections.abc import Mapping
from typing import Any, Final

from miniplm_assets.core.recipe import key_of
from miniplm_assets.experiment.settings import Settings
from miniplm_assets.experiment.sources import HuggingFaceSource
from miniplm_assets.kinds.agreement import CUTOFF
from miniplm_assets.kinds.generated_corpus import GENERATED_CORPUS
from miniplm_assets.kinds.origin_words import MODEL_KINDS, corpus_words, in_words, selection_words, source_words
from miniplm_assets.kinds.refined_sequences import REFINED_SEQUENCES
from miniplm_assets.kinds.selection import REFINED_CORPUS
from miniplm_assets.kinds.student_checkpoint import STUDENT_CHECKPOINT, Schooling
from miniplm_assets.lineage.fingerprints import RAW_CORPUS
from miniplm_assets.lineage.kind import Node
from miniplm_assets.lineage.origins import behind, without_local_places

OWN_TAG: Final = "miniplm_assets"
WORDS_OF_CORPUS: Final = {
    REFINED_CORPUS: "what the selection {} keeps",
    REFINED_SEQUENCES.name: "what the selection {} keeps, in tokens of its own",
    GENERATED_CORPUS.name: "the texts of {}",
}
# Whose models a selection by difference needs.
BOTH: Final = frozenset({"teacher", "reference"})


class Step(Settings):
    """An asset behind what is published, or that itself: all of it but its fingerprint."""

    key: str
    code_version: str
    settings: dict[str, Any]
    inputs: dict[str, str]


class Publication(Settings):
    """What is told of something that is published.

    Attributes:
        key: of the asset.
        license: of the hub; None where none is stated.
        corpus_id: of the data set on the hub that the corpus is, if it is one.
        learnt_from: of a student, what it learnt from.
        made: how it was made, a row a thing.
        selections: the settings of each selection behind it, in words.
        columns: of a corpus, what each holds.
        tags: of its repository.
        is_by_difference: whether a teacher and a reference decided what is in its corpus.
        steps: the assets behind it, itself last.
    """

    key: str
    license: str | None = None
    corpus_id: str | None = None
    learnt_from: str | None = None
    made: dict[str, str]
    selections: dict[str, str]
    columns: dict[str, str]
    tags: tuple[str, ...]
    is_by_difference: bool
    steps: tuple[Step, ...]

    @property
    def name(self) -> str:
        """Of the student or the selection."""
        return self.key.partition("/")[0]

    @property
    def cutoffs(self) -> dict[str, str]:
        """The key of the cutoff of each selection behind it, by its name."""
        return {name: key_of(CUTOFF, name) for name in self.selections}


def publication_of(graph: Mapping[str, Node[Any]], key: str, license_id: str | None) -> Publication:
    """Return what is told of a student or a refined corpus.

    Args:
        graph: the assets by key, with all that is behind it.
        key: of the student's checkpoints, or of the refined corpus.
        license_id: of the hub; None where none is stated.
    """
    node, nodes = graph[key], behind(graph, key)
    source = graph[RAW_CORPUS].settings.source
    is_student = node.kind is STUDENT_CHECKPOINT
    is_by_difference = _is_by_difference(graph, node)
    distilled = ("knowledge-distillation",) if "teacher" in _model_sections(nodes) else ()
    method = ("difference-sampling", "miniplm") if is_by_difference else ()
    return Publication(
        key=key,
        license=license_id,
        corpus_id=source.id if isinstance(source, HuggingFaceSource) else None,
        learnt_from=_learnt_from(node) if is_student else None,
        made={
            "corpus": corpus_words(source),
            **source_words(nodes),
            **(_schooling_words(node.settings) if is_student else {}),
        },
        selections=selection_words(nodes),
        columns={} if is_student else dict(node.kind.columns),
        tags=(
            *(OWN_TAG, "pre-training", *distilled, *method),
            *([node.settings.architecture["model_type"]] if is_student else []),
        ),
        is_by_difference=is_by_difference,
        steps=tuple(
            Step(
                key=one.key,
                code_version=one.kind.code_version,
                settings=without_local_places(one.settings.identity()),
                inputs=dict(one.inputs),
            )
            for one in [*nodes, node]
        ),
    )


def _learnt_from(node: Node[Any]) -> str:
    """Return what a student learnt from, in words."""
    for role, words in WORDS_OF_CORPUS.items():
        if role in node.inputs:
            return words.format(node.inputs[role].partition("/")[0])
    return "all candidates of the corpus"


def _schooling_words(settings: Schooling) -> dict[str, str]:
    objective = settings.objective
    return {
        "objective": in_words({"type": objective.type} | objective.identity()),
        "architecture": in_words(settings.architecture),
        "training": f"{in_words(settings.training.identity())}; the rest is the default",
    }


def _is_by_difference(graph: Mapping[str, Node[Any]], node: Node[Any]) -> bool:
    selected = (node.inputs.get(role) for role in (REFINED_CORPUS, REFINED_SEQUENCES.name))
    refined = node.key if node.kind.name == REFINED_CORPUS else next(filter(None, selected), None)
    return refined is not None and _model_sections(behind(graph, refined)) >= BOTH


def _model_sections(nodes: list[Node[Any]]) -> frozenset[str]:
    return frozenset(node.kind.section for node in nodes if node.kind.name in MODEL_KINDS)
